"""Random changes of labelled patches: image and classes are moved alike, intensities stay as described."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from kerasneuro.errors import InvalidOption
from kerasneuro.training.changes import nobrainer
from kerasneuro.training.changes.chain import Chain
from kerasneuro.training.changes.labelled_patches import Augmentation
from kerasneuro.training.changes.patch_warp import PatchWarp
from kerasneuro.training.changes.sharpness import apply_along_axes, blur_matrix, coarse_matrix
from kerasneuro.training.scans.cutting import augmented_patch

pytestmark = pytest.mark.backend_free

CHANGES = ("flip", "affine", "elastic", "resolution", "blur", "bias_field", "contrast", "gamma", "noise")
OFF = dict.fromkeys(CHANGES, 0.0)
SPATIAL = {"flip": 0.5, "flip_axes": (0, 1, 2), "affine": 1, "elastic": 1}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def smooth_scan(
    shape: tuple[int, int, int] = (24, 20, 28), channels: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image whose classes are where it is bright."""
    image = ndimage.gaussian_filter(rng(1).normal(size=(*shape, channels)), (3, 3, 3, 0)).astype(np.float32)
    image /= image.std(axis=(0, 1, 2))
    return image, (image[..., 0] > 0.5).astype(np.uint8)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change(name: str) -> None:
    image, classes = smooth_scan(channels=2)
    change = Augmentation(**{**OFF, name: 1.0, "flip_axes": (0,)})
    kept = image.copy(), classes.copy()
    changed, labels = change.patch(image, classes, (4, 2, 6), (12, 14, 10), rng(3))
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(classes, kept[1])
    assert changed.shape == (12, 14, 10, 2) and changed.dtype == np.float32 and np.isfinite(changed).all()
    assert labels.shape == (12, 14, 10) and labels.dtype == classes.dtype
    plain = image[4:16, 2:16, 6:16], classes[4:16, 2:16, 6:16]
    assert not np.array_equal(changed, plain[0])
    moved = name in ("flip", "affine", "elastic")
    assert np.array_equal(labels, plain[1]) != moved
    again = change.patch(image, classes, (4, 2, 6), (12, 14, 10), rng(3))
    np.testing.assert_array_equal(changed, again[0])


def test_nothing_is_changed_at_probability_0() -> None:
    image, classes = smooth_scan()
    changed, labels = Augmentation(**OFF)(image, classes, rng())
    np.testing.assert_array_equal(changed, image)
    np.testing.assert_array_equal(labels, classes)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    start=st.tuples(st.integers(-6, 20), st.integers(-6, 16), st.integers(-6, 24)),
)
def test_image_and_classes_move_alike(seed: int, start: tuple[int, int, int]) -> None:
    # Classes as an image: what the nearest neighbour gives lies within half a voxel of the linear one.
    shape = (24, 20, 28)
    change = Augmentation(**{**OFF, **SPATIAL})
    for axis, ramp in enumerate(np.indices(shape)):
        image = np.stack([ramp, np.ones(shape)], axis=-1).astype(np.float32)
        patch, labels = change.patch(image, ramp.astype(np.uint8), start, (8, 9, 7), rng(seed))
        inside = patch[..., 1] > 1 - 1e-5
        assert np.abs(patch[..., 0] - labels)[inside].max(initial=0) <= 0.5 + 1e-3, axis


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), start=st.tuples(*[st.integers(-4, 16)] * 3))
def test_patch_equals_warped_whole(seed: int, start: tuple[int, int, int]) -> None:
    """What is taken out of a box equals the interpolation in the whole scan, wrapped in zeros."""
    image, classes = smooth_scan()
    shape = (8, 9, 7)
    warp = Augmentation(**{**OFF, **SPATIAL, "flip": 0}).warp(shape, rng(seed))
    patch, labels = warp.apply(image, classes, start, shape)
    assert warp.matrix is not None and warp.offset is not None and warp.displacement is not None
    centre = (np.array(shape) - 1) / 2
    voxels = np.stack(np.indices(shape), axis=-1)
    places = (voxels - centre) @ warp.matrix.T + centre + warp.offset + warp.displacement
    wide = 40
    coordinates = np.moveaxis(places + start + wide, -1, 0)
    padded = np.pad(image[..., 0], wide), np.pad(classes, wide)
    np.testing.assert_allclose(
        patch[..., 0], ndimage.map_coordinates(padded[0], coordinates, order=1), atol=2e-4
    )
    # Ties of the rounding may fall to either side in single precision.
    assert (labels != ndimage.map_coordinates(padded[1], coordinates, order=0)).mean() <= 0.01


def test_warp_by_whole_voxels_and_mirrors() -> None:
    image, classes = smooth_scan()
    shifted = PatchWarp(np.eye(3), np.array([2.0, 0, -1]), None, (1,))
    patch, labels = shifted.apply(image, classes, (3, 2, 4), (8, 9, 7))
    np.testing.assert_allclose(patch, image[5:13, 2:11, 3:10][:, ::-1], atol=1e-6)
    np.testing.assert_array_equal(labels, classes[5:13, 2:11, 3:10][:, ::-1])


def test_rotation_turns_about_the_centre() -> None:
    turn = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    image = rng().normal(size=(9, 9, 9, 1)).astype(np.float32)
    patch, _ = PatchWarp(turn, np.zeros(3)).apply(image, np.zeros((9, 9, 9), np.uint8), (0, 0, 0), (9, 9, 9))
    np.testing.assert_allclose(patch, np.rot90(image), atol=1e-5)


def test_sizes_of_the_intensity_changes() -> None:
    image, classes = smooth_scan((32, 32, 32))
    noisy, _ = Augmentation(**{**OFF, "noise": 1, "noise_size": 0.5})(image, classes, rng(2))
    assert 0 < (noisy - image).std() <= 0.5 * image.std() * 1.05
    stronger, _ = Augmentation(**{**OFF, "contrast": 1})(image, classes, rng(2))
    assert stronger.mean() == pytest.approx(image.mean(), abs=1e-4)
    assert 0.75 <= stronger.std() / image.std() <= 1.25
    gamma, _ = Augmentation(**{**OFF, "gamma": 1})(image, classes, rng(2))
    assert gamma.min() == pytest.approx(image.min()) and gamma.max() == pytest.approx(image.max(), rel=1e-5)
    ranks = [array.ravel().argsort(kind="stable") for array in (image, gamma)]
    assert (np.abs(np.argsort(ranks[0]) - np.argsort(ranks[1])) < 50).mean() > 0.999  # The order stays.


@pytest.mark.parametrize("size", [1, 2, 7, 16])
@pytest.mark.parametrize("amount", [1.0, 1.7, 3.0, 20.0])
def test_loss_of_detail(size: int, amount: float) -> None:
    for matrix in (blur_matrix(size, amount), coarse_matrix(size, amount)):
        assert matrix.shape == (size, size) and matrix.dtype == np.float32
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)  # Constants stay.
        assert matrix.min() >= 0
    np.testing.assert_allclose(coarse_matrix(size, 1.0), np.eye(size), atol=1e-7)


def test_blur_equals_scipy_inside() -> None:
    image, _ = smooth_scan()
    blurred = apply_along_axes(image, [blur_matrix(24, 1.2), None, blur_matrix(28, 0.7)])
    expected = ndimage.gaussian_filter(image, (1.2, 0, 0.7, 0), truncate=8)
    np.testing.assert_allclose(blurred[10:14, :, 6:22], expected[10:14, :, 6:22], atol=2e-4)


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"rotation": -1}, {"flip_axes": (3,)}, {"thickness": 0.5}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(wrong))):
        Augmentation(**wrong)


def test_chain_and_margin() -> None:
    image, classes = smooth_scan()
    seen: list[tuple[int, ...]] = []

    def watch(patch: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> Any:
        seen.append(labels.shape)
        patch += 1
        return patch, labels

    kept = image.copy()
    chain = Chain([watch, watch], margin=2)
    changed, _ = augmented_patch(image, classes, (4, 4, 4), (6, 6, 6), chain, rng())
    assert seen == [(10, 10, 10)] * 2
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_allclose(changed, image[4:10, 4:10, 4:10] + 2, atol=1e-6)
    half = Chain([watch] * 100, probability=0.5)
    raised = (half(image.copy(), classes, rng())[0] - image).mean()
    assert 35 < raised < 65
    with pytest.raises(InvalidOption, match="probability"):
        Chain([watch], probability=2)


def test_torchio_compose() -> None:
    torchio = pytest.importorskip("torchio")
    from kerasneuro.training.changes.torchio import TorchioAugment
    from kerasneuro.training.scans.cutting import check_augment

    image, classes = smooth_scan()
    both = torchio.Compose([torchio.RandomFlip(axes=(0,), flip_probability=1), torchio.RandomGamma()])
    change = check_augment(both)
    assert isinstance(change, TorchioAugment)
    changed, labels = augmented_patch(image, classes, (2, 2, 2), (8, 8, 8), change, rng(1))
    np.testing.assert_array_equal(labels, classes[2:10, 2:10, 2:10][::-1])
    assert changed.dtype == np.float32 and labels.dtype == classes.dtype
    again, _ = augmented_patch(image, classes, (2, 2, 2), (8, 8, 8), change, rng(1))
    np.testing.assert_array_equal(changed, again)
    other, _ = augmented_patch(image, classes, (2, 2, 2), (8, 8, 8), change, rng(2))
    assert not np.array_equal(changed, other)
    with pytest.raises(InvalidOption, match="transform of TorchIO"):
        TorchioAugment(lambda subject: subject)


def test_nobrainer_transforms_equal_the_original(fixtures: Path) -> None:
    stored = np.load(fixtures / "nobrainer" / "intensity_spatial.npz")
    x, mask = stored["x"], stored["mask"]
    np.testing.assert_array_equal(nobrainer.min_max(x), stored["minmax"])
    np.testing.assert_allclose(nobrainer.scale_between(x, -2, 5), stored["custom_x"], atol=1e-6)
    np.testing.assert_allclose(nobrainer.scale_between(mask, 0, 3), stored["custom_y"], atol=1e-6)
    np.testing.assert_array_equal(nobrainer.mask_image(x, mask), stored["masked"])
    np.testing.assert_allclose(nobrainer.adjust_contrast(x, 1.5), stored["gamma15"], atol=1e-6)


def test_nobrainer_random_transforms() -> None:
    image, classes = smooth_scan((16, 16, 16), channels=2)
    noisy, same = nobrainer.gaussian_noise(image, classes, rng())
    assert (noisy - image).std() == pytest.approx(0.1, rel=0.03)
    np.testing.assert_array_equal(same, classes)
    mirrored, labels = nobrainer.random_mirror(image, classes, rng())
    mirrors = [np.flip(classes, axis) for axis in range(3)]
    axis = next(axis for axis, each in enumerate(mirrors) if np.array_equal(each, labels))
    np.testing.assert_array_equal(mirrored, np.flip(image, axis))
    turned, labels = nobrainer.random_rigid(image, classes, rng(1))
    assert turned.shape == image.shape and labels.dtype == classes.dtype
    # Where image and classes came from inside, bright voxels are still those of the class.
    middle = (slice(5, 11),) * 3
    assert (labels[middle] == (turned[middle][..., 0] > 0.5)).mean() > 0.9
    assert not np.array_equal(turned, image)


def test_order_of_the_draws_is_the_settings_own() -> None:
    image, classes = smooth_scan()
    whole = [Augmentation(flip_axes=(0,))(image, classes, rng(seed))[0] for seed in range(6)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(whole, 2))
