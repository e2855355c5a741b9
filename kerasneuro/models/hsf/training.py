"""Train HSF's network as its authors did, and give a trained one another set of classes.

Source: clementpoiret/hsf_train@127435f; C. Poiret et al., Frontiers in Neuroinformatics 17 (2023) 1130845,
doi:10.3389/fninf.2023.1130845.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerasneuro.errors import InvalidOption, MissingDependency
from kerasneuro.models.hsf import graph
from kerasneuro.models.hsf.weights import original
from kerasneuro.training.losses.forgiving import ForgivingTversky
from kerasneuro.training.optimisers.adamp import AdamP
from kerasneuro.training.optimisers.rates import warm_cosine
from kerasneuro.training.segmentation.unfreezing import StagedUnfreezing
from kerasneuro.training.transfer import copy_weights
from kerasneuro.weights import write_original

if TYPE_CHECKING:
    from kerasneuro.training.scans.cutting import SegmentationAugment

EPOCHS = 64
LEARNING_RATE = 0.01
ACCUMULATED = 4
"""Crops, one at a time, whose gradients make one step."""
HEAD = "final_conv"
SCALED = ("gamma", "beta")
"""Vectors of ours that the original stores with five axes, so that its optimiser projects their steps."""
MODES = ("decoder", "encoder")


def compile_network(
    model: keras.Model,
    batches: int,
    epochs: int = EPOCHS,
    *,
    learning_rate: float = LEARNING_RATE,
    accumulated: int = ACCUMULATED,
    ca_mode: str = "1/2/3",
    head: int | None = None,
    tail: int | None = None,
    **options: Any,
) -> None:
    """Give a network the loss, the optimiser and the learning rates of the original.

    Parameters
    ----------
    model : keras.Model
        From `graph.build` or `with_classes`.
    batches, epochs : int
        Batches of an epoch, and epochs: the optimiser and its rates depend on the length of the training.
    learning_rate : float
        Highest rate; it is reached after a tenth of the epochs.
    accumulated : int
        Batches whose gradients make one step.
    ca_mode, head, tail
        What the labels tell apart, as in `ForgivingTversky`.
    **options
        Passed to `keras.Model.compile`.

    Raises
    ------
    InvalidOption
        If the training has no whole step.
    """
    steps = epochs * batches // accumulated
    if steps < 1:
        raise InvalidOption(
            f"{epochs} epochs of {batches} batches, {accumulated} of which make one step, are no whole step"
        )
    optimiser = AdamP(
        warm_cosine(learning_rate, epochs, max(1, batches // accumulated)),
        total_steps=steps,
        projected_vectors=SCALED,
        gradient_accumulation_steps=accumulated if accumulated > 1 else None,
    )
    if keras.backend.backend() == "tensorflow":  # XLA takes minutes to compile the many small steps.
        options.setdefault("jit_compile", False)
    model.compile(optimizer=optimiser, loss=ForgivingTversky(ca_mode, head, tail), **options)


def blocks(model: keras.Model, mode: str = "decoder") -> list[str]:
    """List the blocks of a network in the order in which they are opened.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`.
    mode : {"decoder", "encoder"}
        Decoders from the output on, or encoders from the input on.

    Raises
    ------
    InvalidOption
        If there is no such mode.
    """
    if mode not in MODES:
        raise InvalidOption(f"mode is decoder or encoder, found {mode!r}")
    levels = len(filters_of(model))
    if mode == "encoder":
        return [f"encoders_{level}" for level in range(levels)]
    return [f"decoders_{step}" for step in reversed(range(levels - 1))]


def unfreezing(
    model: keras.Model, mode: str = "decoder", frequency: int = 4, depth: int = -1
) -> StagedUnfreezing:
    """Return the callback that trains the last layer alone at first, then one block more every few epochs.

    Parameters
    ----------
    model : keras.Model
        From `with_classes`.
    mode : {"decoder", "encoder"}
        Which blocks.
    frequency, depth : int
        As in `StagedUnfreezing`: the first block opens in epoch ``frequency + 1``, and ``depth`` is the index
        of the last one, so that 0 opens one block.
    """
    return StagedUnfreezing(blocks(model, mode), frequency, depth, always=(HEAD,))


def filters_of(model: keras.Model) -> list[int]:
    """Return the channels of each level.

    Raises
    ------
    InvalidOption
        If it is another network.
    """
    names = {layer.name for layer in model.layers}
    filters: list[int] = []
    while (name := f"encoders_{len(filters)}_basic_module_conv1_conv") in names:
        filters.append(int(model.get_layer(name).kernel.shape[-1]))
    if not filters or HEAD not in names:
        raise InvalidOption(f"{model.name} is no network of HSF; start from graph.build or an HSF file")
    return filters


def with_classes(parent: keras.Model, classes: int, name: str = "arunet") -> keras.Model:
    """Build a network for another set of classes that starts from the weights of a trained one.

    All layers but the last convolution are copied by name; that one is drawn anew.

    Parameters
    ----------
    parent : keras.Model
        A trained network of HSF.
    classes : int
        Number of classes, background included.
    name : str
        Name of the new network.

    Returns
    -------
    keras.Model
        Takes crops of any size.

    Raises
    ------
    InvalidOption, WeightsMismatch
        If `parent` is another network.
    """
    halving = [layer for layer in parent.layers if layer.name == "encoders_1_pooling"]
    generation = 3 if halving and isinstance(halving[0], keras.layers.MaxPooling3D) else 4
    filters = filters_of(parent)
    model = graph.build(generation=generation, filters=filters, n_classes=classes, name=name)
    copy_weights(parent, model, new=(HEAD,))
    return model


def write_network(model: keras.Model, path: str | Path) -> None:
    """Write a network as a state dict of PyTorch, with the names of the original.

    `kerasneuro.load` takes it under every HSF name, with any number of classes.

    Parameters
    ----------
    model : keras.Model
        A network of HSF.
    path : path
        Target, ``.pth``; replaced once the new file is complete.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    variables = {variable.path: variable for variable in model.variables}
    write_original(
        Path(path), original(model), lambda name: np.asarray(keras.ops.convert_to_numpy(variables[name]))
    )


def augmentation(engine: str = "numpy") -> SegmentationAugment:
    """Return the random changes of the crops.

    Parameters
    ----------
    engine : {"numpy", "torchio"}
        Our own set with the bounds of the original, but without motion; or the original's transforms of
        TorchIO with its numbers.

    Raises
    ------
    InvalidOption
        If there is no such engine.
    MissingDependency
        If TorchIO is not installed.
    """
    if engine == "torchio":
        return _with_torchio()
    if engine != "numpy":
        raise InvalidOption(f"the augmentation is of numpy or torchio, found {engine!r}")
    from kerasneuro.training.changes.labelled_patches import Augmentation

    return Augmentation(
        flip_axes=(0,), affine=0.2, rotation=30, scale=0.3, shift=0.1, elastic=0.1, elastic_spacing=12,
        resolution=0, blur=0.1, blur_size=0.5, bias_field=0, contrast=0, gamma=0.1, gamma_log=0.4, noise=0.1,
        noise_size=0.5,
    )  # fmt: skip


def _with_torchio() -> SegmentationAugment:
    try:
        import torchio
    except ImportError as error:
        raise MissingDependency(
            "this augmentation needs TorchIO: pip install 'kerasneuro[torchio]', or use numpy"
        ) from error
    from kerasneuro.training.changes.torchio import TorchioAugment

    changes: Sequence[Any] = [
        torchio.RandomFlip(axes=(0,), flip_probability=0.5),
        torchio.RandomMotion(degrees=5, translation=5, num_transforms=3, p=0.1),
        torchio.RandomBlur(std=(0, 0.5), p=0.1),
        torchio.RandomNoise(mean=0, std=(0, 0.5), p=0.1),
        torchio.RandomGamma(log_gamma=0.4, p=0.1),
        torchio.RandomAffine(scales=0.3, degrees=30, translation=5, isotropic=False, p=0.2),
        torchio.RandomElasticDeformation(num_control_points=4, max_displacement=4, locked_borders=0, p=0.1),
    ]
    return TorchioAugment(torchio.Compose(changes))
