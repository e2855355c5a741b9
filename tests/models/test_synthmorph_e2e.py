"""SynthMorph's pipeline gives what ``mri_synthmorph register`` gives, at extent 192 with small networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import kerasneuro
from kerasneuro.models.synthmorph import pipeline, runner
from kerasneuro.models.synthmorph.spaces import Spaces
from kerasneuro.tasks import Result
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.transform import Affine, Transform, Warp
from kerasneuro.volume.transform_io import load_transform

FILES = {
    "affine": {"": "affine.h5"},
    "rigid": {"": "rigid.h5"},
    "deform": {"": "deform.h5"},
    "joint": {"affine": "affine.h5", "deform": "deform.h5"},
}
# Run of the original -> network and options; a path is one of the folder.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "affine": ("affine", {}),
    "affine_init": ("affine", {"initial": Path("rigid.trans.lta")}),
    "rigid": ("rigid", {}),
    "rigid_header": ("rigid", {"header_only": True}),
    "joint": ("joint", {}),
    "joint_r02_n5": ("joint", {"regularisation": 0.2, "steps": 5}),
    "deform": ("deform", {}),
    "deform_init": ("deform", {"initial": Path("affine.trans.lta")}),
    "deform_init_mid": ("deform", {"initial": Path("affine.trans.lta"), "mid_space": True}),
}
SUFFIXES = {"trans": "transform", "inverse": "inverse"}
SIXTEENTH = (slice(None, None, 16),) * 3


@dataclass
class Seen:
    """A result, and what went into the networks and came out of them."""

    result: Result
    spaces: Spaces
    inputs: list[np.ndarray]
    found: list[np.ndarray]


Run = Callable[[str], Seen]


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "synthmorph" / "e2e"


@pytest.fixture(scope="module")
def register(folder: Path) -> Iterator[Run]:
    """Run the pipeline once for each name, and keep what the tests look at."""
    seen: dict[str, Any] = {}

    def spy(function: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            value = function(*arguments, **options)
            note(value, *arguments)
            return value

        return call

    @cache
    def task(network: str) -> Any:
        weights = {part: folder / name for part, name in FILES[network].items()}
        return kerasneuro.load(f"synthmorph-{network}", weights=weights)

    @cache
    def run(name: str) -> Seen:
        network, options = RUNS[name]
        files = {key: folder / value if isinstance(value, Path) else value for key, value in options.items()}
        result = task(network)(folder / "moving.nii.gz", folder / "fixed.nii.gz", extent=192, **files)
        return Seen(result, **seen)

    def inputs(images: list[np.ndarray], _: Any, __: Any, spaces: Spaces) -> None:
        seen["spaces"] = spaces
        seen["inputs"] = [image[0, ..., 0][SIXTEENTH].copy() for image in images]

    def matrices(pair: list[np.ndarray], _: Any, __: Any, shape: tuple[int, ...], **options: Any) -> None:
        if shape[0] == 192:
            seen["found"] = pair

    def displacements(pair: list[np.ndarray], *_: Any) -> None:
        seen["found"] = [total[0, ::8, ::8, ::8] for total in pair]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.Run, "inputs", spy(pipeline.Run.inputs, inputs))
        patch.setattr(runner, "find_matrices", spy(runner.find_matrices, matrices))
        patch.setattr(runner, "find_displacements", spy(runner.find_displacements, displacements))
        yield run


def corners(geometry: Geometry) -> np.ndarray:
    """Return the world coordinates (8, 3) of the corners of a field of view."""
    voxels = np.array(list(np.ndindex(2, 2, 2))) * (np.array(geometry.shape) - 1)
    return voxels @ geometry.vox2world[:3, :3].T + geometry.vox2world[:3, 3]


def assert_same_matrix(found: Transform | None, wanted: Transform) -> None:
    assert isinstance(found, Affine) and isinstance(wanted, Affine)
    assert found.source == wanted.source and found.target == wanted.target
    points = np.hstack([corners(wanted.source), np.ones((8, 1))])
    apart = points @ (found.to_world().matrix - wanted.to_world().matrix).T
    assert np.abs(apart).max() <= 1e-3


def assert_same_warp(found: Transform | None, wanted: Transform) -> None:
    assert isinstance(found, Warp) and isinstance(wanted, Warp)
    assert found.source == wanted.source and found.target == wanted.target
    fields = [warp.to("disp_ras").displacement for warp in (found, wanted)]
    apart = np.linalg.norm(fields[0] - fields[1], axis=-1)
    assert np.sqrt((apart**2).mean()) <= 1e-3
    assert apart.max() <= 1e-2


@pytest.mark.parametrize("name", RUNS)
def test_transforms_are_those_of_the_original(name: str, register: Run, folder: Path) -> None:
    result = register(name).result
    kept = {
        path: attribute for path, attribute in SUFFIXES.items() for path in folder.glob(f"{name}.{path}.*")
    }
    assert any(".trans." in path.name for path in kept)
    for path, attribute in kept.items():
        same = assert_same_matrix if path.suffix == ".lta" else assert_same_warp
        same(getattr(result, attribute), load_transform(path))


@pytest.mark.parametrize("name", [name for name in RUNS if name != "affine_init"])
def test_moved_images_are_those_of_the_original(name: str, register: Run, folder: Path) -> None:
    result = register(name).result
    for field in ("moved", "fixed_moved"):
        path = folder / f"{name}.{field}.nii.gz"
        if field == "fixed_moved" and not path.exists():
            continue
        found, wanted = getattr(result, field), nibabel.load(path)
        assert found.get_data_dtype() == wanted.get_data_dtype()
        np.testing.assert_allclose(found.affine, wanted.affine, rtol=0, atol=1e-3)
        for key in ("sform_code", "qform_code"):
            assert int(found.header[key]) == int(wanted.header[key])
        voxels = [np.asarray(image.dataobj) for image in (found, wanted)]
        # The tolerance of the original's own tests; header-only images are not touched.
        tolerance = 0 if name == "rigid_header" else 0.02
        np.testing.assert_allclose(voxels[0], voxels[1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", RUNS)
def test_networks_see_and_find_what_the_originals_do(name: str, register: Run, folder: Path) -> None:
    seen, wanted = register(name), np.load(folder / f"{name}.tap.npz")
    for ours, theirs in {
        "net_to_moving": "net_to_mov",
        "moving_to_net": "mov_to_net",
        "net_to_fixed": "net_to_fix",
        "fixed_to_net": "fix_to_net",
    }.items():
        np.testing.assert_allclose(getattr(seen.spaces, ours), wanted[theirs], rtol=0, atol=1e-6)
    for image, key in zip(seen.inputs, ("input_mov_sub16", "input_fix_sub16"), strict=True):
        np.testing.assert_allclose(image, wanted[key], rtol=0, atol=1e-5)
    for found, key in zip(seen.found, ("fw_net", "bw_net"), strict=True):
        if found.ndim == 2:
            np.testing.assert_allclose(found, wanted[key], rtol=0, atol=2e-4)
        else:  # at even voxels, the displacement of the full grid is that of the half grid less one half
            grid = np.stack(np.meshgrid(*[np.arange(0, 192, 16.0)] * 3, indexing="ij"), axis=-1)
            assert_close_fields(found - grid / 2, wanted[f"{key}_sub16"])


def assert_close_fields(found: np.ndarray, wanted: np.ndarray) -> None:
    # Positions have a precision of 2e-5 here; the scaling and squaring adds the rest.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
    assert np.sqrt(((found - wanted) ** 2).mean()) <= 2e-4


def test_native_matrices_are_those_of_the_original(register: Run, folder: Path) -> None:
    seen, wanted = register("affine"), np.load(folder / "affine.tap.npz")
    for found, key in zip(runner.native_matrices(seen.spaces, seen.found), ("fw_vox", "bw_vox"), strict=True):
        np.testing.assert_allclose(found[:3], wanted[key], rtol=0, atol=1e-4)


def test_result_says_how_good_it_is(register: Run) -> None:
    result = register("joint").result
    summary: Mapping[str, float] = result.summaries["summary"]
    assert summary["folding_percent"] == 0 and 0.3 < summary["jacobian_min"] < 1 < summary["jacobian_max"] < 3
    assert 50 < summary["overlap_percent"] < 100
    assert 0.01 < summary["inverse_consistency_mean_mm"] < 1 < summary["inverse_consistency_max_mm"]
    assert result.jacobian is not None and result.jacobian.shape == result.moved.shape
    jacobian = np.asarray(result.jacobian.dataobj)
    assert jacobian.min() == pytest.approx(summary["jacobian_min"])
    matrices = register("affine").result
    assert matrices.jacobian is None
    assert matrices.summaries["summary"]["inverse_consistency_max_mm"] < 1e-3
