"""Pictures show the map where it is, on the side where it is."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import nibabel
import numpy as np
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.explain import draw_head, draw_montage
from kerasneuro.explain.figures import make_scene, tint, value_limits
from kerasneuro.explain.head_view import SAMPLES, VIEWS, render, view_directions

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib"),
]

LAS = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -20], [0, 0, 2, -20], [0, 0, 0, 1]])


def head(heat_value: float = 1.0) -> tuple[nibabel.Nifti1Image, np.ndarray]:
    """A ball of 20 voxels, stored from right to left, with a hot spot in the left front upper part."""
    x, y, z = np.meshgrid(*[np.arange(24) - 11.5] * 3, indexing="ij")
    ball = np.where(x**2 + y**2 + z**2 < 100, 80.0, 0.0).astype(np.float32)
    heat = np.zeros(ball.shape, np.float32)
    heat[15:18, 15:18, 14:17] = heat_value
    return nibabel.Nifti1Image(ball, LAS), heat


def pixels(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(png))[..., :3]


def reddish(picture: np.ndarray) -> int:
    return int((picture[..., 0] > picture[..., 2] + 0.3).sum())


def bluish(picture: np.ndarray) -> int:
    return int((picture[..., 2] > picture[..., 0] + 0.3).sum())


@pytest.mark.parametrize("draw", [draw_montage, draw_head])
def test_a_hot_spot_is_coloured_and_an_empty_map_is_not(draw: Any) -> None:
    scan, heat = head()
    assert reddish(pixels(draw(scan, heat, title="sub-01"))) > 50
    assert reddish(pixels(draw(scan, 0 * heat))) == 0


def test_a_signed_map_has_two_colours() -> None:
    scan, heat = head()
    heat[5:8, 15:18, 14:17] = -1
    picture = pixels(draw_montage(scan, nibabel.Nifti1Image(heat, LAS)))
    assert bluish(picture) > 50
    assert reddish(picture) > 50


def test_scan_and_map_are_turned_together() -> None:
    scan, heat = head()
    scene, values = make_scene(scan, heat, 0.5)
    assert values[6:9, 15:18, 14:17].min() == 1  # stored right to left, shown left to right
    assert values.sum() == heat.sum()
    assert scene.labels is not None
    np.testing.assert_array_equal(scene.labels != 0, values > 0)


def test_directions_of_a_view_are_right_handed_for_the_viewer() -> None:
    expected = {
        "from the left": ([0, -1, 0], [1, 0, 0], [0, 0, 1]),
        "from the front": ([-1, 0, 0], [0, -1, 0], [0, 0, 1]),
        "from the right": ([0, 1, 0], [-1, 0, 0], [0, 0, 1]),
        "from above": ([1, 0, 0], [0, 0, -1], [0, 1, 0]),
    }
    for name, axes in expected.items():
        np.testing.assert_allclose(view_directions(*VIEWS[name]), axes, atol=1e-12)
    for azimuth, elevation in VIEWS.values():
        axes = view_directions(azimuth, elevation)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("view", "right", "up"),
    [("from the left", -1, 1), ("from the front", 1, 1), ("from the right", 1, 1), ("from above", -1, 1)],
)
def test_a_hot_spot_is_seen_on_its_side(view: str, right: int, up: int) -> None:
    scene, values = make_scene(*head(), 0.5)
    shade, seen = render(scene, values, view_directions(*VIEWS[view]), skin=10.0)
    where = np.argwhere(seen > 0.5).mean(axis=0) - (SAMPLES - 1) / 2
    assert where[0] * right > 3
    assert where[1] * up > 3
    assert shade.max() > 0.4
    assert shade[0, 0] == 0


def test_colours_span_the_values() -> None:
    assert value_limits(np.array([0.0, 0.25, 2.0])) == (0.0, 2.0)
    assert value_limits(np.array([-3.0, 0.0, 3.0])) == (-3.0, 3.0)
    assert value_limits(np.zeros(3)) == (0.0, 1.0)
    colours = tint(np.array([-1.0, 0.0, 1.0]), (-1.0, 1.0))
    assert colours[1, 3] == 0
    assert colours[0, 2] > colours[0, 0]
    assert colours[2, 0] > colours[2, 2]


@pytest.mark.parametrize("draw", [draw_montage, draw_head])
def test_wrong_arguments_are_refused(draw: Any) -> None:
    scan, heat = head()
    with pytest.raises(InvalidOption, match="grid of the scan"):
        draw(scan, heat[:-1])
    with pytest.raises(InvalidOption, match="threshold"):
        draw(scan, heat, threshold=1.0)
    with pytest.raises(InvalidOption, match="finite"):
        draw(scan, np.full_like(heat, np.nan))
