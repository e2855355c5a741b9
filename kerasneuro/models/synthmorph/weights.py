"""Which array of a SynthMorph file goes to which variable, in every layout of ``save_weights`` of Keras 2.

The original loads by order, so names in a file may carry any counter and any name of an outer model:
``conv3d_17/kernel``, ``model_3/hyper_conv_from_dense_2/hyperkernel_kernel``. Layers are told by the names of
their arrays here, and belong to ours of the same kind in the order of the file.

Source: freesurfer/freesurfer@2015394, mri_synthmorph/synthmorph/registration.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import InvalidOption, WeightsMismatch
from kerasneuro.models.synthmorph.arrays import FIXED, WEIGHTS, describe, file_layers, network_arrays
from kerasneuro.weights import Original, WeightStore

if TYPE_CHECKING:
    import keras

    from kerasneuro.registry import ModelCard

KERNEL = 3
REGULARISATION = 0.5  # for which the deformable network is specialised unless told otherwise


def open_part(config: Mapping[str, Any], path: Path, sha256: str | None) -> WeightStore | None:
    """Open the file of the hypernetwork as the kernels for one regularisation, computed while it is read.

    Parameters
    ----------
    config : mapping
        Arguments of `graph.build`; ``specialised=False`` keeps the hypernetwork.
    path : Path
        The file.
    sha256 : str, optional
        What the file must be.

    Returns
    -------
    WeightStore or None
        None if the file is to be read as it is.
    """
    if config.get("network") != "deform" or not config.get("specialised", True):
        return None
    from kerasneuro.models.synthmorph.specialise import open_specialised

    return open_specialised(path, REGULARISATION, sha256=sha256)


def select(card: ModelCard, part: str, store: WeightStore) -> WeightStore:
    """Return the arrays of one network of a model, see `network_arrays`."""
    network = card.config["network"]
    return network_arrays(store, network[part] if isinstance(network, Mapping) else network)


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Read widths and levels of the network off the shapes in its file.

    Parameters
    ----------
    store : WeightStore
        The arrays of one network.

    Returns
    -------
    dict
        Arguments of `graph.build`.

    Raises
    ------
    WeightsMismatch
        If the file holds no network of SynthMorph, or both.
    """
    layers = file_layers(store)
    if layers["convolution"] and not layers["hyper"] and not layers["fixed"]:
        return _detector_config(store, layers["convolution"])
    if (layers["hyper"] or layers["fixed"]) and not layers["convolution"]:
        return _deformable_config(store, layers)
    raise WeightsMismatch(
        f"{store.path} holds {describe(layers)}, expected the convolutions of an affine network, or the "
        "hypernetwork and convolutions of a deformable one; give a file of SynthMorph"
    )


def _detector_config(store: WeightStore, names: Sequence[str]) -> dict[str, Any]:
    kernels = [store[f"{name}/kernel"].shape for name in names]
    channels = [(int(kernel[-2]), int(kernel[-1])) for kernel in kernels]
    joins = _joins(channels)
    if joins:
        per_level = joins[1] - joins[0] if len(joins) > 1 else 1
        first = joins[0] - per_level
    else:
        # Without skip connections nothing tells where poolings lie: half of the convolutions have one, as
        # in all networks published.
        per_level, first = 1, (len(channels) - 1) // 2
    second = first + per_level * len(joins)
    widths = [filters for _, filters in channels]
    return {
        "num_chan": channels[0][0],
        "num_feat": widths[-1],
        "enc_nf": tuple(widths[:first:per_level]),
        "dec_nf": tuple(widths[first:second:per_level]),
        "add_nf": tuple(widths[second:-1]),
        "per_level": per_level,
        "in_shape": (None,) * (len(kernels[0]) - 2),
    }


def _deformable_config(store: WeightStore, layers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    if layers["fixed"]:
        shapes = [store[f"{name}/kernel"].shape for name in layers["fixed"]]
        channels, rank = [(int(shape[-2]), int(shape[-1])) for shape in shapes], len(shapes[0]) - 2
        own: dict[str, Any] = {"specialised": True}
    else:
        channels, rank = hyper_channels(store, layers["hyper"])
        kernels = [store[f"{name}/kernel"].shape for name in layers["dense"]]
        if not kernels:
            raise WeightsMismatch(f"{store.path} has no dense layers; give a file of SynthMorph")
        own = {"hyp_num": int(kernels[0][0]), "hyp_units": tuple(int(shape[1]) for shape in kernels)}
    joins = _joins(channels)
    # The first join follows all levels of the encoder and one of the decoder.
    per_level, rest = divmod(joins[0], len(joins) + 1) if joins else (0, 1)
    if rest or joins != [per_level * (len(joins) + 1 + level) for level in range(len(joins))]:
        raise WeightsMismatch(
            f"{store.path} is no deformable network of SynthMorph: its channels ({channels}) are those of no "
            "encoder and decoder with as many levels as each other; give its file"
        )
    first, second = per_level * len(joins), 2 * per_level * len(joins)
    widths = [filters for _, filters in channels]
    return {
        **own,
        "num_chan": channels[0][0] // 2,
        "enc_nf": tuple(widths[:first:per_level]),
        "dec_nf": tuple(widths[first:second:per_level]),
        "add_nf": tuple(widths[second:-1]),
        "per_level": per_level,
        "in_shape": (None,) * rank,
    }


def hyper_channels(store: WeightStore, names: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """Return input and output channels of the convolutions, and the number of dimensions."""
    filters = [prod(store[f"{name}/hyperbias_bias"].shape) for name in names]
    sizes = [prod(store[f"{name}/hyperkernel_bias"].shape) for name in names]
    rank = filters[-1]  # the last one gives a vector per voxel
    channels = []
    for name, size, width in zip(names, sizes, filters, strict=True):
        count, rest = divmod(size, KERNEL**rank * width) if rank in (2, 3) and width else (0, 1)
        if rest or not count:
            raise WeightsMismatch(
                f"{store.path}: the layer {name!r} makes {size} numbers, expected a kernel of "
                f"{KERNEL} voxels along each axis for {width} filters; give a file of SynthMorph"
            )
        channels.append((count, width))
    return channels, rank


def _joins(channels: Sequence[tuple[int, int]]) -> list[int]:
    """Return the places of the convolutions that read a skip connection besides the one before."""
    widths = [filters for _, filters in channels]
    return [index for index in range(1, len(channels)) if channels[index][0] != widths[index - 1]]


def table(store: WeightStore, model: keras.Model) -> dict[str, str]:
    """Pair the variables of the graph with the arrays of the file: the n-th layers of a kind belong together.

    Parameters
    ----------
    store : WeightStore
        The opened file.
    model : keras.Model
        A graph made by `graph.build`, or the part of it that holds the weights.

    Returns
    -------
    dict of str to str
        Path of the variable -> key of the file.
    """
    ours: dict[str, list[dict[str, str]]] = {kind: [] for kind in WEIGHTS}
    for layer in _leaves(model):
        paths = {variable.name: variable.path for variable in layer.variables}
        kind = _our_kind(layer)
        if kind:
            ours[kind].append(paths)
    theirs = file_layers(store)
    return {
        paths[weight]: f"{layer}/{weight}"
        for kind, weights in WEIGHTS.items()
        for paths, layer in zip(ours[kind], theirs[kind], strict=False)
        for weight in weights
    }


def _our_kind(layer: keras.Layer) -> str | None:
    name = type(layer).__name__
    if name == "HyperConvFromDense":
        return "hyper"
    if name == "Dense":
        return "dense"
    if name in ("Conv2D", "Conv3D"):
        return "fixed" if layer.name.startswith(FIXED) else "convolution"
    return None


def _leaves(model: keras.Model) -> list[keras.Layer]:
    """List the layers of a graph and of the graphs in it, in their order."""
    return [
        leaf for layer in model.layers for leaf in (_leaves(layer) if hasattr(layer, "layers") else [layer])
    ]


def original(model: keras.Model) -> Original:
    """Describe the file that the original reads: its network saved alone, with the names of a fresh session.

    Parameters
    ----------
    model : keras.Model
        A graph made by `graph.build`, of one network.

    Returns
    -------
    Original
        For `kerasneuro.weights.write_original`.

    Raises
    ------
    InvalidOption
        If its kernels are computed ones: the original has only the hypernetwork.
    """
    leaves = [layer for layer in _leaves(model) if layer.variables]
    if any(_our_kind(layer) == "fixed" for layer in leaves):
        raise InvalidOption(
            "the kernels for one regularisation have no place in the original's file of a hypernetwork; "
            "load with config={'specialised': False}, or keep our own format"
        )
    names = {variable.path: variable.path for layer in leaves for variable in layer.variables}
    return Original("keras-h5", names, tuple(layer.name for layer in leaves))
