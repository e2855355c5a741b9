"""Losses of registration against NumPy in float64, against differences, and what their options mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.training.losses.field import (
    BendingEnergy,
    FieldGradient,
    JacobianPenalty,
    jacobian_determinant,
)
from kerasneuro.training.losses.similarity import (
    ImageMSE,
    LabelDice,
    LocalNCC,
    label_dice,
    local_correlation,
    window_sum,
)

SHAPES = [(7, 8), (6, 5, 7)]
Reference = Callable[[np.ndarray, np.ndarray], np.ndarray]


def smooth(seed: int, shape: tuple[int, ...], channels: int = 1) -> np.ndarray:
    """Make two smooth images in [0, 1]: neighbours are alike, so that windows have a correlation."""
    values = np.random.default_rng(seed).uniform(size=(2, *shape, channels))
    for axis in range(1, len(shape) + 1):
        values = (values + np.roll(values, 1, axis)) / 2
    return values.astype(np.float32)


def field(seed: int, shape: tuple[int, ...], size: float = 1.0) -> np.ndarray:
    return (size * np.random.default_rng(seed).normal(size=(2, *shape, len(shape)))).astype(np.float32)


def mean(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(axis=1)


# The same quantities, written down another way, in float64.


def numpy_windows(maps: np.ndarray, window: int) -> np.ndarray:
    """Sum ``(B, ..., C)`` over channels and windows, by a view of all windows."""
    rank = maps.ndim - 2
    padding = [(0, 0), *[((window - 1) // 2, window // 2)] * rank]
    padded = np.pad(maps.sum(axis=-1), padding)
    axes = tuple(range(1, rank + 1))
    views = np.lib.stride_tricks.sliding_window_view(padded, (window,) * rank, axis=axes)
    return views.sum(axis=tuple(range(-rank, 0)))


def numpy_ncc(fixed: np.ndarray, moved: np.ndarray, window: int, epsilon: float = 1e-5) -> np.ndarray:
    i, j = fixed.astype(float), moved.astype(float)
    count = window ** (i.ndim - 2) * i.shape[-1]
    i_sum, j_sum, i2, j2, ij = (numpy_windows(part, window) for part in (i, j, i * i, j * j, i * j))
    i_mean, j_mean = i_sum / count, j_sum / count
    cross = np.maximum(ij - j_mean * i_sum - i_mean * j_sum + i_mean * j_mean * count, epsilon)
    i_variance = np.maximum(i2 - 2 * i_mean * i_sum + i_mean**2 * count, epsilon)
    j_variance = np.maximum(j2 - 2 * j_mean * j_sum + j_mean**2 * count, epsilon)
    return -mean((cross / i_variance) * (cross / j_variance))


def numpy_dice(fixed: np.ndarray, moved: np.ndarray) -> np.ndarray:
    axes = tuple(range(1, fixed.ndim - 1))
    fixed, moved = fixed.astype(float), moved.astype(float)
    return 1 - np.mean(2 * (fixed * moved).sum(axes) / (fixed.sum(axes) + moved.sum(axes)), axis=-1)


def numpy_gradient(u: np.ndarray, power: int, weight: np.ndarray | float = 1.0) -> np.ndarray:
    u, rank = u.astype(float), u.ndim - 2
    weight = np.broadcast_to(weight, u.shape)
    parts = []
    for axis in range(1, rank + 1):
        later = np.moveaxis(weight, axis, 0)[1:]
        parts.append(np.abs(np.moveaxis(np.diff(u, axis=axis), axis, 0) * later) ** power)
    return np.mean([mean(np.moveaxis(part, 1, 0)) for part in parts], axis=0)


def numpy_bending(u: np.ndarray) -> np.ndarray:
    """Sum all entries of the Hessian, each mixed one twice by symmetry; np.gradient is central inside."""
    u, rank = u.astype(float), u.ndim - 2
    inside = (slice(None), *(slice(1, -1),) * rank)
    total = np.zeros(u[inside].shape)
    for first in range(1, rank + 1):
        for second in range(1, rank + 1):
            if first == second:
                entry = np.diff(u, 2, axis=first)
                others = (
                    slice(1, -1) if axis not in (0, first, rank + 1) else slice(None)
                    for axis in range(u.ndim)
                )
                total += entry[tuple(others)] ** 2
            else:
                total += np.gradient(np.gradient(u, axis=first), axis=second)[inside] ** 2
    return mean(total.sum(axis=-1))


def numpy_determinant(u: np.ndarray) -> np.ndarray:
    rank = u.ndim - 2
    places = u.astype(float) + np.stack(np.indices(u.shape[1:-1]), axis=-1)
    cells = (slice(None), *(slice(None, -1),) * rank)
    rows = []
    for axis in range(1, rank + 1):
        index = list(cells)
        index[axis] = slice(None)
        rows.append(np.diff(places[tuple(index)], axis=axis))
    return np.linalg.det(np.stack(rows, axis=-1))


def numpy_jacobian(_: np.ndarray, u: np.ndarray) -> np.ndarray:
    return mean(np.maximum(-numpy_determinant(u), 0))


def cases(shape: tuple[int, ...]) -> dict[str, tuple[keras.losses.Loss, Reference, np.ndarray, np.ndarray]]:
    """Name -> loss, the same in NumPy, truth and prediction."""
    one, two = smooth(1, shape), smooth(2, shape)
    related = (0.5 * one + 0.4 * two).astype(np.float32)
    soft = [smooth(seed, shape, 3) for seed in (3, 4)]
    weight = np.random.default_rng(9).uniform(0.5, 2, size=(1, *shape, 1)).astype(np.float32)
    u, big = field(5, shape), field(6, shape, 1.3)
    return {
        "ncc": (LocalNCC(3), lambda a, b: numpy_ncc(a, b, 3), one, related),
        "ncc default": (LocalNCC(), lambda a, b: numpy_ncc(a, b, 9), one, related),
        "ncc even": (LocalNCC(4), lambda a, b: numpy_ncc(a, b, 4), one, related),
        "ncc channels": (LocalNCC(3), lambda a, b: numpy_ncc(a, b, 3), soft[0], soft[1]),
        "mse": (ImageMSE(0.05), lambda a, b: mean((a.astype(float) - b) ** 2) / 0.05**2, one, two),
        "dice": (LabelDice(), numpy_dice, *soft),
        "l1": (FieldGradient("l1"), lambda _, b: numpy_gradient(b, 1), u, u),
        "l2": (FieldGradient("l2", loss_mult=2), lambda _, b: 2 * numpy_gradient(b, 2), u, u),
        "weighted": (
            FieldGradient("l2", vox_weight=weight),
            lambda _, b: numpy_gradient(b, 2, weight.astype(float)),
            u,
            u,
        ),
        "bending": (BendingEnergy(), lambda _, b: numpy_bending(b), u, u),
        "jacobian": (JacobianPenalty(), numpy_jacobian, big, big),
    }


NAMES = list(cases(SHAPES[0]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_losses_have_the_values_of_numpy(name: str, shape: tuple[int, ...]) -> None:
    loss, reference, truth, prediction = cases(shape)[name]
    expected = reference(truth, prediction)
    found = ops.convert_to_numpy(loss.call(ops.convert_to_tensor(truth), ops.convert_to_tensor(prediction)))
    assert found.shape == (2,) and np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert float(loss(truth, prediction)) == pytest.approx(expected.mean(), rel=2e-5)
    assert float(loss(truth, prediction, np.array([0.25, 0]))) == pytest.approx(expected[0] / 8, rel=2e-5)


class Table(keras.layers.Layer):
    """A layer whose output is its only weight, so that a step of training shows the loss's gradient."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.table = self.add_weight(shape=shape, initializer="zeros", name="table")

    def call(self, inputs: object) -> object:
        return self.table + 0 * ops.sum(inputs)


def gradient(loss: keras.losses.Loss, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the gradient by the prediction, from one step of training."""
    layer = Table(prediction.shape)
    model = keras.Sequential([keras.Input((1,)), layer])
    layer.table.assign(np.zeros_like(prediction))
    rate = 1e3
    layer.table.assign(prediction)
    model.compile(optimizer=keras.optimizers.SGD(rate), loss=loss)
    model.train_on_batch(np.zeros((len(prediction), 1), np.float32), truth)
    return (prediction.astype(float) - ops.convert_to_numpy(layer.table)) / rate


@pytest.mark.training
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ncc default"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_differences(name: str, shape: tuple[int, ...]) -> None:
    loss, reference, truth, prediction = cases(shape)[name]
    found = gradient(loss, truth, prediction)
    step = 1e-6
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=prediction.shape)
        ahead, behind = (reference(truth, prediction + sign * step * direction).mean() for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        assert np.sum(found * direction) == pytest.approx(slope, rel=1e-3, abs=2e-6)
    assert np.abs(found).max() > 1e-5


@pytest.mark.training
def test_labels_and_windows_that_are_empty_have_a_finite_gradient() -> None:
    empty = np.zeros((1, 6, 6, 2), np.float32)
    labels = empty.copy()
    labels[:, :3, :, 0] = 1
    for loss in (LabelDice(), LocalNCC(3)):
        assert np.isfinite(gradient(loss, labels, labels)).all()
        assert np.isfinite(gradient(loss, labels, empty)).all()


def test_dice_of_hard_labels_and_of_an_absent_one() -> None:
    maps = np.zeros((2, 1, 4, 4), int)
    maps[0, 0, 1:3], maps[1, 0, 2:4] = 1, 1
    fixed, moved = np.eye(3, dtype=np.float32)[maps]
    np.testing.assert_allclose(ops.convert_to_numpy(label_dice(fixed, moved)), [[0.5, 0.5, 0]])
    assert float(LabelDice()(fixed, moved)) == pytest.approx(1 - 1 / 3)
    assert float(LabelDice()(fixed[..., :2], fixed[..., :2])) == pytest.approx(0)


def test_correlation_is_one_for_a_linear_relation_and_blind_to_brightness() -> None:
    image = np.random.default_rng(0).uniform(size=(1, 12, 12, 1)).astype(np.float32)
    inside = (0, slice(2, -2), slice(2, -2))
    related = ops.convert_to_numpy(local_correlation(image, 0.3 * image + 0.5, 5))
    np.testing.assert_allclose(related[inside], 1, atol=1e-3)
    assert ops.convert_to_numpy(local_correlation(image, 1 - image, 5))[inside].max() < 1e-6
    assert np.abs(ops.convert_to_numpy(local_correlation(image, 0 * image, 5))).max() < 1e-3
    np.testing.assert_allclose(
        ops.convert_to_numpy(local_correlation(image, image, (3, 3))),
        ops.convert_to_numpy(local_correlation(image, image, 3)),
    )


def test_window_sum_counts_the_voxels_inside() -> None:
    counts = ops.convert_to_numpy(window_sum(ops.ones((1, 4, 5, 1)), (3, 1)))[0, ..., 0]
    np.testing.assert_array_equal(counts, np.repeat([[2], [3], [3], [2]], 5, axis=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_fields_do_not_bend_and_have_one_determinant(shape: tuple[int, ...]) -> None:
    rank = len(shape)
    linear = np.random.default_rng(0).normal(size=(rank, rank)) * 0.4
    u = (np.stack(np.indices(shape), axis=-1) @ linear.T)[None].astype(np.float32)
    assert float(BendingEnergy()(u, u)) < 1e-9
    found = ops.convert_to_numpy(jacobian_determinant(u))
    np.testing.assert_allclose(found, np.linalg.det(np.eye(rank) + linear), rtol=1e-4)
    np.testing.assert_allclose(found, numpy_determinant(u), rtol=1e-4)
    quadratic = np.zeros_like(u)
    quadratic[..., 0] = np.indices(shape)[0] ** 2 / 2 + np.prod(np.indices(shape)[:2], axis=0)
    assert float(BendingEnergy()(u, quadratic)) == pytest.approx(1 + 2, rel=1e-5)


def test_only_folding_is_penalised() -> None:
    u = np.zeros((1, 6, 6, 2), np.float32)
    assert float(JacobianPenalty()(u, u)) == 0
    mirrored = u.copy()
    mirrored[..., 0] = -2 * np.arange(6)[:, None]
    assert float(JacobianPenalty()(u, mirrored)) == pytest.approx(1)


def test_sizes_may_be_unknown_when_the_graph_is_built() -> None:
    free = keras.Input((None, None, 2))
    for loss in (LocalNCC(3), LabelDice(), FieldGradient("l2"), BendingEnergy(), JacobianPenalty()):
        assert len(loss.call(free, free).shape) == 1


@pytest.mark.parametrize(
    "loss",
    [
        LocalNCC([3, 5, 7], epsilon=1e-3, name="mine"),
        LocalNCC(),
        ImageMSE(0.05),
        LabelDice(),
        FieldGradient("l2", loss_mult=2, vox_weight=np.ones((1, 4, 4, 1))),
        BendingEnergy(),
        JacobianPenalty(),
    ],
)
def test_losses_are_rebuilt_from_their_config(loss: keras.losses.Loss) -> None:
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: LocalNCC([3, 3, 3])(x, x), r"each of the 2 axes, found \[3, 3, 3\]"),
        (lambda x: LocalNCC(0)(x, x), "at least 1"),
        (lambda x: ImageMSE(0), "above 0, found 0"),
        (lambda x: FieldGradient("l3"), "found 'l3'"),
        (lambda x: BendingEnergy()(x, x[:, :2]), "at least 3 voxels"),
        (lambda x: JacobianPenalty()(x, x[..., :1]), "2 components on 2 axes, found 1"),
    ],
)
def test_bad_options_are_refused(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        call(np.zeros((1, 6, 6, 2), np.float32))
