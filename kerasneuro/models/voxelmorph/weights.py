"""Which array of a VoxelMorph file goes to which variable, and what the file tells of its network.

The files are those that ``LoadableModel.save`` of adalca/neurite@7c4b05e writes: Keras 2's arrays, and the
arguments of the constructor as JSON text. The text is read as data. Widths are always read off the shapes of
the arrays, so that a text can not ask for more memory than the file's own size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import WeightsCorrupt, WeightsMismatch
from kerasneuro.models.voxelmorph.plan import channels, plans
from kerasneuro.weights import Original

if TYPE_CHECKING:
    import keras

    from kerasneuro.weights import WeightStore

CLASSES = ("VxmDense", "HyperVxmDense")
HYPER_WEIGHTS = ("hyperkernel_kernel", "hyperkernel_bias", "hyperbias_kernel", "hyperbias_bias")
KINDS = ("dense", "convolution")
MOST_STEPS, COARSEST = 64, 64
REGULARISED = ("svf", "preintegrated", "postintegrated", "warp")


@dataclass(frozen=True)
class Arrays:
    """The layers of a file, by kind, in their order; each with its weights and their shapes.

    Attributes
    ----------
    dense, convolution : tuple of (str, mapping of str to tuple)
        Name of the layer in the keys of the file, and weight -> shape. Convolutions with computed kernels
        are among the convolutions.
    """

    dense: tuple[tuple[str, Mapping[str, tuple[int, ...]]], ...]
    convolution: tuple[tuple[str, Mapping[str, tuple[int, ...]]], ...]


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Read the options of the network off a file.

    Parameters
    ----------
    store : WeightStore
        The arrays of a file, with the text ``model_config`` where it has one.

    Returns
    -------
    dict
        Arguments of `graph.build`. Without a text, the integration is that of the original's defaults.

    Raises
    ------
    WeightsMismatch
        If the file holds another network, or options that no network has.
    WeightsCorrupt
        If its text is damaged.
    """
    stated = stated_options(store)
    config = infer_from_shapes(store, stated)
    for name, check in CHECKS.items():
        value = stated.get(name)
        if value is not None and not check(value):
            raise WeightsMismatch(
                f"{store.path} states {name} = {str(value)[:40]}, which no VxmDense has; give its file"
            )
    if stated.get("svf_resolution") is not None:
        config["svf_resolution"] = stated["svf_resolution"]
    if stated.get("unet_half_res"):
        config["svf_resolution"] = 2
    for name in ("int_downsize", "int_resolution"):
        if stated.get(name):
            config["int_resolution"] = stated[name]
            break
    kept = ("int_steps", "bidir", "fill_value", "reg_field", "src_feats", "trg_feats")
    return {**config, **{name: stated[name] for name in kept if stated.get(name) is not None}}


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= COARSEST


CHECKS = {
    "int_steps": lambda value: _is_count(value, 0, MOST_STEPS),
    "svf_resolution": _is_factor,
    "int_resolution": _is_factor,
    "int_downsize": lambda value: value == 0 or _is_factor(value),
    "nb_unet_conv_per_level": lambda value: _is_count(value, 1, 16),
    "src_feats": lambda value: _is_count(value, 1, 4096),
    "trg_feats": lambda value: _is_count(value, 1, 4096),
    "bidir": lambda value: isinstance(value, bool),
    "unet_half_res": lambda value: isinstance(value, bool),
    "fill_value": lambda value: isinstance(value, int | float) and math.isfinite(value),
    "reg_field": lambda value: value in REGULARISED,
}
"""Option of the original's constructor -> whether a value is allowed; all other options are not needed."""


def stated_options(store: WeightStore) -> dict[str, Any]:
    """Read the arguments of the constructor that a file states; none if it holds weights alone.

    Raises
    ------
    WeightsMismatch
        If it states another class.
    WeightsCorrupt
        If it is no such text.
    """
    text = store.attributes.get("model_config")
    if not text:
        return {}
    try:
        record = json.loads(text)
        name, options = record["class_name"], record["config"]
        if not isinstance(options, dict):
            raise TypeError("config is no object")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsCorrupt(
            f"{store.path}: the text model_config is damaged ({type(error).__name__}), expected class_name "
            "and config; fetch the file again"
        ) from error
    if name not in CLASSES:
        raise WeightsMismatch(
            f"{store.path} holds a model of class {str(name)[:40]!r}, expected {' or '.join(CLASSES)}; "
            "give the file of this model"
        )
    return options


def infer_from_shapes(store: WeightStore, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Read widths, levels, half resolution and hypernetwork off the shapes of a file.

    Parameters
    ----------
    store : WeightStore
        The arrays of a file.
    stated : mapping
        From `stated_options`; its widths decide between networks that have the same shapes.
    """
    arrays = file_layers(store)
    flow = next((shapes["kernel"] for _, shapes in arrays.convolution[::-1] if "kernel" in shapes), ())
    rank = len(flow) - 2
    chain = [channels(shapes, rank) for _, shapes in arrays.convolution] if rank in (2, 3) else []
    use_probs = len(chain) > 1 and arrays.convolution[-1][0].endswith("log_sigma")
    if use_probs:
        chain.pop()
    found = next(plans(chain, stated), None) if chain and chain[-1][1] == rank else None
    if found is None:
        raise WeightsMismatch(
            f"{store.path} is not a VxmDense: expected the convolutions of a U-Net and one with 2 or 3 "
            f"channels at the end, found {len(arrays.convolution)} convolutions and {len(arrays.dense)} "
            "dense layers; give the file of this model"
        )
    levels, per_level, unused = found
    widths, count = tuple(outputs for _, outputs in chain[:-1]), levels * per_level
    config: dict[str, Any] = {
        "nb_unet_features": (widths[:count], widths[count:]),
        "nb_unet_conv_per_level": per_level,
        "svf_resolution": 2**unused,
        "int_resolution": 2,
        "use_probs": use_probs,
        "src_feats": chain[0][0] // 2,
        "trg_feats": chain[0][0] - chain[0][0] // 2,
    }
    if rank == 2:
        config["inshape"] = (None, None)
    if arrays.dense:
        first = arrays.dense[0][1]["kernel"]
        config["hyper"] = {"parameters": first[0], "layers": len(arrays.dense), "units": first[1]}
        config["name"] = "hyper_vxm_dense"
    return config


def file_layers(store: WeightStore) -> Arrays:
    """List the layers of a file by kind, known by their weights, since names may carry any counter.

    Raises
    ------
    WeightsMismatch
        If a layer is of another kind.
    """
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, array in store.items():
        layer, _, weight = key.rpartition("/")
        layers.setdefault(layer, {})[weight] = tuple(array.shape)
    found: dict[str, list[tuple[str, Mapping[str, tuple[int, ...]]]]] = {kind: [] for kind in KINDS}
    for layer, shapes in layers.items():
        kind = layer_kind(shapes)
        if kind is None:
            listed = ", ".join(shapes)[:80]
            raise WeightsMismatch(
                f"{store.path} is not a VxmDense: the layer {layer!r} has the weights {listed}, expected "
                "kernel and bias of convolutions or dense layers; give the file of this model"
            )
        found[kind].append((layer, shapes))
    return Arrays(tuple(found["dense"]), tuple(found["convolution"]))


def layer_kind(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Tell the kind of a layer by its weights; None for a kind that VxmDense does not have."""
    if sorted(shapes) == sorted(HYPER_WEIGHTS):
        return "convolution"
    if sorted(shapes) != ["bias", "kernel"]:
        return None
    return {2: "dense", 4: "convolution", 5: "convolution"}.get(len(shapes["kernel"]))


def table(store: WeightStore, model: keras.Model) -> dict[str, str]:
    """Pair the layers of each kind in their order, whatever they are called (Keras's topological order).

    Parameters
    ----------
    store : WeightStore
        The arrays of a file.
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    dict of str to str
        Path of the variable -> key of the file.
    """
    arrays = file_layers(store)
    ours: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for layer in model.layers:
        shapes = {variable.name: tuple(variable.shape) for variable in layer.weights}
        kind = layer_kind(shapes)
        if kind is not None:
            ours[kind].append(layer)
    return {
        variable.path: f"{name}/{variable.name}"
        for kind in KINDS
        for layer, (name, _) in zip(ours[kind], getattr(arrays, kind), strict=False)
        for variable in layer.weights
    }


def original(model: keras.Model) -> Original:
    """Describe the weights of the original network, which its ``load_weights`` reads.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    Original
        For `kerasneuro.weights.write_original`.
    """
    layers = tuple(layer.name for layer in model.layers)
    names = {
        variable.path: f"{layer.name}/{variable.name}" for layer in model.layers for variable in layer.weights
    }
    return Original("keras-h5", names, layers)
