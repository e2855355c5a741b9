"""Grids of images: the parts of their matrix, equality, and the networks' grid, against surfa."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidImage
from kerasneuro.volume import Geometry, Volume, network_geometry

angles = st.floats(-3, 3)
sizes = st.floats(0.3, 4)
shears = st.floats(-0.3, 0.3)
lengths = st.integers(1, 300)


@st.composite
def geometries(draw: st.DrawFn, most_shear: float = 0.3) -> Geometry:
    """Draw an oblique grid, mirrored or not, sheared or not."""
    rotation = nibabel.eulerangles.euler2mat(draw(angles), draw(angles), draw(angles))
    if draw(st.booleans()):
        rotation = rotation * [-1, 1, 1]
    shear = [draw(st.floats(-most_shear, most_shear)) for _ in range(3)]
    centre = [draw(st.floats(-200, 200)) for _ in range(3)]
    shape = [draw(lengths) for _ in range(3)]
    return Geometry.of_parts(shape, [draw(sizes) for _ in range(3)], rotation, centre, shear)


@pytest.fixture(scope="module")
def stored(fixtures: Path) -> Any:
    return np.load(fixtures / "synthmorph" / "op_geometry.npz")


@pytest.mark.parametrize("name", ["g0", "g1", "g2"])
def test_parts_equal_the_original(stored: Any, name: str) -> None:
    grid = Geometry(tuple(stored[f"{name}_shape"]), stored[f"{name}_vox2world"])
    for part, key in (("voxel_size", "voxsize"), ("rotation",) * 2, ("shear",) * 2, ("centre", "center")):
        np.testing.assert_allclose(getattr(grid, part), stored[f"{name}_{key}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("extent", [192, 256])
@pytest.mark.parametrize("name", ["g0", "g1", "g2"])
def test_network_grid_equals_the_original(stored: Any, name: str, extent: int) -> None:
    grid = Geometry(tuple(stored[f"{name}_shape"]), stored[f"{name}_vox2world"])
    network = network_geometry(extent, grid.centre)
    expected = stored[f"{name}_net{extent}_vox2world"], stored[f"{name}_net{extent}_to_vox"]
    np.testing.assert_allclose(network.vox2world, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.world2vox @ network.vox2world, expected[1], rtol=0, atol=1e-12)
    back = network.world2vox @ grid.vox2world
    np.testing.assert_allclose(back, stored[f"{name}_vox_to_net{extent}"], rtol=0, atol=1e-12)


@given(geometries())
def test_parts_compose_to_the_matrix(grid: Geometry) -> None:
    assert np.all(grid.voxel_size > 0)
    np.testing.assert_allclose(grid.rotation.T @ grid.rotation, np.eye(3), atol=1e-12)
    again = Geometry.of_parts(grid.shape, grid.voxel_size, grid.rotation, grid.centre, grid.shear)
    np.testing.assert_allclose(again.vox2world, grid.vox2world, rtol=0, atol=1e-9)
    plain = Geometry.of_parts(grid.shape, *grid.without_shear())
    # Shears below 1e-5 are dropped, as the files of FreeSurfer do; others live on in the directions.
    np.testing.assert_allclose(plain.vox2world, grid.vox2world, rtol=0, atol=1e-5 * 4 * 300)
    assert plain == again or np.abs(grid.shear).max() <= 1e-5


@given(geometries(), st.floats(-1, 1))
def test_equality_has_a_tolerance(grid: Geometry, shift: float) -> None:
    moved = grid.vox2world.copy()
    moved[0, 3] += 5e-4 * shift
    assert Geometry(grid.shape, moved) == grid
    moved[1, 3] += 0.002
    assert Geometry(grid.shape, moved) != grid
    x, y, z = grid.shape
    assert Geometry((x, y, z + 1), grid.vox2world) != grid
    assert grid != "grid"


def test_header_keeps_its_voxel_size(fixtures: Path) -> None:
    image = nibabel.load(fixtures / "synthmorph" / "e2e" / "moving.nii.gz")
    grid = Geometry.of(image)
    assert grid.voxel_size.tolist() == [float(np.float32(size)) for size in (6.2, 6.5, 5.6)]
    assert grid == Geometry.of(Volume(np.zeros(image.shape), image.affine))
    assert Geometry(grid.shape, grid.vox2world, (9, 9, 9)).voxel_size.tolist() != [9, 9, 9]
    assert Geometry.of(grid) is grid
    assert "26x30x34 voxels of (6.2, 6.5, 5.6) mm" in grid.describe()


def test_surface_coordinates_are_centred() -> None:
    grid = Geometry.of_parts((10, 20, 30), (1, 2, 3), np.eye(3), (7, 8, 9))
    np.testing.assert_allclose(grid.vox2surface @ [5, 10, 15, 1], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(grid.vox2surface @ [4, 10, 14, 1], [1, -3, 0, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [((2, 3), np.eye(4)), ((0, 3, 4), np.eye(4)), ((2, 3, 4), np.zeros((4, 4))), ((2, 3, 4), np.eye(3))],
)
def test_what_is_no_grid(shape: Any, matrix: np.ndarray) -> None:
    with pytest.raises(InvalidImage, match=r"^geometry: expected[^\n]*found"):
        Geometry(shape, matrix)


def test_image_without_a_grid() -> None:
    with pytest.raises(InvalidImage, match="found 2-D"):
        Geometry.of(nibabel.Nifti1Image(np.zeros((4, 5), np.float32), np.eye(4)))
    with pytest.raises(InvalidImage, match="found none"):
        Geometry.of(nibabel.spatialimages.SpatialImage(np.zeros((4, 5, 6), np.float32), None))
