"""Affine algebra against the original's numbers, and against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn import affine
from kerasneuro.nn import affine_parameters as parameters

ATOL = 1e-5
SEEDS = st.integers(0, 2**32 - 1)
# Each new shape is compiled anew on all backends but PyTorch.
FEW = settings(max_examples=6 if keras.backend.backend() == "torch" else 2, deadline=None)


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def check(found: Any, expected: np.ndarray, atol: float = ATOL) -> None:
    found = numpy(found)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def near_identity(seed: int, n: int, batch: int = 2) -> np.ndarray:
    """Return matrices whose linear part is close enough to the identity to have a root."""
    rng = np.random.default_rng(seed)
    linear = np.eye(n) + rng.uniform(-0.2, 0.2, (batch, n, n))
    return np.concatenate([linear, rng.uniform(-10, 10, (batch, n, 1))], axis=-1).astype(np.float32)


def square(matrix: np.ndarray) -> np.ndarray:
    last = np.zeros((*matrix.shape[:-2], 1, matrix.shape[-1]))
    last[..., -1] = 1
    return np.concatenate([matrix.astype(np.float64), last], axis=-2)


@pytest.fixture(scope="module")
def original(fixtures: Path) -> Mapping[str, np.ndarray]:
    with np.load(fixtures / "synthmorph" / "op_affine_algebra.npz") as arrays:
        return dict(arrays)


def test_fit(original: Mapping[str, np.ndarray]) -> None:
    source, target = original["x_source"], original["x_target"]
    check(affine.fit_affine(source, target), original["fit"])
    check(affine.fit_affine(source, target, original["weights"]), original["fit_weighted"])


def test_invert(original: Mapping[str, np.ndarray]) -> None:
    check(affine.invert_affine(original["M"]), original["invert"])


def test_square_root(original: Mapping[str, np.ndarray]) -> None:
    check(affine.make_square(original["M"][:3]), original["square"])
    check(affine.make_square(original["square"]), original["square"])
    check(affine.square_root(original["square"]), original["sqrtm"])
    check(affine.square_root(original["M"][:3]), original["sqrtm"][:, :3])


def test_parameters_of_a_matrix(original: Mapping[str, np.ndarray]) -> None:
    found = parameters.parameters_from_affine(original["M"])
    check(found, original["params"], 1e-4)  # degrees: 1e-4 are 2e-6 radians
    check(parameters.parameters_from_affine(original["M"], degrees=False), original["params_rad"])
    check(parameters.affine_from_parameters(found), original["params_roundtrip"])
    check(parameters.parameters_from_affine(original["M2d"]), original["params2d"], 1e-4)


def test_matrix_of_parameters(original: Mapping[str, np.ndarray]) -> None:
    given_parameters = original["params12_in"]
    check(parameters.affine_from_parameters(given_parameters), original["params12_mat"])
    found = parameters.affine_from_parameters(
        given_parameters, degrees=False, shift_scale=True, last_row=True
    )
    check(found, original["params12_shift_scale_last_row"])


def test_rotations(original: Mapping[str, np.ndarray]) -> None:
    check(parameters.rotation(original["angles_in"]), original["rotmat"])
    # Near a right angle the arcsine of a float32 is known to 0.02 degrees.
    check(parameters.rotation_angles(original["rotmat"]), original["angles_out"], 1e-3)


def test_rigid(original: Mapping[str, np.ndarray]) -> None:
    check(parameters.rigid_from_affine(original["M"]), original["rigid"])


def test_barycentre(original: Mapping[str, np.ndarray]) -> None:
    check(affine.barycentre(original["feat"]), original["bary_norm_center"])
    check(affine.barycentre(original["feat"], normalise=False, centre=False), original["bary_plain"])


def test_barycentre_of_an_empty_channel_is_zero() -> None:
    features = np.zeros((1, 4, 6, 2), np.float32)
    features[0, 3, 0, 1] = 2
    check(affine.barycentre(features), np.array([[[0, 0], [1.5 / 4, -2.5 / 6]]]))


@FEW
@given(SEEDS, st.sampled_from([2, 3]))
def test_algebra_agrees_with_numpy(seed: int, n: int) -> None:
    a, b, c = (near_identity(seed + index, n) for index in range(3))
    inverted = np.linalg.inv(square(a))
    check(affine.invert_affine(a), inverted[:, :n], 1e-4)
    check(affine.invert_affine(square(a).astype(np.float32)), inverted, 1e-4)
    check(affine.multiply(a, b, c), (square(a) @ square(b) @ square(c))[:, :n], 1e-4)
    check(affine.determinant(a[..., :n]), np.linalg.det(a[..., :n].astype(np.float64)))
    root = affine.square_root(a)
    check(affine.multiply(root, root), a, 1e-4)
    check(affine.rescale_affine(a, 2), np.concatenate([a[..., :n], 2 * a[..., n:]], axis=-1))
    rebuilt = parameters.affine_from_parameters(parameters.parameters_from_affine(a), n)
    check(rebuilt, a, 1e-4)


@FEW
@given(SEEDS, st.sampled_from([2, 3]))
def test_fit_recovers_the_map_of_exact_points(seed: int, n: int) -> None:
    matrix = near_identity(seed, n)
    source = np.random.default_rng(seed).uniform(-20, 20, (2, 30, n)).astype(np.float32)
    target = source @ np.swapaxes(matrix[..., :n], 1, 2) + matrix[:, None, :, n]
    weights = np.random.default_rng(seed).uniform(0.1, 1, (2, 30)).astype(np.float32)
    check(affine.fit_affine(target, source, weights), matrix, 1e-4)


@pytest.mark.parametrize("shape", [(7, 5), (4, 9, 6)])
def test_uncentre_moves_the_origin(shape: tuple[int, ...]) -> None:
    matrix = near_identity(0, len(shape))
    centre = (np.array(shape) - 1) / 2
    point = np.arange(len(shape)) + 1.5
    expected = np.einsum("bij,j->bi", square(matrix), [*(point - centre), 1])[:, :-1] + centre
    found = np.einsum("bij,j->bi", numpy(affine.uncentre(matrix, shape)), [*point, 1])
    np.testing.assert_allclose(found, expected, atol=ATOL)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(InvalidOption, match="found 2 and 4"):
        affine.invert_affine(np.zeros((1, 2, 4), np.float32))
    with pytest.raises(InvalidOption, match="found 13 parameters"):
        parameters.affine_from_parameters(np.zeros((1, 13), np.float32))


@pytest.mark.training
def test_gradients_of_fit_and_root(check_gradient: Callable[..., None]) -> None:
    rng = np.random.default_rng(1)
    source, noise = (rng.normal(size=(1, 12, 3)).astype(np.float32) * 5 for _ in range(2))
    target = source + 0.1 * noise
    check_gradient(lambda x: affine.square_root(affine.fit_affine(x, source)), target)
    check_gradient(lambda x: parameters.rigid_from_affine(affine.fit_affine(x, source)), target)
