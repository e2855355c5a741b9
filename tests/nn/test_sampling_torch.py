"""Tiles of PyTorch's fast path against SciPy, and against the path that keeps gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from kerasneuro.nn import sampling_torch

pytestmark = pytest.mark.backend_free


def by_scipy(volume: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, displacement.shape[:-1]), indexing="ij"))
    places = grid + np.moveaxis(displacement, -1, 0).astype(np.float64)
    channels = [map_coordinates(part, places, order=1, mode="nearest") for part in np.moveaxis(volume, -1, 0)]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("tile", [1, 7, 60, 10**6])
@pytest.mark.parametrize("sizes", [(5, 6, 7), (9, 8), (1, 4, 3)])
def test_any_tile_gives_the_same(tile: int, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_torch, "CPU_TILE", tile)
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(2, *(size + 1 for size in sizes), 3)).astype(np.float32)
    fields = rng.normal(size=(2, *sizes, len(sizes)), scale=3).astype(np.float32)
    found = sampling_torch.displace_linear(torch.from_numpy(volumes), torch.from_numpy(fields)).numpy()
    for index in range(2):
        np.testing.assert_allclose(found[index], by_scipy(volumes[index], fields[index]), atol=1e-5)
    shared = sampling_torch.displace_linear(torch.from_numpy(volumes), torch.from_numpy(fields[:1])).numpy()
    np.testing.assert_allclose(shared[1], by_scipy(volumes[1], fields[0]), atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_integration_without_gradients_is_that_with_them(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_torch, "CPU_TILE", 20)
    velocity = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 6, 5, 4, 3)).astype(np.float32))
    before = velocity.clone()
    expected = velocity * 2.0**-steps
    axes = torch.meshgrid(*[torch.arange(size) for size in velocity.shape[1:-1]], indexing="ij")
    for _ in range(steps):
        places = [axis + expected[..., number] for number, axis in enumerate(axes)]
        expected = expected + sampling_torch.sample_linear(expected, places, velocity.shape[1:-1])
    found = sampling_torch.integrate(velocity, steps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(velocity, before)


def test_gradients_are_noticed() -> None:
    leaf = torch.zeros(3, requires_grad=True)
    assert sampling_torch.is_differentiated(torch.zeros(3), leaf)
    assert not sampling_torch.is_differentiated(torch.zeros(3))
    with torch.no_grad():
        assert not sampling_torch.is_differentiated(leaf)
