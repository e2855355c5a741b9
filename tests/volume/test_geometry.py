"""Orientation, cropping, conforming: every voxel keeps its place in the world, and the way back is exact."""

from __future__ import annotations

import itertools
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.processing import conform as nibabel_conform

from kerasneuro.errors import InvalidOption
from kerasneuro.volume import (
    Volume,
    bounding_box,
    conform,
    crop_or_pad_centred,
    crop_to_box,
    cut,
    pad_to_multiple,
    paste,
    to_axcodes,
)

ORIENTATIONS = [
    "".join(code[side] for code, side in zip(codes, sides, strict=True))
    for codes in itertools.permutations(("LR", "PA", "IS"))
    for sides in itertools.product((0, 1), repeat=3)
]
angles = st.floats(-0.5, 0.5)
zooms = st.floats(0.4, 3)
lengths = st.integers(1, 7)
shapes = st.tuples(lengths, lengths, lengths)
whole = st.integers(-4, 9)


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Draw a scan of any orientation, oblique, with voxels that all differ."""
    shape = draw(shapes)
    turn = nibabel.eulerangles.euler2mat(draw(angles), draw(angles), draw(angles))
    ornt = nibabel.orientations.axcodes2ornt(draw(st.sampled_from(ORIENTATIONS)))
    storage = nibabel.orientations.inv_ornt_aff(ornt, shape)[:3, :3]
    scale = np.diag([draw(zooms), draw(zooms), draw(zooms)])
    shift = [draw(st.floats(-200, 200)) for _ in range(3)]
    affine = nibabel.affines.from_matvec(turn @ np.linalg.inv(storage) @ scale, shift)
    return Volume(np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape), affine)


def places(volume: Volume) -> dict[int, np.ndarray]:
    """Return the world coordinates of each value other than 0."""
    return {
        int(volume.array[index]): apply_affine(volume.affine, index)
        for index in np.ndindex(volume.shape)
        if volume.array[index]
    }


def assert_same_places(found: Volume, expected: Volume) -> None:
    before, after = places(expected), places(found)
    for value, place in after.items():
        np.testing.assert_allclose(place, before[value], atol=1e-9)


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@given(volumes(), st.sampled_from(ORIENTATIONS))
def test_orientation_round_trip(volume: Volume, axcodes: str) -> None:
    turned, inverse = to_axcodes(volume, axcodes)
    assert "".join(turned.axcodes) == axcodes
    assert len(places(turned)) == volume.array.size
    assert_same_places(turned, volume)
    np.testing.assert_array_equal(inverse(turned.array), volume.array)
    channels = np.stack([turned.array, -turned.array], axis=-1)
    np.testing.assert_array_equal(inverse(channels)[..., 1], -volume.array)
    assert np.shares_memory(turned.array, volume.array)


@pytest.mark.parametrize("source", ORIENTATIONS)
def test_all_orientations_equal_nibabel(source: str) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    ornt = nibabel.orientations.axcodes2ornt(source)
    turn = nibabel.eulerangles.euler2mat(0.1, -0.2, 0.15)
    affine = nibabel.affines.from_matvec(turn) @ nibabel.orientations.inv_ornt_aff(ornt, (4, 4, 4))
    image = nibabel.Nifti1Image(array, np.linalg.inv(affine))
    volume = Volume(array, image.affine)
    for target in ("RAS", "LIA", "PSR"):
        change = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(target)
        )
        expected = image.as_reoriented(change)
        turned, inverse = to_axcodes(volume, target)
        np.testing.assert_array_equal(turned.array, expected.dataobj)
        np.testing.assert_allclose(turned.affine, expected.affine, atol=1e-6)
        np.testing.assert_array_equal(inverse(turned.array), array)


@pytest.mark.parametrize("axcodes", ["RA", "RAX", "RRS", "RLS", "", "RASI"])
def test_orientation_that_does_not_exist(axcodes: str) -> None:
    with pytest.raises(InvalidOption, match=f"found '{axcodes}'"):
        to_axcodes(Volume(np.zeros((2, 3, 4)), np.eye(4)), axcodes)


@given(volumes(), st.tuples(whole, whole, whole), shapes)
def test_crop_keeps_places_and_comes_back(
    volume: Volume, low: tuple[int, ...], size: tuple[int, ...]
) -> None:
    x, y, z = ((start, start + n) for start, n in zip(low, size, strict=True))
    box = (x, y, z)
    cropped, inverse = crop_to_box(volume, box)
    assert cropped.shape == size
    assert_same_places(cropped, volume)
    inside = np.zeros(volume.shape, bool)
    inside[tuple(slice(max(a, 0), max(b, 0)) for a, b in box)] = True
    back = inverse(cropped.array)
    np.testing.assert_array_equal(back, np.where(inside, volume.array, 0))
    assert np.count_nonzero(cropped.array) == np.count_nonzero(inside)
    np.testing.assert_array_equal(cut(paste(cropped.array, box, volume.shape), box), cropped.array)


@given(volumes(), st.tuples(lengths, lengths, lengths))
def test_padding_comes_off(volume: Volume, multiple: tuple[int, int, int]) -> None:
    padded, inverse = pad_to_multiple(volume, multiple)
    assert all(
        n % m == 0 and n - old < m for n, m, old in zip(padded.shape, multiple, volume.shape, strict=True)
    )
    np.testing.assert_array_equal(padded.affine, volume.affine)
    np.testing.assert_array_equal(inverse(padded.array), volume.array)
    assert padded.array.sum() == volume.array.sum()


@given(volumes(), shapes)
def test_centred_crop(volume: Volume, shape: tuple[int, int, int]) -> None:
    centred, _ = crop_or_pad_centred(volume, shape)
    assert centred.shape == shape
    assert_same_places(centred, volume)
    # The centres of both grids are at most half a voxel apart along each axis.
    middle = apply_affine(np.linalg.inv(volume.affine) @ centred.affine, (np.array(shape) - 1) / 2)
    assert np.all(np.abs(middle - (np.array(volume.shape) - 1) / 2) <= 0.5 + 1e-9)


def test_centred_crop_and_pad_of_the_original(fixtures: Any) -> None:
    stored = np.load(fixtures / "nobrainer" / "intensity_spatial.npz")
    volume = Volume(stored["x"], np.eye(4))
    np.testing.assert_array_equal(crop_or_pad_centred(volume, (4, 4, 5))[0].array, stored["centercrop4"])
    np.testing.assert_array_equal(cut(stored["x"], ((-1, 7), (-2, 9), (-3, 8))), stored["pad123"])


def test_empty_box_is_refused() -> None:
    with pytest.raises(InvalidOption, match="at least one voxel"):
        crop_to_box(Volume(np.zeros((2, 3, 4)), np.eye(4)), ((0, 2), (1, 1), (0, 4)))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)), max_size=5))
def test_bounding_box(points: list[tuple[int, int, int]]) -> None:
    mask = np.zeros((5, 6, 7), np.int16)
    for point in points:
        mask[point] = -3
    axes = list(zip(*points, strict=True)) if points else []
    expected = [(min(axis), max(axis) + 1) for axis in axes] or [(0, 0)] * 3
    assert list(bounding_box(mask)) == expected


def head(shape: tuple[int, int, int] = (30, 26, 22), zoom: Any = (1.7, 2.0, 2.3)) -> Volume:
    rng = np.random.default_rng(7)
    turn = nibabel.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])
    return Volume(
        rng.random(shape).astype(np.float32) + 1,
        nibabel.affines.from_matvec(turn @ np.diag(zoom), [9, -8, 4]),
    )


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("axcodes", ["RAS", "LIA"])
def test_conform_equals_nibabel(order: int, axcodes: str) -> None:
    volume = head()
    found, _ = conform(volume, (70, 60, 64), (0.9, 1.0, 1.1), axcodes, order)
    expected = nibabel_conform(
        nibabel.Nifti1Image(volume.array, volume.affine),
        (70, 60, 64),
        (0.9, 1.0, 1.1),
        order=order,
        orientation=axcodes,
    )
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)
    assert "".join(found.axcodes) == axcodes
    # Only the last bit decides whether a sample on the outermost voxel centres is inside, and which of two
    # voxels is the nearest to a sample half way between them.
    differs = ~np.isclose(found.array, np.asarray(expected.dataobj), atol=1e-5)
    source = apply_affine(np.linalg.inv(volume.affine) @ found.affine, np.argwhere(differs))
    edges = [np.abs(source) < 1e-5, np.abs(source - np.array(volume.shape) + 1) < 1e-5]
    if order == 0:
        edges.append(np.abs(source - np.floor(source) - 0.5) < 1e-5)
    assert np.any(edges, axis=(0, 2)).all()
    assert np.count_nonzero(found.array) > 30000


def test_conform_to_its_own_grid_changes_nothing() -> None:
    volume = head(zoom=(1, 1, 1))
    turned, _ = to_axcodes(volume, "RAS")
    for order in (0, 1, 3):
        found, inverse = conform(volume, turned.shape, order=order)
        np.testing.assert_allclose(found.affine, turned.affine, atol=1e-9)
        np.testing.assert_allclose(found.array, turned.array, atol=1e-5)
        np.testing.assert_array_equal(inverse(turned.array), volume.array)
        np.testing.assert_allclose(inverse(turned.array, "linear"), volume.array, atol=1e-6)
        assert found.warnings == ()


def test_labels_come_back_from_a_finer_grid() -> None:
    volume = head()
    labels = Volume(np.random.default_rng(0).integers(0, 90, volume.shape).astype(np.int16), volume.affine)
    fine, inverse = conform(labels, (200, 200, 200), (0.4, 0.4, 0.4), order=0)
    assert fine.array.dtype == np.int16
    inner = (slice(1, -1),) * 3  # beyond the outermost voxel centres the conformed scan is 0
    np.testing.assert_array_equal(inverse(fine.array)[inner], labels.array[inner])
    assert inverse(fine.array).dtype == np.int16


def test_probabilities_come_back_linearly() -> None:
    volume = head(zoom=(2.0, 2.0, 2.0))
    grid = np.meshgrid(*(np.linspace(0.1, 0.3, n) for n in volume.shape), indexing="ij")
    smooth = Volume(sum(grid).astype(np.float32), volume.affine)
    fine, inverse = conform(smooth, (80, 80, 80))
    back = inverse(fine.array, "linear")
    assert back.dtype == np.float32
    np.testing.assert_allclose(back[1:-1, 1:-1, 1:-1], smooth.array[1:-1, 1:-1, 1:-1], atol=1e-6)
    both = inverse(np.stack([fine.array, 2 * fine.array], axis=-1), "linear")
    np.testing.assert_allclose(both[..., 1], 2 * back, atol=1e-6)
    with pytest.raises(InvalidOption, match="'cubic'"):
        inverse(fine.array, "cubic")


def test_outside_of_the_conformed_grid_is_background() -> None:
    volume = head()
    small, inverse = conform(volume, (10, 10, 10))
    back = inverse(np.ones((10, 10, 10), np.uint8))
    assert 0 < np.count_nonzero(back) < 300
    (warning,) = small.warnings
    assert "are cut off" in warning


@pytest.mark.parametrize(
    "options", [{"order": 6}, {"zooms": (1, 1, 0)}, {"shape": (9, 9)}, {"shape": (9, 0, 9)}]
)
def test_conform_option_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=r"^conform needs[^\n]*found[^\n]*$"):
        conform(head(), **options)
