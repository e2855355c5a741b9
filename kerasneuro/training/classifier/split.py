"""Divide a cohort into training, validation and test so that nobody is in two of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from kerasneuro.errors import InvalidOption, MissingDependency
from kerasneuro.training.classifier.cohort import SUBSETS, Sample
from kerasneuro.training.classifier.config import SplitSettings


def split_cohort(samples: Sequence[Sample], settings: SplitSettings) -> tuple[str, ...]:
    """Give every sample its subset.

    The samples of a person stay together; the parts have, as far as that allows, the same shares of each site
    and class. A cohort that names the subsets itself is only checked.

    Parameters
    ----------
    samples : sequence of Sample
        Labelled.
    settings : SplitSettings
        Number of parts, which of them are validation and test, and the seed.

    Returns
    -------
    tuple of str
        "training", "validation" or "test", in the order of `samples`.

    Raises
    ------
    InvalidOption
        If there are fewer subjects than folds, a person would be in two subsets, a subset is empty or has
        one class only, or only some samples name their subset.
    MissingDependency
        If scikit-learn is not installed.
    """
    given = [sample.split for sample in samples]
    if all(given):
        subsets = given
    elif any(given):
        raise InvalidOption(
            f"{given.count('')} of {len(given)} samples have no split; fill the column for all, or for none"
        )
    else:
        folds = assign_folds(samples, settings)
        parts = {settings.test_fold: "test", settings.validation_fold: "validation"}
        subsets = [parts.get(fold, "training") for fold in folds]
    check_split(samples, subsets)
    return tuple(subsets)


def assign_folds(samples: Sequence[Sample], settings: SplitSettings) -> list[int]:
    """Give every sample the number of its part, 0 ... folds - 1."""
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise MissingDependency(
            "dividing a cohort needs scikit-learn; install it with: pip install 'kerasneuro[train]'"
        ) from error
    subjects = sorted({sample.subject for sample in samples})
    if len(subjects) < settings.folds:
        raise InvalidOption(
            f"expected at least as many subjects as folds, found {len(subjects)} subjects for "
            f"{settings.folds} folds; set split.folds lower, or add subjects"
        )
    if settings.test_fold == settings.validation_fold or (
        max(settings.test_fold, settings.validation_fold) >= settings.folds
    ):
        raise InvalidOption(
            f"split.test_fold and split.validation_fold are two different numbers below split.folds "
            f"({settings.folds}), found {settings.test_fold} and {settings.validation_fold}"
        )
    strata = np.unique([f"{sample.site}\n{sample.label}" for sample in samples], return_inverse=True)[1]
    groups = np.searchsorted(subjects, [sample.subject for sample in samples])
    folds = np.zeros(len(samples), int)
    divider = StratifiedGroupKFold(settings.folds, shuffle=True, random_state=settings.seed)
    with warnings.catch_warnings():
        # A site with few people of a class cannot be in every part; check_split looks at what counts.
        warnings.simplefilter("ignore", UserWarning)
        try:
            for number, (_, held_out) in enumerate(divider.split(strata, strata, groups)):
                folds[held_out] = number
        except ValueError as error:
            raise InvalidOption(
                f"the cohort cannot be divided into {settings.folds} parts by site and class ({error}); "
                "set split.folds lower, or name the subsets in a column split"
            ) from error
    return folds.tolist()


def check_split(samples: Sequence[Sample], subsets: Sequence[str]) -> None:
    """Refuse a division in which a person or a file is in two subsets, or a subset misses a class.

    Raises
    ------
    InvalidOption
        In these cases.
    """
    for what in ("subject", "name"):
        places: dict[str, str] = {}
        for sample, subset in zip(samples, subsets, strict=True):
            key = getattr(sample, what)
            if places.setdefault(key, subset) != subset:
                raise InvalidOption(
                    f"{key} is in the subsets {places[key]} and {subset}; all samples of a person belong "
                    "into one"
                )
    classes = {sample.label for sample in samples}
    if len(classes) < 2:
        raise InvalidOption(f"expected samples of two classes or more, found one class only ({classes})")
    for subset in SUBSETS:
        found = {sample.label for sample, its in zip(samples, subsets, strict=True) if its == subset}
        if len(found) < 2:
            what = f"one class only ({found.pop()})" if found else "no sample"
            raise InvalidOption(
                f"expected samples of every class in the {subset} subset, found {what}; choose another "
                "split.seed, fewer split.folds, or name the subsets in a column split"
            )
