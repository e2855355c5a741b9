"""The generative model of SynthMorph: shapes from noise, images from labels, and the pairs made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.training.changes import noise
from kerasneuro.training.changes.volumes import random_flip
from kerasneuro.training.registration import synthesis
from kerasneuro.training.registration.shapes import ShapeSettings, random_shapes
from kerasneuro.training.registration.synthesis import SynthesisSettings, synthesise

pytestmark = pytest.mark.backend_free

SHAPES = [(40, 48), (20, 24, 28)]
OFF = SynthesisSettings(warp_deviation=0, spread=(0, 0), zero_background=0, blur=0, bias_deviation=0, gamma=0)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blocks(shape: tuple[int, ...] = (24, 20)) -> np.ndarray:
    """Make a map with the labels 0, 2 and 5."""
    labels = np.zeros(shape, np.int16)
    labels[4:12, 4:16], labels[12:20, 4:16] = 2, 5
    return labels


# Noise and warps.


def test_enlarging_is_linear_and_corner_on_corner() -> None:
    coarse = generator().normal(size=(3, 4, 2)).astype(np.float32)
    fine = noise.enlarge(coarse, (9, 16))
    expected = np.empty((9, 16, 2))
    for channel in range(2):
        rows = [np.interp(np.linspace(0, 3, 16), np.arange(4), row) for row in coarse[..., channel]]
        columns = [np.interp(np.linspace(0, 2, 9), np.arange(3), line) for line in np.array(rows).T]
        expected[..., channel] = np.array(columns).T
    np.testing.assert_allclose(fine, expected, atol=1e-6)
    assert fine.dtype == np.float32
    np.testing.assert_array_equal(noise.enlarge(np.ones((1, 1, 1), np.float32), (2, 5)), 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_smooth_at_its_scale_and_as_large_as_asked(shape: tuple[int, ...]) -> None:
    drawn = noise.smooth_noise(shape, [8], [2.0], generator(), channels=50)
    assert drawn.shape == (*shape, 50) and drawn.dtype == np.float32
    corners = drawn[(0,) * len(shape)]
    assert corners.std() == pytest.approx(2, rel=0.25)
    assert np.abs(np.diff(drawn, axis=0)).max() < 2 * 10 / 8
    assert np.ptp(noise.smooth_noise(shape, [100], [1.0], generator())) == 0
    assert np.abs(noise.smooth_noise(shape, [4, 8], [0.0, 0.0], generator())).max() == 0


def test_velocities_are_integrated_as_the_networks_do(fixtures: object) -> None:
    velocity = np.zeros((9, 8, 2), np.float32)
    velocity[..., 1] = 1.5
    np.testing.assert_allclose(noise.integrate_velocity(velocity), velocity, rtol=1e-6)
    # dx/dt = a x has the flow x exp(a): Euler's compound interest in 2**steps parts.
    places = np.arange(-4.0, 5)[:, None, None] * np.ones((1, 3, 1))
    linear = np.concatenate([-0.4 * places, 0 * places], axis=-1).astype(np.float32)
    expected = places[..., 0] * ((1 - 0.4 / 2**6) ** (2**6) - 1)
    np.testing.assert_allclose(noise.integrate_velocity(linear, 6)[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_random_displacements_move_and_do_not_fold(shape: tuple[int, ...]) -> None:
    settings = SynthesisSettings().fitted(shape)
    move = noise.random_displacement(shape, settings.warp_scales, 1.0, generator(3))
    assert move.shape == (*shape, len(shape)) and np.abs(move).max() > 0.5
    for axis in range(len(shape)):
        assert np.diff(move[..., axis], axis=axis).min() > -1


def test_warped_labels_come_from_the_nearest_voxel_and_zero_from_outside() -> None:
    labels = np.arange(1, 13, dtype=np.int16).reshape(3, 4)
    move = np.zeros((3, 4, 2), np.float32)
    move[..., 0], move[..., 1] = 0.4, 1.6
    expected = np.zeros_like(labels)
    expected[:2, :2] = labels[:2, 2:]
    expected[2] = 0
    np.testing.assert_array_equal(noise.warp_labels(labels, move), expected)
    move[:] = 0
    np.testing.assert_array_equal(noise.warp_labels(labels, move), labels)


# Shapes.


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_many_labels_in_large_pieces(shape: tuple[int, ...]) -> None:
    maps = [random_shapes(shape, generator(seed)) for seed in range(4)]
    assert all(each.shape == shape and each.dtype == np.int16 for each in maps)
    assert len(np.unique(maps)) > 12 and np.min(maps) >= 0 and np.max(maps) < 26
    borders = np.mean([np.mean(np.diff(each, axis=0) != 0) for each in maps])
    assert 0.02 < borders < 0.4
    np.testing.assert_array_equal(random_shapes(shape, generator(2)), maps[2])
    assert (maps[0] != maps[1]).mean() > 0.5


def test_settings_of_shapes_follow_the_size() -> None:
    assert ShapeSettings().fitted((160, 192, 224)) == ShapeSettings()
    half = ShapeSettings().fitted((80, 100))
    assert half.image_scales == (16, 32) and half.warp_deviation == 8
    assert random_shapes((16, 16), generator(), ShapeSettings(3, (4, 8))).max() < 3
    with pytest.raises(InvalidOption, match="2 labels"):
        ShapeSettings(labels=1)
    with pytest.raises(InvalidOption, match="at least 1 voxel"):
        ShapeSettings(image_scales=(0.5,))


# Images.


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_drawn_from_the_seed_alone(shape: tuple[int, ...]) -> None:
    labels = random_shapes(shape, generator())
    settings = SynthesisSettings(crop_probability=0.5, thickness_probability=0.5).fitted(shape)
    first, again, other = (synthesise(labels, generator(seed), settings) for seed in (1, 1, 2))
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.shape == shape and (one != three).mean() > 0.2
    image, moved = first
    assert image.dtype == np.float32 and image.min() == 0 and image.max() == 1
    assert moved.dtype == labels.dtype and set(np.unique(moved)) <= {0, *np.unique(labels)}
    assert (moved != labels).mean() > 0.05


def test_without_noise_each_label_has_one_brightness() -> None:
    labels = blocks()
    image, same = synthesise(labels, generator(), OFF)
    np.testing.assert_array_equal(same, labels)
    levels = [np.unique(image[labels == label]) for label in (0, 2, 5)]
    assert [len(level) for level in levels] == [1, 1, 1]
    assert sorted(float(level[0]) for level in levels)[::2] == [0, 1]


def test_contrast_is_random_and_within_its_ranges() -> None:
    labels = blocks((60, 60))
    images = np.stack([synthesis.random_contrast(labels, generator(seed), OFF) for seed in range(200)])
    means = {label: images[:, labels == label].mean(axis=1) for label in (0, 2, 5)}
    for label, low in ((0, 0), (2, 25), (5, 25)):
        assert low <= means[label].min() < low + 10 and 215 < means[label].max() <= 225
    assert abs(np.corrcoef(means[2], means[5])[0, 1]) < 0.25
    noisy = synthesis.random_contrast(labels, generator(), replace(OFF, spread=(20, 20)))
    assert noisy[labels == 2].std() == pytest.approx(20, rel=0.2)
    black = replace(OFF, zero_background=1.0, spread=(5, 25))
    assert np.abs(synthesis.random_contrast(labels, generator(), black)[labels == 0]).max() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"blur": 2.0},
        {"bias_deviation": 0.5, "bias_scales": (6.0,)},
        {"gamma": 0.5},
        {"thickness_probability": 1.0},
        {"spread": (5.0, 25.0)},
    ],
)
def test_every_change_of_the_image_leaves_the_labels(change: dict[str, object]) -> None:
    plain, labels = synthesise(blocks(), generator(5), OFF)
    image, same = synthesise(blocks(), generator(5), replace(OFF, **change))
    assert np.abs(image - plain).max() > 0.01
    np.testing.assert_array_equal(labels, same)


def test_crop_takes_a_part_of_one_axis_away() -> None:
    ones = np.ones((20, 30, 10), np.int16)
    for seed in range(8):
        kept = synthesis.crop(ones, 0.3, generator(seed))
        lengths = [int(kept.any(axis=tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)]
        shrunk = [axis for axis in range(3) if lengths[axis] < ones.shape[axis]]
        assert len(shrunk) == 1
        assert abs(lengths[shrunk[0]] - 0.7 * ones.shape[shrunk[0]]) <= 1
        assert kept.sum() == np.prod(lengths)
    np.testing.assert_array_equal(synthesis.crop(ones, 0, generator()), ones)


def test_cropped_images_and_labels_end_together() -> None:
    settings = replace(OFF, crop=0.5, crop_probability=1.0, zero_background=1.0)
    labels = np.full((30, 30), 3, np.int16)
    image, cropped = synthesise(labels, generator(1), settings)
    assert 0 < (cropped == 0).mean() < 0.55
    np.testing.assert_array_equal(image == 0, cropped == 0)


def test_thick_slices_repeat_the_nearest() -> None:
    image = np.arange(12.0)[:, None] * np.ones((1, 3))
    thick = synthesis.thick_slices(image, 0, 4)
    assert np.unique(thick).tolist() == [0, 6, 11]
    np.testing.assert_array_equal(synthesis.thick_slices(image, 0, 1), image)
    np.testing.assert_array_equal(synthesis.thick_slices(image, 1, 3), image)
    assert len(np.unique(synthesis.thick_slices(image, 0, 100))) == 1


def test_scaling_of_a_constant_image_is_zero() -> None:
    np.testing.assert_array_equal(synthesis.scale_to_unit(np.full((3, 3), 7)), 0)


def test_flips_are_shared_and_reach_every_axis() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    seen = set()
    for seed in range(60):
        one, two = random_flip([array, array + 100], generator(seed))
        np.testing.assert_array_equal(one + 100, two)
        seen.add(int(one[0, 0, 0]))
    assert len(seen) == 8


@pytest.mark.parametrize(
    "options", [{"crop": 2}, {"mean": (5, 1)}, {"blur": -1}, {"thickness": 0.5}, {"warp_scales": (0,)}]
)
def test_bad_settings_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption, match="settings of the synthesis"):
        SynthesisSettings(**options)


@pytest.mark.parametrize("labels", [np.zeros(5, int), np.zeros((4, 4)), np.full((4, 4), -1)])
def test_what_is_no_label_map_is_refused(labels: np.ndarray) -> None:
    with pytest.raises(InvalidImage, match="a label map has 2 or 3 axes"):
        synthesise(labels, generator())
