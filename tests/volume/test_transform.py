"""Matrices and warps: their formats, inverses and compositions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidOption, InvalidTransform
from kerasneuro.volume import Affine, Geometry, Transform, Warp, compose_transforms
from kerasneuro.volume.transform import FORMATS, WarpFormat

small = st.floats(-0.2, 0.2)
shifts = st.floats(-20, 20)


@st.composite
def grids(draw: st.DrawFn) -> Geometry:
    """Draw a small grid anywhere."""
    turn = nibabel.eulerangles.euler2mat(draw(st.floats(-3, 3)), draw(small), draw(small))
    shape = [draw(st.integers(2, 7)) for _ in range(3)]
    return Geometry.of_parts(
        shape, [draw(st.floats(0.8, 3)) for _ in range(3)], turn, [draw(shifts) for _ in range(3)]
    )


@st.composite
def world_matrices(draw: st.DrawFn) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] += [[draw(small) for _ in range(3)] for _ in range(3)]
    matrix[:3, 3] = [draw(shifts) for _ in range(3)]
    return matrix


@pytest.fixture(scope="module")
def stored(fixtures: Path) -> Any:
    return np.load(fixtures / "synthmorph" / "op_geometry.npz")


def grid_of(stored: Any, name: str) -> Geometry:
    return Geometry(tuple(stored[f"{name}_shape"]), stored[f"{name}_vox2world"])


def test_spaces_equal_the_original(stored: Any) -> None:
    affine = Affine(stored["aff_voxel_0to1"], grid_of(stored, "g0"), grid_of(stored, "g1"))
    world = affine.to_world()
    np.testing.assert_allclose(world.matrix, stored["aff_world_0to1"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(world.to_voxel().matrix, affine.matrix, rtol=0, atol=1e-11)
    assert affine.to_voxel() is affine
    assert world.to_world() is world


@pytest.mark.parametrize("new", FORMATS)
@pytest.mark.parametrize("old", FORMATS)
def test_formats_equal_the_original(stored: Any, old: WarpFormat, new: WarpFormat) -> None:
    warp = Warp(stored[f"warp_{old}"], grid_of(stored, "g0"), grid_of(stored, "g1"), old)
    found = warp.to(new)
    assert found.format == new
    assert found.displacement.dtype == np.float32
    tolerance = 0 if old == "disp_crs" else 1e-4  # of numbers up to 120, stored in float32
    np.testing.assert_allclose(found.displacement, stored[f"warp_{new}"], rtol=0, atol=tolerance)
    if (old, new) == ("disp_ras", "disp_crs"):
        np.testing.assert_array_equal(found.displacement, stored["warp_back_disp_crs"])


@given(world_matrices(), grids(), grids(), grids())
def test_matrix_on_other_grids(matrix: np.ndarray, one: Geometry, two: Geometry, three: Geometry) -> None:
    affine = Affine(matrix, one, two, "world")
    voxel = affine.to_voxel()
    np.testing.assert_allclose(voxel.to_world().matrix, matrix, atol=1e-8)
    for start in (affine, voxel):
        elsewhere = start.to_voxel(source=three)
        assert elsewhere.source == three
        assert elsewhere.target == two
        np.testing.assert_allclose(elsewhere.to_world().matrix, matrix, atol=1e-8)


@given(world_matrices(), grids(), grids())
def test_inverse(matrix: np.ndarray, source: Geometry, target: Geometry) -> None:
    affine = Affine(matrix, source, target, "world").to_voxel()
    back = affine.inverse()
    assert (back.source, back.target, back.space) == (target, source, "voxel")
    np.testing.assert_allclose(back.matrix @ affine.matrix, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(back.to_world().matrix, np.linalg.inv(matrix), atol=1e-8)


@given(world_matrices(), world_matrices(), grids(), grids(), grids())
def test_matrices_compose(
    first: np.ndarray, second: np.ndarray, one: Geometry, two: Geometry, three: Geometry
) -> None:
    steps = [Affine(first, one, two, "world").to_voxel(), Affine(second, two, three, "world")]
    joined = compose_transforms(steps)
    assert isinstance(joined, Affine)
    assert (joined.source, joined.target, joined.space) == (one, three, "world")
    np.testing.assert_allclose(joined.matrix, second @ first, atol=1e-8)


def as_warp(affine: Affine) -> Warp:
    """Write a matrix as a warp."""
    assert affine.source is not None and affine.target is not None
    target = affine.target
    world = target.vox2world[:3, :3] @ np.indices(target.shape).reshape(3, -1) + target.vox2world[:3, 3:]
    back = np.linalg.inv(affine.to_world().matrix)
    field = back[:3, :3] @ world + back[:3, 3:] - world
    return Warp(field.T.reshape(*target.shape, 3), affine.source, target, "disp_ras")


@given(world_matrices(), world_matrices(), grids(), grids(), st.sampled_from(FORMATS), st.booleans())
def test_warp_composes_as_its_matrix(
    first: np.ndarray, second: np.ndarray, source: Geometry, target: Geometry, kind: WarpFormat, last: bool
) -> None:
    """A linear field is interpolated without error, so the order and the direction can be checked exactly."""
    # A middle grid that holds every point that is asked for.
    wide = Geometry.of_parts((9, 9, 9), (90, 90, 90), np.eye(3), (0, 0, 0))
    one, two = Affine(first, source, wide, "world"), Affine(second, wide, target, "world")
    steps: list[Transform] = [one, as_warp(two).to(kind)] if last else [as_warp(one).to(kind), two]
    joined = compose_transforms(steps)
    assert isinstance(joined, Warp)
    assert (joined.source, joined.target, joined.format) == (source, target, "disp_ras")
    expected = compose_transforms([one, two])
    assert isinstance(expected, Affine)
    np.testing.assert_allclose(joined.displacement, as_warp(expected).displacement, atol=5e-3)


def test_border_of_a_warp_moves_what_lies_beyond() -> None:
    grid = Geometry((4, 4, 4), np.eye(4))
    warp = Warp(np.full((4, 4, 4, 3), [1, 2, 3]), grid, grid, "disp_ras")
    wide = Geometry((8, 8, 8), np.diag([3.0, 3, 3, 1]))
    joined = compose_transforms([warp], target=wide)
    assert isinstance(joined, Warp)
    np.testing.assert_allclose(joined.displacement, np.broadcast_to([1, 2, 3], (8, 8, 8, 3)), atol=1e-6)
    assert compose_transforms([warp]) is warp
    assert compose_transforms([warp], target=grid) is warp


def test_nothing_to_compose() -> None:
    with pytest.raises(InvalidOption, match="at least one transform"):
        compose_transforms([])
    grid = Geometry((2, 2, 2), np.eye(4))
    warp = Warp(np.zeros((2, 2, 2, 3)), grid, grid)
    with pytest.raises(InvalidTransform, match="no target grid"):
        compose_transforms([warp, Affine(np.eye(4), None, None, "world")])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "finite 4x4"),
        (np.full((4, 4), np.nan), "finite 4x4"),
        (np.diag([1.0, 1, 0, 1]), "inverted"),
        (np.zeros((4, 4)), "last row"),
        (np.eye(4) + np.eye(4)[::-1], "last row"),
    ],
)
def test_what_is_no_matrix(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidTransform, match=rf"^expected[^\n]*{message}[^\n]*found[^\n]*$"):
        Affine(matrix, None, None, "world")


def test_transforms_that_contradict_themselves() -> None:
    grid = Geometry((2, 3, 4), np.eye(4))
    with pytest.raises(InvalidTransform, match="between voxels needs"):
        Affine(np.eye(4), grid, None)
    with pytest.raises(InvalidTransform, match="holds no target grid"):
        Affine(np.eye(4), grid, None, "world").to_voxel()
    with pytest.raises(InvalidOption, match="'surface'"):
        Affine(np.eye(4), grid, grid, "surface")  # type: ignore[arg-type]
    with pytest.raises(InvalidTransform, match=r"expected a field of shape \(2, 3, 4, 3\)"):
        Warp(np.zeros((2, 3, 5, 3)), grid, grid)
    with pytest.raises(InvalidOption, match="'relative'"):
        Warp(np.zeros((2, 3, 4, 3)), grid, grid, "relative")  # type: ignore[arg-type]
    with pytest.raises(InvalidTransform, match="needs the source's geometry"):
        Warp(np.zeros((2, 3, 4, 3)), None, grid, "abs_crs")
    warp = Warp(np.zeros((2, 3, 4, 3)), None, grid, "disp_ras")
    with pytest.raises(InvalidTransform, match="holds no source grid"):
        warp.to("disp_crs")
    with pytest.raises(InvalidOption, match="'relative'"):
        warp.to("relative")  # type: ignore[arg-type]
    np.testing.assert_array_equal(warp.to("disp_crs", source=grid).displacement, 0)
