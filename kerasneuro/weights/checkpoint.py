"""Find the weights of a network inside a training checkpoint."""

from __future__ import annotations

from kerasneuro.errors import WeightsMismatch
from kerasneuro.weights.store import WeightStore


def unwrap(store: WeightStore, anchor: str | None, root: str | None = None) -> WeightStore:
    """Return the part of a PyTorch checkpoint that holds one network, under the network's own names.

    Training programs put a state dict beside the state of the optimiser, and a network into a larger module:
    ``state_dict.model.conv.weight`` (Lightning), ``module.conv.weight`` (several GPUs).

    Parameters
    ----------
    store : WeightStore
        The open file.
    anchor : str, optional
        A key that every file of the network has; without it the file is taken as it is.
    root : str, optional
        Where the network lies in a checkpoint of its own training program; chosen where there are several.

    Returns
    -------
    WeightStore
        The arrays below the prefix that leads to the anchor; the whole file if there is none.

    Raises
    ------
    WeightsMismatch
        If the anchor is found in several places.
    """
    if anchor is None or anchor in store or not store.format.startswith("torch"):
        return store
    prefixes = [key.removesuffix(anchor) for key in store if key.endswith(f".{anchor}")]
    prefixes = [prefix for prefix in prefixes if root and prefix.startswith(f"{root}.")] or prefixes
    if len(prefixes) > 1:
        raise WeightsMismatch(
            f"{store.path} holds several networks ({', '.join(prefixes)}...), expected one; "
            "save the state dict of one of them alone"
        )
    return store.sub_prefix(prefixes[0]) if prefixes else store
