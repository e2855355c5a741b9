"""Maps of embeddings in two dimensions: UMAP and t-SNE."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption, MissingDependency

NAMES = {"umap": "UMAP", "tsne": "t-SNE"}
PACKAGES = {"umap": "umap", "tsne": "sklearn"}
NEIGHBOURS, PERPLEXITY = 15, 30.0
LEAST = 8  # samples


def require_maps(names: tuple[str, ...]) -> None:
    """Make sure that the packages of some maps are installed.

    Raises
    ------
    InvalidOption
        If a map is unknown.
    MissingDependency
        If a package is missing; scikit-learn is needed in any case.
    """
    if find_spec("sklearn") is None:
        raise MissingDependency(
            "an evaluation page needs scikit-learn; install it with: pip install 'kerasneuro[evaluation]'"
        )
    for name in names:
        if name not in NAMES:
            raise InvalidOption(f"expected maps of {', '.join(NAMES)}, found {name!r}")
        if find_spec(PACKAGES[name]) is None:
            raise MissingDependency(
                f"a {NAMES[name]} map needs another package; install it with: "
                "pip install 'kerasneuro[evaluation]', or leave this map out"
            )


def make_map(name: str, embeddings: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Place embeddings in a plane so that neighbours stay neighbours.

    Parameters
    ----------
    name : {"umap", "tsne"}
        The method.
    embeddings : numpy.ndarray
        Shape ``(N, F)``; each feature is standardised first.
    seed : int
        Of the method's draws.

    Returns
    -------
    numpy.ndarray or None
        Shape ``(N, 2)``; None for fewer than 8 samples, or samples that are all the same.

    References
    ----------
    L. McInnes et al., UMAP, arXiv:1802.03426; L. van der Maaten and G. Hinton, JMLR 9 (2008) 2579-2605.
    """
    require_maps((name,))
    spread = embeddings.std(axis=0)
    alive = spread > 0
    if len(embeddings) < LEAST or not alive.any():
        return None
    features = ((embeddings - embeddings.mean(axis=0))[:, alive] / spread[alive]).astype(np.float32)
    method = _umap(len(features), seed) if name == "umap" else _tsne(len(features), seed)
    with warnings.catch_warnings():
        # UMAP warns that a seed means one thread, and of matrices that it turns into others.
        warnings.simplefilter("ignore")
        return np.asarray(method.fit_transform(features), dtype=np.float64)


def _umap(count: int, seed: int) -> Any:
    part = "umap.parametric_umap"
    unneeded = part not in sys.modules
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if unneeded:
            # This part of the package would import TensorFlow; the package does without it where it fails.
            sys.modules[part] = None  # type: ignore[assignment]
        try:
            from umap import UMAP
        finally:
            if unneeded:
                del sys.modules[part]
    return UMAP(n_neighbors=min(NEIGHBOURS, count - 1), random_state=seed, n_jobs=1)


def _tsne(count: int, seed: int) -> Any:
    from sklearn.manifold import TSNE

    return TSNE(perplexity=min(PERPLEXITY, (count - 1) / 3), init="random", random_state=seed)
