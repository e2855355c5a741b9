"""Hand data sets of labelled scans to the input pipelines of TensorFlow and of Grain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption, MissingDependency
from kerasneuro.training.scans.labelled_dataset import LabelledDataset


def to_tf_data(dataset: LabelledDataset) -> Any:
    """Return the batches of an epoch as a ``tf.data.Dataset``; each pass over it is an epoch further.

    Parameters
    ----------
    dataset : LabelledDataset
        `PatchDataset` or `WholeDataset`.

    Returns
    -------
    tf.data.Dataset
        To be mapped, cached or distributed; `fit` takes it under every backend.

    Raises
    ------
    MissingDependency
        If TensorFlow is not installed.
    """
    try:
        import tensorflow
    except ImportError as error:
        raise MissingDependency(
            "to_tf_data needs TensorFlow; install it with: pip install 'kerasneuro[tensorflow]', or give the "
            "data set to fit as it is"
        ) from error
    size = getattr(dataset, "patch_shape", None) or getattr(dataset, "shape", None) or (None,) * 3
    signature = tuple(
        tensorflow.TensorSpec((None, *size, *array.shape[4:]), array.dtype)
        for array in dataset.batch(dataset.epoch, 0)
    )

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        for index in range(len(dataset)):
            yield dataset[index]
        dataset.on_epoch_end()

    whole = tensorflow.data.Dataset.from_generator(batches, output_signature=signature)
    return whole.apply(tensorflow.data.experimental.assert_cardinality(len(dataset)))


@dataclass(frozen=True)
class BatchesOfEpochs:
    """All batches of some epochs, one after the other, to be read in any order.

    Attributes
    ----------
    dataset : LabelledDataset
    first, epochs : int
        First epoch, and number of epochs.
    """

    dataset: LabelledDataset
    first: int
    epochs: int

    def __len__(self) -> int:
        return self.epochs * len(self.dataset)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        epoch, within = divmod(int(index), len(self.dataset))
        return self.dataset.batch(self.first + epoch, within)


def to_grain(dataset: LabelledDataset, epochs: int = 1) -> Any:
    """Return the batches of some epochs as a ``grain.MapDataset``.

    Element `i` is batch ``i % N`` of epoch ``i // N``, whoever reads it, and when; give `fit` N as
    ``steps_per_epoch``.

    Parameters
    ----------
    dataset : LabelledDataset
        `PatchDataset` or `WholeDataset`; its current epoch is the first.
    epochs : int
        How many, one after the other.

    Returns
    -------
    grain.MapDataset
        To be sliced, mapped, or read by several threads (``to_iter_dataset``).

    Raises
    ------
    InvalidOption
        If there is less than one epoch.
    MissingDependency
        If Grain is not installed.
    """
    if epochs < 1:
        raise InvalidOption(f"epochs is at least 1, found {epochs}")
    try:
        import grain
    except ImportError as error:
        raise MissingDependency(
            "to_grain needs Grain; install it with: pip install 'kerasneuro[grain]', or give the data set to "
            "fit as it is"
        ) from error
    return grain.MapDataset.source(BatchesOfEpochs(dataset, dataset.epoch, epochs))
