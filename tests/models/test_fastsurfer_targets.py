"""Training targets of FastSurferCNN: classes, weights of pixels and slices against the original's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.fastsurfer import targets

pytestmark = pytest.mark.backend_free

LABELS = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 4)
)


@pytest.fixture(scope="module")
def case(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "fastsurfer" / "train_labels.npz") as file:
        return dict(file)


@pytest.mark.parametrize(("plane", "n_classes"), [("axial", 79), ("coronal", 79), ("sagittal", 51)])
def test_classes_and_weights_are_those_of_the_original(
    case: dict[str, np.ndarray], plane: str, n_classes: int
) -> None:
    classes = targets.class_volume(case["aparc"], plane, case["aseg_nocc"])
    np.testing.assert_array_equal(classes, case[f"classes{n_classes}"])
    weights = targets.pixel_weights(classes, n_classes)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, case[f"weights{n_classes}"], rtol=1e-6)


def test_sagittal_labels_follow_the_published_list() -> None:
    labels = targets.sagittal_labels()
    below_cortex = [0, 14, 15, 16, 24, 41, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 63, 77]
    assert labels[:20].tolist() == below_cortex
    assert (labels[20:] // 1000 == 1).all() and (np.diff(labels[20:]) > 0).all() and len(labels) == 51


def test_callosum_without_an_aseg_is_background() -> None:
    aparc = np.full((3, 3, 3), 2)
    aparc[1, 1] = 251, 253, 255
    assert (targets.class_volume(aparc)[1, 1] == 0).all()
    aseg = np.full((3, 3, 3), 41)
    assert (targets.class_volume(aparc, without_callosum=aseg)[1, 1] == 19).all()


def unknown_in_full_volume(labels: np.ndarray, unknown: int, candidates: list[int]) -> np.ndarray:
    spread = [ndimage.gaussian_filter(1000.0 * (labels == label), 5) for label in candidates]
    return np.where(labels == unknown, np.array(candidates)[np.argmax(spread, axis=0)], labels)


def test_unknown_cortex_is_filled_as_if_the_whole_volume_were_blurred() -> None:
    labels = np.zeros((70, 48, 52), np.int64)
    labels[30:36, 20:30, 24:30] = 1000
    labels[26:30, 20:30, 24:30], labels[36:39, 20:25, 24:30] = 1010, 1005
    labels[60:, :5, :5] = 1020  # Does not touch the unknown voxels.
    expected = unknown_in_full_volume(labels, 1000, [1005, 1010])
    targets.fill_unknown(labels, 1000, 2000)
    np.testing.assert_array_equal(labels, expected)
    assert {1005, 1010} <= set(labels[30:36, 20:30, 24:30].ravel().tolist())


def test_unknown_cortex_that_touches_no_parcel_stays_background() -> None:
    aparc = np.zeros((4, 4, 4), np.int16)
    aparc[1, 1, 1] = 2000
    assert not targets.class_volume(aparc).any()


def test_right_parcels_keep_their_class_and_filled_ones_take_the_left_one() -> None:
    aparc = np.zeros((9, 9, 9), np.int32)
    aparc[2:4], aparc[4] = 2012, 2000
    classes = targets.class_volume(aparc)
    assert (classes[2:4] == 68).all() and (classes[4] == 43).all()


@given(LABELS)
def test_edges_are_where_the_gradient_is_not_zero(classes: np.ndarray) -> None:
    found = targets.edges(classes)
    expected = np.zeros(classes.shape, bool)
    for axis, length in enumerate(classes.shape):
        if length > 1:
            expected |= np.gradient(classes.astype(float), axis=axis) != 0
    np.testing.assert_array_equal(found, expected)


@given(LABELS)
def test_class_weights_fall_with_the_count_and_are_limited(classes: np.ndarray) -> None:
    weights = targets.class_weights(classes, 7)
    counts = np.bincount(classes.ravel(), minlength=7)
    assert (weights[counts == 0] == 0).all() and weights.max() <= 5
    order = np.argsort(counts[counts > 0])
    assert (np.diff(weights[counts > 0][order]) <= 0).all()


@given(st.lists(st.integers(-5, 3000), min_size=1, max_size=20, unique=True), st.data())
def test_labels_become_their_place_in_the_list(ids: list[int], data: st.DataObject) -> None:
    labels = data.draw(arrays.arrays(np.int64, 30, elements=st.integers(-10, 3005)))
    expected = [ids.index(label) if label in ids else 0 for label in labels.tolist()]
    assert targets.classes_of(labels, ids).tolist() == expected


def test_slices_with_little_in_them_are_left_out() -> None:
    classes = np.zeros((4, 5, 6), np.uint8)
    classes[0, 2, 3], classes[1, 2, 4], classes[2, 2, 4] = 50, 26, 25
    assert targets.worthwhile_slices(classes, 0).tolist() == []
    assert targets.worthwhile_slices(classes, 1).tolist() == [2]
    assert targets.worthwhile_slices(classes, 2).tolist() == [4]


@pytest.mark.parametrize(
    "volume", [np.full((2, 2, 2), 0.5), np.zeros((2, 2)), np.full((2, 2, 2), np.nan), np.full((1, 1, 1), "a")]
)
def test_volumes_that_are_no_label_maps_are_refused(volume: np.ndarray) -> None:
    with pytest.raises(InvalidImage, match="whole numbers"):
        targets.class_volume(volume)


def test_other_bad_input_is_refused() -> None:
    labels = np.zeros((2, 2, 2), np.int16)
    with pytest.raises(InvalidOption, match="plane"):
        targets.class_volume(labels, "oblique")
    with pytest.raises(InvalidImage, match="conform both alike"):
        targets.class_volume(labels, without_callosum=np.zeros((2, 2, 3)))
    with pytest.raises(InvalidImage, match="below 3"):
        targets.class_weights(np.full((2, 2, 2), 3, np.uint8), 3)
    with pytest.raises(InvalidOption, match="different labels"):
        targets.classes_of(labels, [0, 1, 1])
