"""The arrays of a SynthMorph file, told by names and ranks: layers by kind, and the network they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kerasneuro.errors import WeightsMismatch
from kerasneuro.weights import WeightStore

# Kinds of layers -> names of their arrays. Kernels that were computed from a hypernetwork are ours: "fixed".
HYPER = ("hyperkernel_kernel", "hyperkernel_bias", "hyperbias_kernel", "hyperbias_bias")
WEIGHTS = {
    "convolution": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "hyper": HYPER,
    "fixed": ("kernel", "bias"),
}
# Network -> the kinds of layers that it may have.
KINDS = {"affine": {"convolution"}, "rigid": {"convolution"}, "deform": {"dense", "hyper", "fixed"}}
EXPECTED = {
    "affine": "the convolutions of an affine network",
    "rigid": "the convolutions of a rigid network",
    "deform": "a deformable network with its hypernetwork",
}
FIXED = "hyper_conv_from_dense"


def network_arrays(store: WeightStore, network: str) -> WeightStore:
    """Return the arrays of one network from a file that may hold two, an affine and a deformable one.

    Raises
    ------
    WeightsMismatch
        If the file does not hold that network.
    """
    layers = file_layers(store)
    kinds = KINDS[network]
    if not any(layers[kind] for kind in kinds):
        raise WeightsMismatch(
            f"{store.path} holds {describe(layers)}, expected {EXPECTED[network]}; give the file of "
            f"synthmorph-{network}"
        )
    others = {layer for kind in set(WEIGHTS) - kinds for layer in layers[kind]}
    if not others:
        return store
    arrays = {key: array for key, array in store.items() if key.rpartition("/")[0] not in others}
    kept = ((name, tuple(key for key in keys if key in arrays)) for name, keys in store.layers)
    return WeightStore(
        store.path,
        store.format,
        arrays,
        layers=tuple((name, keys) for name, keys in kept if keys),
        attributes=store.attributes,
        close=store.close,
    )


def file_layers(store: WeightStore) -> dict[str, list[str]]:
    """List the layers of a file by kind, in the order of the file; what is none of ours is left out."""
    arrays: dict[str, set[str]] = {}
    for key in store:
        layer, _, weight = key.rpartition("/")
        arrays.setdefault(layer, set()).add(weight)
    found: dict[str, list[str]] = {kind: [] for kind in WEIGHTS}
    for layer, weights in arrays.items():
        kind = _kind(store, layer, weights)
        if kind:
            found[kind].append(layer)
    return found


def _kind(store: WeightStore, layer: str, weights: set[str]) -> str | None:
    if weights == set(HYPER):
        return "hyper"
    if weights != {"kernel", "bias"}:
        return None
    rank = len(store[f"{layer}/kernel"].shape)
    if rank == 2:
        return "dense"
    if rank not in (4, 5):
        return None
    return "fixed" if layer.rpartition("/")[2].startswith(FIXED) else "convolution"


def describe(layers: Mapping[str, Sequence[str]]) -> str:
    """Write the layers of a file for a message."""
    words = {
        "convolution": "convolutions",
        "dense": "dense layers",
        "hyper": "convolutions of a hypernetwork",
        "fixed": "convolutions with computed kernels",
    }
    return ", ".join(f"{len(names)} {words[kind]}" for kind, names in layers.items() if names) or (
        "none of the layers of SynthMorph"
    )
