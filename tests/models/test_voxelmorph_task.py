"""Registration by VxmDense and HyperVxmDense against the original's fields (TensorFlow 2.15), end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import kerasneuro
from kerasneuro.cli import main
from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.voxelmorph import runner
from kerasneuro.tasks import Task
from kerasneuro.volume.apply import apply_transform
from kerasneuro.volume.transform import Warp
from kerasneuro.volume.transform_io import load_transform

LIA = np.array([[-1.0, 0, 0, 8], [0, 0, 1, -16], [0, -1, 0, 8], [0, 0, 0, 1]])
FIELD, IMAGE = 2e-4, 1e-3  # voxels, and intensity


@pytest.fixture(scope="module")
def tasks(fixtures: Path) -> dict[str, Task]:
    """Load each stored network once."""
    names = {
        "vxmdense_brains": "synthmorph-brains",
        "vxmdense_t1": "voxelmorph-t1",
        "vxmdense_svf4": "synthmorph-shapes",
        "hypervxmdense": "voxelmorph-t1",
    }
    return {
        file: kerasneuro.load(name, weights=fixtures / "synthmorph" / f"{file}.h5")
        for file, name in names.items()
    }


def stored(fixtures: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(fixtures / "synthmorph" / f"{name}.npz") as arrays:
        return dict(arrays)


def images(fixtures: Path, name: str, affine: np.ndarray = LIA) -> list[nibabel.Nifti1Image]:
    arrays = stored(fixtures, name)
    return [
        nibabel.Nifti1Image(arrays[f"{role}_u8"][..., 0].astype(np.float32) / 255, affine)
        for role in ("source", "target")
    ]


def voxels(image: Any) -> np.ndarray:
    return np.asarray(image.dataobj)


def inside(displacement: np.ndarray) -> np.ndarray:
    """Tell which places lie between the centres of the outer voxels."""
    shape = displacement.shape[:3]
    places = displacement + np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return ((places >= 0) & (places <= np.array(shape) - 1)).all(axis=-1)


@pytest.mark.parametrize("name", ["vxmdense_brains", "vxmdense_t1", "vxmdense_svf4"])
def test_warp_and_moved_image_of_the_original(tasks: dict[str, Task], fixtures: Path, name: str) -> None:
    expected = stored(fixtures, name)
    result = tasks[name](*images(fixtures, name))
    warp = voxels(result.warp)
    np.testing.assert_allclose(warp, expected["pos_flow"], rtol=0, atol=FIELD)
    np.testing.assert_array_equal(result.transform.displacement, warp)
    # One of the networks fills its own output with 0 outside; the command repeats the border.
    same = inside(warp) if name == "vxmdense_svf4" else np.ones(warp.shape[:3], bool)
    difference = np.abs(voxels(result.moved) - expected["y_source"][..., 0])
    assert difference[same].max() < IMAGE
    if name == "vxmdense_brains":
        back = result.inverse.displacement[::2, ::2, ::2]
        np.testing.assert_allclose(back, expected["neg_flow_sub2"], rtol=0, atol=FIELD)
        other = voxels(result.fixed_moved)[::2, ::2, ::2]
        np.testing.assert_allclose(other, expected["y_target_sub2"][..., 0], rtol=0, atol=IMAGE)


@pytest.mark.parametrize("hyper", ["h0", "h1"])
def test_hypernetwork_is_specialised(tasks: dict[str, Task], fixtures: Path, hyper: str) -> None:
    name = "hypervxmdense"
    expected = stored(fixtures, name)
    value = float(expected[f"hyper_{hyper}"][0, 0])
    result = tasks[name](*images(fixtures, name), regularisation=value)
    np.testing.assert_allclose(voxels(result.warp), expected[f"pos_flow_{hyper}"], rtol=0, atol=FIELD)
    assert result.provenance["options"]["regularisation"] == value


def test_slabs_and_little_memory_change_nothing(
    tasks: dict[str, Task], fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, task = "vxmdense_brains", tasks["vxmdense_brains"]
    pair = images(fixtures, name)
    expected = voxels(task(*pair).warp)
    seen: list[int] = []
    monkeypatch.setattr(
        runner, "slab_thickness", lambda *a, whole=runner.slab_thickness: seen.append(whole(*a)) or seen[-1]
    )
    found = voxels(task(*pair, max_memory="100kB").warp)
    assert seen == [6]  # two planes, and two of each neighbour
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_files_of_a_result(tasks: dict[str, Task], fixtures: Path, tmp_path: Path) -> None:
    moving, fixed = images(fixtures, "vxmdense_t1")
    result = tasks["vxmdense_t1"](moving, fixed)
    files = result.save(tmp_path, stem="a")
    assert {path.name for path in files.values()} == {
        "a_moved.nii.gz", "a_fixed_moved.nii.gz", "a_transform.nii.gz", "a_inverse.nii.gz",
        "a_jacobian.nii.gz", "a_warp.nii.gz", "a_summary.json", "a_provenance.json",
    }  # fmt: skip
    raw = nibabel.load(files["warp"])
    assert raw.shape == (*fixed.shape, 3) and raw.get_data_dtype() == np.float32
    np.testing.assert_array_equal(raw.affine, fixed.affine)
    saved = load_transform(files["transform"])
    assert isinstance(saved, Warp)
    np.testing.assert_allclose(saved.to("disp_crs").displacement, raw.get_fdata(), atol=1e-4)
    # The saved warp, applied by other means, moves the image alike: but for the border, which is then 0.
    again = voxels(apply_transform(saved, moving))
    difference = np.abs(again - voxels(nibabel.load(files["moved"])))
    assert difference[inside(raw.get_fdata())].max() < 1e-3
    for image in (result.moved, result.fixed_moved, result.jacobian):
        np.testing.assert_array_equal(image.affine, fixed.affine)


def test_judgement_of_a_result(tasks: dict[str, Task], fixtures: Path) -> None:
    result = tasks["vxmdense_t1"](*images(fixtures, "vxmdense_t1"))
    summary = result.summaries["summary"]
    determinant = voxels(result.jacobian)
    gradient = np.stack(np.gradient(voxels(result.warp), axis=(0, 1, 2)), axis=-1) + np.eye(3)
    np.testing.assert_allclose(determinant, np.linalg.det(gradient), atol=1e-5)
    assert summary["folding_percent"] == pytest.approx(100 * (determinant <= 0).mean(), abs=1e-3)
    assert summary["inverse_consistency_mean_mm"] < 0.2
    assert result.warnings == ()


def test_unusual_headers_raise_doubts(tasks: dict[str, Task], fixtures: Path) -> None:
    moving, fixed = images(fixtures, "vxmdense_t1", np.diag([2.0, 2, 2, 1]))
    shifted = np.array(moving.affine)
    shifted[0, 3] += 7
    apart = tasks["vxmdense_t1"](nibabel.Nifti1Image(moving.dataobj, shifted), fixed)
    assert any("up to 7.0 mm apart" in warning for warning in apart.warnings)
    assert any("voxels of 2 x 2 x 2 mm with axes RAS" in warning for warning in apart.warnings)
    alike = tasks["vxmdense_t1"](moving, fixed)
    np.testing.assert_array_equal(voxels(apart.moved), voxels(alike.moved))


def changed(fixtures: Path, case: str) -> list[Any]:
    moving, fixed = images(fixtures, "vxmdense_t1")
    array = voxels(moving)
    pads = [(0, 1), (0, 0), (0, 0)]
    return {
        "shapes differ": [nibabel.Nifti1Image(np.pad(array, pads), LIA), fixed],
        "no multiple": [nibabel.Nifti1Image(np.pad(voxels(i), pads), LIA) for i in (moving, fixed)],
        "255": [moving, nibabel.Nifti1Image(voxels(fixed) * 255, LIA)],
        "negative": [nibabel.Nifti1Image(array - 0.5, LIA), fixed],
        "constant": [moving, nibabel.Nifti1Image(np.ones_like(array), LIA)],
        "not finite": [nibabel.Nifti1Image(np.where(array > 0.5, np.nan, array), LIA), fixed],
        "plane": [nibabel.Nifti1Image(array[..., 0], LIA), fixed],
        "frames": [nibabel.Nifti1Image(np.stack([array, array], axis=-1), LIA), fixed],
    }[case]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("shapes differ", r"one shape, found \(17, 32, 16\) and \(16, 32, 16\)"),
        ("no multiple", r"multiples of 16, found \(17, 32, 16\)"),
        ("255", r"fixed image must have values in \[0, 1\], found .* to 255"),
        ("negative", r"moving image must have values in \[0, 1\], found -0.5"),
        ("constant", "one value|constant|same value"),
        ("not finite", "NaN|finite"),
        ("plane", "three axes|3-D|2-D"),
        ("frames", "4-D|volumes|frames"),
    ],
)
def test_bad_images_are_refused(tasks: dict[str, Task], fixtures: Path, case: str, message: str) -> None:
    with pytest.raises(InvalidImage, match=message) as caught:
        tasks["vxmdense_t1"](*changed(fixtures, case))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vxmdense_t1", {"regularisation": 0.5}, "trained with one regularisation"),
        ("hypervxmdense", {"regularisation": 1.5}, "between 0 and 1, found 1.5"),
        ("vxmdense_t1", {"overlap": 0.5}, "no option 'overlap'"),
        ("vxmdense_t1", {"max_memory": "much"}, "max_memory"),
    ],
)
def test_bad_options_are_refused(
    tasks: dict[str, Task], fixtures: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        tasks[name](*images(fixtures, name), **options)


def test_a_network_of_one_shape_takes_no_other(fixtures: Path) -> None:
    path = fixtures / "synthmorph" / "vxmdense_t1.h5"
    task = kerasneuro.load("voxelmorph-t1", weights=path, config={"inshape": (32, 32, 16)})
    with pytest.raises(InvalidImage, match=r"built for images of shape \(32, 32, 16\), found \(16, 32, 16\)"):
        task(*images(fixtures, "vxmdense_t1"))


def test_command(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for role, image in zip(("moving", "fixed"), images(fixtures, "vxmdense_t1"), strict=True):
        nibabel.save(image, tmp_path / f"{role}.nii.gz")
    code = main(
        [
            "run", "voxelmorph-t1", "--moving", str(tmp_path / "moving.nii.gz"),
            "--fixed", str(tmp_path / "fixed.nii.gz"), "-o", f"{tmp_path}/out/", "--report",
            "--weights", str(fixtures / "synthmorph" / "vxmdense_t1.h5"),
        ]
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    expected = stored(fixtures, "vxmdense_t1")["y_source"][..., 0]
    found = nibabel.load(tmp_path / "out" / "moving_moved.nii.gz").get_fdata()
    np.testing.assert_allclose(found, expected, rtol=0, atol=IMAGE)
    page = (tmp_path / "out" / "moving_report.html").read_text(encoding="utf-8")
    assert "moving.nii.gz to fixed.nii.gz" in page and "Folded voxels" in page
