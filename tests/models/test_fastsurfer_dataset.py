"""Batches of slices: what is in them, their order, and the shifts of the augmentation."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.fastsurfer import targets
from kerasneuro.models.fastsurfer.dataset import LabelledVolume, SliceDataset, label_volume, read_pair
from kerasneuro.training.changes.volumes import random_shift, shift
from kerasneuro.training.metrics.class_overlap import class_overlap

pytestmark = pytest.mark.backend_free

# Plane -> axes of slice, height and width in the volume.
AXES = {"axial": (1, 2, 0), "coronal": (2, 0, 1), "sagittal": (0, 2, 1)}


def labelled(seed: int = 0, shape: tuple[int, int, int] = (32, 16, 48)) -> LabelledVolume:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, shape).astype(np.uint8)
    classes = np.zeros(shape, np.uint8)
    inside = tuple(slice(3, size - 2) for size in shape)
    classes[inside] = generator.integers(0, 3, classes[inside].shape)
    return label_volume(image, classes, 3)


@pytest.mark.parametrize("plane", AXES)
def test_batch_holds_slices_labels_and_weights_of_one_place(plane: str) -> None:
    volume = labelled()
    dataset = SliceDataset([volume], plane, 4, shuffle=False, pad=0)
    slices, classes, weights = dataset[0]
    axes = AXES[plane]
    image = volume.image.transpose(axes).astype(np.float32) / 255
    whole = targets.pixel_weights(volume.classes, 3).transpose(axes)
    height, width = image.shape[1:]
    assert slices.shape == (4, height, width, 7) and slices.dtype == np.float32
    for row, index in enumerate(range(3, 7)):
        np.testing.assert_array_equal(slices[row], np.moveaxis(image[index - 3 : index + 4], 0, -1))
        np.testing.assert_array_equal(classes[row], volume.classes.transpose(axes)[index])
        np.testing.assert_array_equal(weights[row], whole[index])
    assert len(dataset) == -(-(volume.image.shape[axes[0]] - 5) // 4)
    assert sum(len(dataset[index][0]) for index in range(len(dataset))) == volume.image.shape[axes[0]] - 5


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    def batches(**options: int) -> list[np.ndarray]:
        dataset = SliceDataset([labelled(0), labelled(1)], "axial", 5, pad=3, **options)
        return [part for index in range(len(dataset)) for part in dataset[index]]

    def equal(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
        return all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))

    first = batches(seed=1)
    assert equal(first, batches(seed=1))
    assert not equal(first, batches(seed=2))
    resumed = batches(seed=1, epoch=1)
    assert not equal(first, resumed)
    dataset = SliceDataset([labelled(0), labelled(1)], "axial", 5, pad=3, seed=1)
    dataset.on_epoch_end()
    assert equal([part for index in range(len(dataset)) for part in dataset[index]], resumed)


def test_every_slice_comes_once_in_an_epoch() -> None:
    dataset = SliceDataset([labelled(0), labelled(1)], "sagittal", 4, pad=0, seed=3)
    plain = SliceDataset([labelled(0), labelled(1)], "sagittal", 4, pad=0, shuffle=False)

    def slices(of: SliceDataset) -> list[bytes]:
        return [image.tobytes() for index in range(len(of)) for image in of[index][0]]

    assert sorted(slices(dataset)) == sorted(slices(plain)) and slices(dataset) != slices(plain)


@given(st.integers(0, 6), st.integers(0, 2**31), st.integers(3, 9), st.integers(3, 9))
def test_shift_is_edge_padding_and_a_crop(pad: int, seed: int, height: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    images = generator.random((2, height, width, 3))
    offsets = generator.integers(0, 2 * pad + 1, (2, 2))
    found = shift(images, offsets, pad)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    for index, (top, left) in enumerate(offsets):
        np.testing.assert_array_equal(found[index], padded[index, top : top + height, left : left + width])


def test_random_shift_moves_all_arrays_alike_and_leaves_out_the_last_offset() -> None:
    rows = np.broadcast_to(np.arange(64)[None, :, None], (500, 64, 64))
    columns = np.stack([rows.swapaxes(1, 2), rows], axis=-1)
    moved, both = random_shift([rows, columns], np.random.default_rng(0), pad=8)
    np.testing.assert_array_equal(moved, both[..., 1])
    offsets = np.stack([both[:, 32, 32, 1], both[:, 32, 32, 0]]) - 32
    assert offsets.min() == -8 and offsets.max() == 7
    assert all(len(set(axis.tolist())) == 16 for axis in offsets)
    assert (offsets[0] != offsets[1]).any()


def test_scan_and_labels_of_different_grids_are_brought_together() -> None:
    scan_affine, label_affine = np.diag([4.0, 4, 4, 1]), np.diag([-2.0, 2, 2, 1])
    scan_affine[:3, 3], label_affine[:3, 3] = -64, (61, -63, -63)
    image, labels = np.zeros((32, 32, 32), np.int16), np.zeros((64, 64, 64), np.int32)
    image[10:20, 8:16, 12:24] = 900
    world = np.indices(labels.shape).transpose(1, 2, 3, 0) @ label_affine[:3, :3].T + label_affine[:3, 3]
    inside = np.all(
        (world >= np.array([10, 8, 12]) * 4 - 66) & (world < np.array([20, 16, 24]) * 4 - 66), axis=-1
    )
    labels[inside] = 1017
    found = read_pair(
        nibabel.Nifti1Image(image, scan_affine), nibabel.Nifti1Image(labels, label_affine), [0, 17, 1017]
    )
    assert found.image.shape == found.classes.shape == (256, 256, 256)
    assert np.unique(found.classes).tolist() == [0, 2]
    overlap = class_overlap(found.classes == 2, found.image > 130, 2)
    assert overlap.dice[1] > 0.95
    with pytest.raises(InvalidImage, match="one space"):
        read_pair(nibabel.Nifti1Image(image, scan_affine), nibabel.Nifti1Image(labels, label_affine), [0, 17])


def test_bad_input_is_refused() -> None:
    volume = labelled()
    with pytest.raises(InvalidOption, match="plane is one of"):
        SliceDataset([volume], "oblique")
    with pytest.raises(InvalidOption, match="batch_size"):
        SliceDataset([volume], "axial", 0)
    with pytest.raises(InvalidImage, match="one size"):
        SliceDataset([volume, labelled(1, (48, 16, 48))], "coronal")
    with pytest.raises(InvalidImage, match="multiples of 16"):
        SliceDataset([labelled(1, (32, 16, 40))], "axial")
    with pytest.raises(InvalidImage, match="overlap"):
        SliceDataset([label_volume(volume.image, np.zeros_like(volume.classes), 3)], "axial")
    with pytest.raises(InvalidImage, match="uint8"):
        label_volume(volume.image.astype(np.float32), volume.classes, 3)
    with pytest.raises(InvalidImage, match="conform both alike"):
        label_volume(volume.image[1:], volume.classes, 3)
