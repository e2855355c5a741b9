"""SynthMorph's tasks: symmetry, headers, regularisation, memory, files, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import kerasneuro
from kerasneuro.errors import InvalidImage, InvalidOption, InvalidTransform, KerasNeuroError
from kerasneuro.models.synthmorph import fields, fields_numpy, options, runner
from kerasneuro.models.synthmorph.spaces import half_way, network_spaces
from kerasneuro.models.synthmorph.task import TASK, TASKS, MatrixTask, WarpTask
from kerasneuro.tasks.registration import doubts
from kerasneuro.volume.agreement import pull
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.transform import Affine, Transform, Warp
from kerasneuro.volume.transform_io import load_transform, save_transform

EXTENT = 64
Task = Callable[[str], Any]
Image = nibabel.Nifti1Image


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "synthmorph" / "e2e"


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    files = {"affine": {"": "affine"}, "rigid": {"": "rigid"}, "deform": {"": "deform"}}
    files["joint"] = {"affine": "affine", "deform": "deform"}

    @cache
    def load(network: str) -> Any:
        weights = {part: folder / f"{name}.h5" for part, name in files[network].items()}
        return kerasneuro.load(f"synthmorph-{network}", weights=weights)

    return load


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Image, Image]:
    """The two scans with a quarter of their size, so that a small field of view holds all of them."""
    return smaller(folder / "moving.nii.gz"), smaller(folder / "fixed.nii.gz")


def smaller(path: Path) -> Image:
    image = nibabel.load(path)
    return Image(np.asarray(image.dataobj, np.float32), np.diag([1 / 4, 1 / 4, 1 / 4, 1]) @ image.affine)


def in_world(transform: Transform) -> np.ndarray:
    """Return a matrix, or a displacement in mm."""
    if isinstance(transform, Affine):
        return transform.to_world().matrix
    return transform.to("disp_ras").displacement


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-3) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def translated(image: Image) -> tuple[Image, np.ndarray]:
    """Return the same scan elsewhere in the world, and the matrix that brings it there."""
    matrix = np.eye(4)
    matrix[:3, 3] = (31.5, -12.25, 7)
    return Image(image.get_fdata(), matrix @ image.affine), matrix


def permuted(image: Image) -> tuple[Image, np.ndarray]:
    """Return the same scan with its axes stored in another order."""
    order = (2, 0, 1)
    columns = image.affine[:, [*order, 3]]
    return Image(image.get_fdata().transpose(order), columns), np.eye(4)


def same_moved(found: Image, wanted: Image, transform: Transform, *, inner: bool = False) -> None:
    """Compare two moved images where no rounding decides what is inside the other image."""
    places = pull(transform, np.argwhere(np.ones(wanted.shape)).astype(float))
    edge = np.array(transform.source.shape)
    near = np.minimum(np.abs(places), np.abs(places - edge)).min(axis=1) < 0.01
    if inner:
        near |= ((places < 0) | (places > edge - 1)).any(axis=1)
    kept = ~near.reshape(wanted.shape)
    assert kept.mean() > 0.3
    close(found.get_fdata()[kept], wanted.get_fdata()[kept], 0.02)


def assert_exchanged(there: Any, back: Any) -> None:
    close(in_world(there.transform), in_world(back.inverse))
    close(in_world(there.inverse), in_world(back.transform))
    same_moved(back.fixed_moved, there.moved, there.transform)
    same_moved(back.moved, there.fixed_moved, there.inverse)


def test_exchanged_scans_give_exchanged_warps(task: Task, pair: tuple[Image, Image]) -> None:
    one, other = pair
    shift = Geometry.of(other).centre - Geometry.of(one).centre
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    one = Image(one.get_fdata(), matrix @ one.affine)
    there, back = (task("deform")(*scans, extent=EXTENT) for scans in ((one, other), (other, one)))
    assert np.abs(in_world(there.transform)).max() > 0.1
    assert_exchanged(there, back)


@pytest.mark.parametrize("network", ["affine", "rigid"])
def test_both_matrices_are_inverse_to_each_other(network: str, task: Task, pair: tuple[Image, Image]) -> None:
    result = task(network)(*pair, extent=EXTENT)
    assert np.abs(in_world(result.transform) - np.eye(4)).max() > 0.1
    close(in_world(result.transform) @ in_world(result.inverse), np.eye(4))


@pytest.mark.parametrize("network", ["affine", "rigid", "joint"])
def test_scan_elsewhere_in_the_world_is_found_both_ways(
    network: str, task: Task, pair: tuple[Image, Image]
) -> None:
    # The fits of two different scans are averaged as matrices, which exchanging them does not invert exactly.
    moving, _ = pair
    other, matrix = translated(permuted(moving)[0])
    there, back = (task(network)(*scans, extent=EXTENT) for scans in ((moving, other), (other, moving)))
    if network == "joint":  # where a voxel takes its value
        close(in_world(there.transform), np.broadcast_to(-matrix[:3, 3], (*other.shape, 3)), 2e-3)
    else:
        close(in_world(there.transform), matrix)
    assert_exchanged(there, back)


@pytest.mark.parametrize("change", [translated, permuted])
@pytest.mark.parametrize("network", ["affine", "joint"])
def test_header_of_the_moving_scan_does_not_change_the_world(
    network: str, change: Callable[[Image], tuple[Image, np.ndarray]], task: Task, pair: tuple[Image, Image]
) -> None:
    moving, fixed = pair
    other, matrix = change(moving)
    plain = task(network)(moving, fixed, extent=EXTENT)
    result = task(network)(other, fixed, extent=EXTENT)
    if network == "affine":
        close(in_world(result.transform) @ matrix, in_world(plain.transform))
    else:  # where a voxel of the fixed scan takes its value
        close(in_world(result.transform) - matrix[:3, 3], in_world(plain.transform))
    same_moved(result.moved, plain.moved, plain.transform)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_flipped_storage_gives_the_same_world(
    axes: tuple[int, ...], task: Task, pair: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    moving, fixed = pair
    matrix = np.eye(4)
    for axis in axes:
        matrix[axis, axis], matrix[axis, 3] = -1, moving.shape[axis] - 1
    flipped = Image(np.flip(moving.get_fdata(), axes), moving.affine @ matrix)
    # The original centres its box on the index shape / 2, which the flip moves by a voxel; here it may not.
    monkeypatch.setattr(Geometry, "centre", property(middle))
    plain, result = (task("joint")(scan, fixed, extent=EXTENT) for scan in (moving, flipped))
    close(in_world(result.transform), in_world(plain.transform))
    # The final sampler repeats the last voxel, but not the first.
    same_moved(result.moved, plain.moved, plain.transform, inner=True)


def middle(geometry: Geometry) -> np.ndarray:
    return (geometry.vox2world @ np.append((np.array(geometry.shape) - 1) / 2, 1))[:3]


def test_flip_moves_the_box_by_one_voxel_as_in_the_original(pair: tuple[Image, Image]) -> None:
    moving, _ = pair
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = moving.shape[0] - 1
    flipped = Geometry(moving.shape, moving.affine @ matrix)
    close(flipped.centre - Geometry.of(moving).centre, -moving.affine[:3, 0], 1e-9)


def test_initial_matrix_is_part_of_the_result(task: Task, pair: tuple[Image, Image], tmp_path: Path) -> None:
    moving, fixed = pair
    world = np.eye(4)
    world[:3, 3] = (4, -3, 2)
    initial = Affine(world, Geometry.of(moving), Geometry.of(fixed), "world")
    shifted = Image(moving.get_fdata(), world @ moving.affine)
    plain = task("deform")(shifted, fixed, extent=EXTENT)
    result = task("deform")(moving, fixed, extent=EXTENT, initial=initial)
    close(in_world(result.transform) + world[:3, 3], in_world(plain.transform))
    same_moved(result.moved, plain.moved, plain.transform)
    path = save_transform(initial, tmp_path / "initial.lta")
    again = task("deform")(moving, fixed, extent=EXTENT, initial=path)
    close(in_world(again.transform), in_world(result.transform), 1e-4)


def test_half_way_is_the_square_root() -> None:
    matrix = np.array([[0, -1, 0, 3], [1, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    close(half_way(matrix) @ half_way(matrix), matrix, 1e-9)
    with pytest.raises(InvalidOption, match="real square root"):
        half_way(np.diag([-1.0, 1, 1, 1]))


def test_other_regularisation_changes_the_warp(task: Task, pair: tuple[Image, Image]) -> None:
    deform = task("deform")
    assert deform.specialise(0.5) is deform.model
    assert deform.specialise(0.2) is deform.specialise(0.2) is not deform.model
    results = [deform(*pair, extent=EXTENT, regularisation=value) for value in (0.5, 0.2)]
    assert np.abs(in_world(results[0].transform) - in_world(results[1].transform)).max() > 0.01
    assert results[1].provenance["options"]["regularisation"] == 0.2


def test_live_hypernetwork_gives_the_same_result(task: Task, pair: tuple[Image, Image], folder: Path) -> None:
    live = kerasneuro.load("synthmorph-deform", weights=folder / "deform.h5", config={"specialised": False})
    assert len(live.model.inputs) == 3
    results = [one(*pair, extent=EXTENT, regularisation=0.2) for one in (live, task("deform"))]
    close(in_world(results[0].transform), in_world(results[1].transform), 1e-4)


def test_little_memory_gives_the_same_result(task: Task, pair: tuple[Image, Image]) -> None:
    joint = task("joint")
    plain = joint(*pair, extent=EXTENT)
    result = joint(*pair, extent=EXTENT, max_memory=300_000)
    slabs = [network for network in joint._computing.values() if network.budget == 300_000]
    assert len(slabs) == 2 and all(network.planes((32, 32, 32)) for network in slabs)
    close(in_world(result.transform), in_world(plain.transform), 1e-4)


def test_result_is_saved_and_read_again(task: Task, pair: tuple[Image, Image], tmp_path: Path) -> None:
    for network, suffix in (("rigid", ".lta"), ("joint", ".nii.gz")):
        result = task(network)(*pair, extent=EXTENT)
        files = result.save(tmp_path / network)
        assert set(files) == set(type(task(network)).outputs)
        assert files["transform"].name == f"synthmorph-{network}_transform{suffix}"
        for field in ("transform", "inverse"):
            close(in_world(load_transform(files[field])), in_world(getattr(result, field)), 1e-4)
        assert '"overlap_percent"' in files["summary"].read_text()


def test_header_only_leaves_the_voxels(task: Task, folder: Path) -> None:
    result = task("rigid")(folder / "moving.nii.gz", folder / "fixed.nii.gz", extent=EXTENT, header_only=True)
    scan = nibabel.load(folder / "moving.nii.gz")
    assert result.moved.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(result.moved.dataobj), np.asarray(scan.dataobj))
    close(result.moved.affine, in_world(result.transform) @ scan.affine)


def test_debug_folder_gets_the_inputs(task: Task, pair: tuple[Image, Image], tmp_path: Path) -> None:
    task("affine")(*pair, extent=EXTENT, debug=tmp_path)
    geometries = [Geometry.of(image) for image in pair]
    spaces = network_spaces(*geometries, EXTENT)
    for number, (scan, matrix) in enumerate(
        zip(pair, (spaces.net_to_moving, spaces.net_to_fixed), strict=True)
    ):
        image = nibabel.load(tmp_path / f"inp_{number + 1}.mgz")
        assert image.shape == (EXTENT,) * 3 and nibabel.aff2axcodes(image.affine) == ("L", "I", "A")
        close(image.affine, scan.affine @ matrix, 1e-4)
        assert (image.get_fdata().min(), image.get_fdata().max()) == (0, 1)


def test_tasks_by_kind() -> None:
    assert TASK is WarpTask and dict(TASKS) == {"matrix": MatrixTask, "displacement": WarpTask}


def test_two_ways_to_compute_fields_agree() -> None:
    rng = np.random.default_rng(0)
    velocity = rng.normal(0, 2, (1, 8, 10, 6, 3)).astype(np.float32)
    volume = rng.random((1, 8, 9, 10, 1), np.float32)
    first, last = (
        np.hstack([np.eye(3) * scale + rng.normal(0, 0.1, (3, 3)), rng.normal(0, 2, (3, 1))]).astype(
            "float32"
        )
        for scale in (1.5, 0.7)
    )
    places = [rng.uniform(-2, 11, (1, 5, 6, 7)).astype(np.float32) for _ in range(3)]
    cube = velocity[:, :6, :6]
    for one, other in (
        [way.sample(volume, places) for way in (fields, fields_numpy)],
        [way.move(volume, first, (7, 5, 6)) for way in (fields, fields_numpy)],
        [way.integrate(velocity, 5, first, halfway=False) for way in (fields, fields_numpy)],
        [way.integrate(velocity, 5, first, halfway=True) for way in (fields, fields_numpy)],
        [way.bring(cube, first, last, (9, 8, 7)) for way in (fields, fields_numpy)],
    ):
        assert one.shape == other.shape and one.std() > 0.1
        close(one, other, 2e-4)


def test_large_native_grid_is_done_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    total = rng.normal(0, 2, (1, 6, 6, 6, 3)).astype(np.float32)
    matrices = [np.vstack([np.hstack([np.eye(3), rng.normal(0, 2, (3, 1))]), [0, 0, 0, 1]]) for _ in range(2)]
    whole = runner.native_displacement(total, *matrices, (9, 8, 7))
    monkeypatch.setattr(runner, "POINTS", 2 * 8 * 7)
    close(runner.native_displacement(total, *matrices, (9, 8, 7)), whole, 1e-5)


def changed(image: Image, array: np.ndarray | None = None, shift: float = 0.0) -> Image:
    affine = image.affine.copy()
    affine[:3, 3] += shift
    return Image(image.get_fdata() if array is None else array.astype(np.float32), affine)


# Kind -> network, what is wrong with the moving scan, words of the message.
BAD_SCANS: dict[str, tuple[str, Callable[[Image], Image], str]] = {
    "several frames": ("affine", lambda scan: changed(scan, np.stack([scan.get_fdata()] * 2, -1)), "volumes"),
    "two dimensions": ("affine", lambda scan: changed(scan, scan.get_fdata()[..., 0]), "3-D|axes"),
    "constant": ("rigid", lambda scan: changed(scan, np.ones(scan.shape)), "constant"),
    "not finite": ("joint", lambda scan: changed(scan, np.full(scan.shape, np.nan)), "finite|NaN"),
    "far from the fixed one": ("deform", lambda scan: changed(scan, shift=1000.0), "moving .* field of view"),
}
# Network, option, its value, words of the message.
BAD_OPTIONS: list[tuple[str, str, Any, str]] = [
    ("joint", "regularisation", 0, "above 0 and below 1, found 0"),
    ("deform", "regularisation", 1.0, "above 0 and below 1, found 1.0"),
    ("deform", "regularisation", np.nan, "above 0 and below 1, found nan"),
    ("joint", "steps", 4, "at least 5, found 4"),
    ("joint", "steps", 5.5, "at least 5, found 5.5"),
    ("affine", "extent", 100, "another multiple of 32, found 100"),
    ("affine", "extent", 0, "another multiple of 32, found 0"),
    ("deform", "mid_space", True, "give one"),
    ("affine", "debug", Path("no/such/folder"), "does not exist"),
    ("joint", "header_only", True, "cannot be put into a header"),
    ("affine", "regularisation", 0.3, "a matrix has no regularisation"),
    ("rigid", "steps", 7, "a matrix is not integrated"),
    ("affine", "block_shape", (32, 32, 32), "block_shape"),
    ("affine", "sharpness", 3, "sharpness"),
]
# Kind -> the initial transform, from the grids of both scans, and words of the message.
BAD_INITIALS: dict[str, tuple[Callable[[Geometry, Geometry], Any], str]] = {
    "a warp": (lambda one, other: Warp(np.zeros((*other.shape, 3)), one, other), "found a warp"),
    "of other scans": (lambda one, other: Affine(np.eye(4), other, one), "made for a moving image of"),
    "without geometry": (lambda *_: Affine(np.eye(4), None, None, "world"), "geometry of the moving image"),
    "missing": (lambda *_: Path("nowhere.lta"), "no such file"),
}


def refused(error: type[KerasNeuroError], words: str, task: Any, *arguments: Any, **given: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        task(*arguments, **{"extent": EXTENT, **given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_bad_scan_is_refused(kind: str, task: Task, pair: tuple[Image, Image]) -> None:
    network, change, words = BAD_SCANS[kind]
    refused(InvalidImage, words, task(network), change(pair[0]), pair[1])


@pytest.mark.parametrize(("network", "option", "value", "words"), BAD_OPTIONS)
def test_bad_option_is_refused(
    network: str, option: str, value: Any, words: str, task: Task, pair: tuple[Image, Image]
) -> None:
    refused(InvalidOption, words, task(network), *pair, **{option: value})


@pytest.mark.parametrize("kind", BAD_INITIALS)
@pytest.mark.parametrize("network", ["affine", "joint"])
def test_bad_initial_transform_is_refused(
    network: str, kind: str, task: Task, pair: tuple[Image, Image]
) -> None:
    make, words = BAD_INITIALS[kind]
    initial = make(*(Geometry.of(scan) for scan in pair))
    refused(InvalidTransform, words, task(network), *pair, initial=initial)


def test_published_networks_take_two_extents(
    task: Task, pair: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "PUBLISHED_SIZE", 1)
    with pytest.raises(InvalidOption, match="extent must be 192 or 256 for the published networks, found 64"):
        task("joint")(*pair, extent=EXTENT)


def test_doubts_name_folding_overlap_and_disagreement() -> None:
    assert doubts({"overlap_percent": 80.0, "folding_percent": 0.1, "inverse_consistency_mean_mm": 0.2}) == ()
    assert "the moved scan is empty" in doubts({"overlap_percent": 0})[0]
    bad = {"overlap_percent": 12.0, "folding_percent": 4.0, "inverse_consistency_mean_mm": 2.5}
    assert [word in text for word, text in zip(("12.0 %", "4.0 %", "2.5 mm"), doubts(bad), strict=True)] == [
        True
    ] * 3
