"""ComBat: take the effect of the site out of features, as a scikit-learn transformer.

Source: W. E. Johnson et al., Biostatistics 8 (2007) 118-127, doi:10.1093/biostatistics/kxj037;
J.-P. Fortin et al., NeuroImage 167 (2018) 104-120, doi:10.1016/j.neuroimage.2017.11.024. Numbers as of
neuroCombat 0.2.12, whose priors are those of a site over all features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption, MissingDependency

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError as error:
    raise MissingDependency(
        "harmonisation needs scikit-learn; install it with: pip install 'kerasneuro[train]'"
    ) from error

CONVERGED = 1e-4
MOST_STEPS = 10_000
ARRAYS = ("grand_mean_", "slopes_", "pooled_variance_", "gamma_star_", "delta_star_")


class ComBat(TransformerMixin, BaseEstimator):
    """Fit location and scale of each site on one set of samples, and take them out of any other.

    Parameters
    ----------
    empirical_bayes : bool
        Shrink the estimates of a site towards their mean over the features.
    mean_only : bool
        Leave the variances as they are.
    unseen_site : {"refuse", "keep"}
        What `transform` does with a site that `fit` has not seen.

    Attributes
    ----------
    sites_ : tuple of str
        As seen by `fit`, sorted.
    grand_mean_, pooled_variance_ : numpy.ndarray
        Shape ``(F,)``, float64.
    slopes_ : numpy.ndarray
        Shape ``(V, F)``: of the covariates.
    gamma_hat_, delta_hat_, gamma_star_, delta_star_ : numpy.ndarray
        Shape ``(S, F)``: estimates of each site, and the same after shrinking.

    Examples
    --------
    >>> from kerasneuro.training.classifier.harmonise import ComBat
    >>> combat = ComBat().fit(training, sites=sites)  # doctest: +SKIP
    >>> combat.transform(test, sites=test_sites)  # doctest: +SKIP
    """

    def __init__(
        self, empirical_bayes: bool = True, mean_only: bool = False, unseen_site: str = "refuse"
    ) -> None:
        self.empirical_bayes = empirical_bayes
        self.mean_only = mean_only
        self.unseen_site = unseen_site

    def fit(
        self, X: np.ndarray, y: Any = None, *, sites: Sequence[Any], covariates: np.ndarray | None = None
    ) -> ComBat:
        """Estimate the effects of the sites.

        Parameters
        ----------
        X : numpy.ndarray
            Features, shape ``(N, F)``.
        y
            Not used.
        sites : sequence
            Site of each sample.
        covariates : numpy.ndarray, optional
            Shape ``(N, V)``: numbers whose effect is kept; write categories as 0 and 1.

        Returns
        -------
        ComBat
            Itself.

        Raises
        ------
        InvalidOption
            If there is one site only, a site has one sample, a feature never changes, or the covariates
            cannot be told from the sites.
        """
        X, extra = _features(X), _covariates(covariates, len(X))
        names = [str(site) for site in sites]
        self.sites_ = tuple(sorted(set(names)))
        of_site = np.array([self.sites_.index(name) for name in names])
        counts = np.bincount(of_site)
        self._check(X, counts, len(names))
        indicator = np.eye(len(counts))[of_site]
        design = np.hstack([indicator, extra])
        if np.linalg.matrix_rank(design) < design.shape[1]:
            raise InvalidOption(
                "the covariates of the harmonisation cannot be told from the sites (each is a sum of the "
                "others); leave one out of harmonise.covariates"
            )
        effects = np.linalg.solve(design.T @ design, design.T @ X)
        self.slopes_ = effects[len(counts) :]
        self.grand_mean_ = counts / len(X) @ effects[: len(counts)]
        self.pooled_variance_ = np.mean((X - design @ effects) ** 2, axis=0)
        if not np.all(self.pooled_variance_ > 0):
            raise InvalidOption("a feature of the harmonisation never changes within the sites; leave it out")
        standard = self._standardise(X, extra)
        self.gamma_hat_ = np.stack([standard[of_site == site].mean(axis=0) for site in range(len(counts))])
        self.delta_hat_ = np.ones_like(self.gamma_hat_)
        if not self.mean_only:
            spreads = [standard[of_site == site].var(axis=0, ddof=1) for site in range(len(counts))]
            self.delta_hat_ = np.stack(spreads)
        stars = [self._shrink(standard[of_site == site], site) for site in range(len(counts))]
        self.gamma_star_, self.delta_star_ = (np.stack(part) for part in zip(*stars, strict=True))
        return self

    def transform(
        self, X: np.ndarray, *, sites: Sequence[Any], covariates: np.ndarray | None = None
    ) -> np.ndarray:
        """Take the effects of the sites out of features ``(N, F)``; float64.

        Raises
        ------
        InvalidOption
            If a site was not seen by `fit` (unless `unseen_site` is "keep"), or the shapes do not fit.
        """
        X, extra = _features(X), _covariates(covariates, len(X))
        if X.shape[1] != len(self.grand_mean_) or extra.shape[1] != len(self.slopes_):
            raise InvalidOption(
                f"expected {len(self.grand_mean_)} features and {len(self.slopes_)} covariates, as in fit, "
                f"found {X.shape[1]} and {extra.shape[1]}"
            )
        standard = self._standardise(X, extra)
        result = X.copy()
        for row, site in enumerate(str(site) for site in sites):
            if site in self.sites_:
                index = self.sites_.index(site)
                harmonised = (standard[row] - self.gamma_star_[index]) / np.sqrt(self.delta_star_[index])
                centre = self.grand_mean_ + extra[row] @ self.slopes_
                result[row] = harmonised * np.sqrt(self.pooled_variance_) + centre
            elif self.unseen_site != "keep":
                raise InvalidOption(
                    f"the site {site!r} is not among those of the training subset "
                    f"({', '.join(self.sites_)}); keep unseen sites as they are (harmonise.unseen_site: "
                    "keep, or --keep-unseen-sites), or leave its samples out"
                )
        return result

    def fit_transform(self, X: np.ndarray, y: Any = None, **fit_params: Any) -> np.ndarray:
        """Do `fit`, then `transform`, on the same samples."""
        return self.fit(X, y, **fit_params).transform(X, **fit_params)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `transform` needs, as arrays of float64 for a flat weight file."""
        return {name.rstrip("_"): getattr(self, name) for name in ARRAYS}

    def texts(self) -> dict[str, str]:
        """Return the parameters and the sites, as texts for a flat weight file."""
        return {"combat": json.dumps({**self.get_params(), "sites": list(self.sites_)})}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> ComBat:
        """Rebuild a fitted transformer from what `arrays` and `texts` gave."""
        parameters = json.loads(texts["combat"])
        sites = parameters.pop("sites")
        combat = cls(**parameters)
        combat.sites_ = tuple(sites)
        for name in ARRAYS:
            setattr(combat, name, np.asarray(arrays[name.rstrip("_")], dtype=np.float64))
        return combat

    def _standardise(self, X: np.ndarray, extra: np.ndarray) -> np.ndarray:
        centred = X - self.grand_mean_ - extra @ self.slopes_
        return centred / np.sqrt(self.pooled_variance_)

    def _check(self, X: np.ndarray, counts: np.ndarray, names: int) -> None:
        if names != len(X):
            raise InvalidOption(f"expected one site for each sample, found {names} for {len(X)}")
        if len(counts) < 2:
            raise InvalidOption(f"harmonisation needs two sites or more, found {', '.join(self.sites_)}")
        small = [site for site, count in zip(self.sites_, counts, strict=True) if count < 2]
        if small:
            raise InvalidOption(
                f"harmonisation needs two training samples or more of each site, found one of "
                f"{', '.join(small)}; join small sites, or leave them out"
            )
        if self.empirical_bayes and X.shape[1] < 2:
            raise InvalidOption(
                "shrinking needs two features or more, found one; set harmonise.empirical_bayes to false"
            )

    def _shrink(self, standard: np.ndarray, site: int) -> tuple[np.ndarray, np.ndarray]:
        """Return gamma* and delta* of one site, from its standardised features ``(n, F)``."""
        gamma_hat, delta_hat = self.gamma_hat_[site], self.delta_hat_[site]
        if not self.empirical_bayes:
            return gamma_hat, delta_hat
        centre, spread = gamma_hat.mean(), gamma_hat.var(ddof=1)
        if self.mean_only:
            # neuroCombat's form: a site weighs as one sample, whatever its size.
            return (spread * gamma_hat + centre) / (spread + 1), delta_hat
        mean, variance = delta_hat.mean(), delta_hat.var(ddof=1)
        shape = (2 * variance + mean**2) / variance
        rate = (mean * variance + mean**3) / variance
        count = len(standard)
        gamma, delta = gamma_hat, delta_hat
        for _ in range(MOST_STEPS):
            new_gamma = (count * spread * gamma_hat + delta * centre) / (count * spread + delta)
            squares = ((standard - new_gamma) ** 2).sum(axis=0)
            new_delta = (rate + 0.5 * squares) / (count / 2 + shape - 1)
            change = max(
                np.max(np.abs(new_gamma - gamma) / np.abs(gamma)),
                np.max(np.abs(new_delta - delta) / np.abs(delta)),
            )
            gamma, delta = new_gamma, new_delta
            if change < CONVERGED:
                break
        return gamma, delta


def _features(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or not np.isfinite(X).all():
        raise InvalidOption(f"expected finite features of shape (N, F), found shape {X.shape}")
    return X


def _covariates(covariates: np.ndarray | None, count: int) -> np.ndarray:
    if covariates is None:
        return np.zeros((count, 0))
    extra = np.asarray(covariates, dtype=np.float64).reshape(count, -1)
    if not np.isfinite(extra).all():
        raise InvalidOption(
            "a covariate of the harmonisation is missing for some samples; fill it, or leave it out"
        )
    return extra
