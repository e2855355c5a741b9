"""Writing: the input's header and grid, exact values, whole files or none."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.volume import Volume, load, preserve_dtype, save_image, strip_suffix, to_axcodes, to_image

OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.2, 0.3, -0.1) @ np.diag([1.1, 0.9, 1.3]), [-30, -20, 10]
)
SHAPE = (7, 8, 9)


def scan(
    path: Path,
    dtype: Any = np.int16,
    slope: float = 1,
    inter: float = 0,
    shape: Any = SHAPE,
    order: str = "<",
) -> Path:
    header = nibabel.Nifti1Header(endianness=order)
    header["descrip"] = b"made by scanner 7"
    header["cal_max"] = 4000
    header.set_xyzt_units("mm", "sec")
    header.set_data_dtype(dtype)
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"kept"))
    image = nibabel.Nifti1Image(
        np.random.default_rng(1).integers(0, 200, shape).astype(dtype), OBLIQUE, header
    )
    image.set_sform(OBLIQUE, 3)
    image.set_qform(OBLIQUE, 1)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_mask_carries_the_header(tmp_path: Path, order: str) -> None:
    volume = load(scan(tmp_path / "t1.nii.gz", slope=0.5, inter=-3, order=order))
    mask = volume.array > 20
    saved = save_image(to_image(mask, volume), tmp_path / "mask.nii.gz")
    raw = nibabel.Nifti1Header(bytes(nibabel.openers.Opener(saved).read(348)), check=False)
    assert (float(raw["scl_slope"]), float(raw["scl_inter"])) in [(1.0, 0.0)]
    image = nibabel.load(saved)
    source = nibabel.load(tmp_path / "t1.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), mask)
    np.testing.assert_array_equal(image.affine, source.affine)
    for key in (
        "qform_code",
        "sform_code",
        "descrip",
        "xyzt_units",
        "quatern_b",
        "qoffset_x",
        "srow_x",
        "pixdim",
    ):
        np.testing.assert_array_equal(image.header[key], source.header[key], err_msg=key)
    assert image.header["cal_max"] == 0 and image.header["cal_min"] == 0
    assert [extension.get_content() for extension in image.header.extensions] == [b"kept"]


def test_both_affines_survive_whichever_is_used(tmp_path: Path) -> None:
    path = scan(tmp_path / "t1.nii")
    image = nibabel.load(path)
    image.set_qform(np.diag([2.0, 2, 2, 1]), 1, update_affine=False)
    nibabel.save(image, tmp_path / "two.nii")
    volume = load(tmp_path / "two.nii", affine_rule="qform")
    out = to_image(volume.array > 9, volume)
    np.testing.assert_array_equal(
        out.get_sform(coded=True)[0], nibabel.load(tmp_path / "two.nii").get_sform()
    )
    np.testing.assert_allclose(out.get_qform(), np.diag([2.0, 2, 2, 1]), atol=1e-6)
    assert (int(out.header["sform_code"]), int(out.header["qform_code"])) == (3, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([False, True], np.uint8),
        ([0, 255], np.uint8),
        ([-1, 100], np.int8),
        ([0, 256], np.int16),
        ([0, 2035], np.int16),
        ([0, 40000], np.uint16),
        ([-1, 40000], np.int32),
        ([0, 2**31], np.uint32),
        ([0.5, 1.5], np.float32),
    ],
)
def test_smallest_type(values: list[Any], expected: Any) -> None:
    array = np.resize(np.array(values), SHAPE)
    image = to_image(array, Volume(np.zeros(SHAPE), OBLIQUE))
    assert image.get_data_dtype() == expected
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)


@pytest.mark.parametrize("value", [256, -1, 0.5])
def test_type_that_cannot_hold_the_values(value: float) -> None:
    like = Volume(np.zeros(SHAPE), OBLIQUE)
    with pytest.raises(InvalidOption, match="uint8"):
        to_image(np.full(SHAPE, value), like, dtype=np.uint8)
    assert to_image(np.full(SHAPE, 3.0), like, dtype=np.uint8).get_data_dtype() == np.uint8


def test_array_on_another_grid() -> None:
    with pytest.raises(InvalidOption, match=r"\(7, 8, 9\), found \(7, 8, 8\)"):
        to_image(np.zeros((7, 8, 8)), Volume(np.zeros(SHAPE), OBLIQUE))


def test_volume_on_another_grid_gets_its_own_affine(tmp_path: Path) -> None:
    volume = load(scan(tmp_path / "t1.nii"))
    turned, _ = to_axcodes(volume, "LIA")
    image = to_image(turned, volume)
    np.testing.assert_allclose(image.get_sform(), turned.affine, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), turned.affine, atol=1e-5)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 3
    assert image.header["descrip"] == b"made by scanner 7"


def test_sheared_grid_has_no_qform() -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    image = to_image(np.zeros(SHAPE), Volume(np.zeros(SHAPE), sheared))
    assert int(image.header["qform_code"]) == 0
    np.testing.assert_array_equal(image.affine, sheared)


@pytest.mark.parametrize(("n_frames", "frames"), [(1, "single"), (5, "first")])
def test_fourth_axis_when_asked(tmp_path: Path, n_frames: int, frames: Any) -> None:
    volume = load(scan(tmp_path / "t1.nii", shape=(*SHAPE, n_frames)), frames=frames)
    assert to_image(volume.array > 9, volume, keep_frame_axis=True).shape == (*SHAPE, 1)
    assert to_image(volume.array > 9, volume).shape == SHAPE
    assert preserve_dtype(volume.array, volume, keep_frame_axis=True).shape == (*SHAPE, 1)
    flat = load(scan(tmp_path / "flat.nii"))
    assert to_image(flat.array > 9, flat, keep_frame_axis=True).shape == SHAPE


def test_formats(tmp_path: Path) -> None:
    nibabel.save(
        nibabel.MGHImage(np.arange(504, dtype=np.int16).reshape(SHAPE), OBLIQUE), tmp_path / "orig.mgz"
    )
    volume = load(tmp_path / "orig.mgz")
    image = to_image(volume.array > 100, volume)
    assert isinstance(image, nibabel.MGHImage)
    for name, image_class in {
        "a.mgz": nibabel.MGHImage,
        "a.mgh": nibabel.MGHImage,
        "a.nii": nibabel.Nifti1Image,
    }.items():
        save_image(image, tmp_path / name)
        again = load(tmp_path / name, dtype=None)
        assert isinstance(again.header, image_class.header_class) and again.array.dtype == np.uint8
        np.testing.assert_allclose(again.affine, OBLIQUE, atol=1e-4)
        np.testing.assert_array_equal(again.array, volume.array > 100)
    again = nibabel.load(tmp_path / "a.nii")
    assert int(again.header["sform_code"]) == int(again.header["qform_code"]) == 1
    nifti = to_image(np.full(SHAPE, 40000), load(scan(tmp_path / "t1.nii")))
    again = nibabel.load(save_image(nifti, tmp_path / "b.mgz"))
    assert again.get_data_dtype().newbyteorder("=") == np.int32 and np.all(
        np.asanyarray(again.dataobj) == 40000
    )
    brain = preserve_dtype(volume.array, volume)
    assert isinstance(brain, nibabel.MGHImage) and brain.get_data_dtype().newbyteorder("=") == np.int16


@pytest.mark.parametrize("image_class", [nibabel.Nifti2Image, nibabel.Nifti1Pair, nibabel.AnalyzeImage])
def test_header_versions(tmp_path: Path, image_class: Any) -> None:
    suffix = ".nii" if image_class is nibabel.Nifti2Image else ".img"
    path = tmp_path / f"scan{suffix}"
    nibabel.save(image_class(np.arange(504, dtype=np.int16).reshape(SHAPE), np.diag([-2.0, 2, 2, 1])), path)
    volume = load(path)
    again = nibabel.load(save_image(to_image(volume.array > 9, volume), tmp_path / "mask.nii"))
    assert type(again) is (nibabel.Nifti2Image if suffix == ".nii" else nibabel.Nifti1Image)
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), volume.array > 9)
    np.testing.assert_allclose(again.affine, volume.affine)


@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [
        (np.uint8, 1, 0),
        (np.int16, 1, 0),
        (np.int16, 0.35, 0),
        (np.int16, 0.5, -50),
        (np.float64, 1, 0),
        (np.float32, 1, 0),
    ],
)
def test_brain_keeps_type_scaling_and_values(tmp_path: Path, dtype: Any, slope: float, inter: float) -> None:
    source = scan(tmp_path / "t1.nii.gz", dtype, slope, inter)
    volume = load(source)
    brain = np.where(volume.array > volume.array.mean(), volume.array, 0)
    image = preserve_dtype(brain, volume)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), brain)
    again = nibabel.load(save_image(image, tmp_path / "brain.nii.gz"))
    assert again.get_data_dtype() == dtype
    assert (again.dataobj.slope, again.dataobj.inter) == (nibabel.load(source).dataobj.slope, inter)
    np.testing.assert_array_equal(again.get_fdata(dtype=np.float32), brain)


def test_brain_is_float32_where_zero_has_no_code(tmp_path: Path) -> None:
    volume = load(scan(tmp_path / "t1.nii.gz", np.int16, 0.35, -120))
    brain = np.where(volume.array > -100, volume.array, 0)
    again = nibabel.load(save_image(preserve_dtype(brain, volume), tmp_path / "brain.nii.gz"))
    assert again.get_data_dtype() == np.float32
    np.testing.assert_array_equal(again.get_fdata(dtype=np.float32), brain)


def test_brain_out_of_range_or_not_finite_is_float32(tmp_path: Path) -> None:
    volume = load(scan(tmp_path / "t1.nii.gz", np.uint8))
    for value in (300.0, -1.0, 0.5, np.nan):
        brain = volume.array.copy()
        brain[0, 0, 0] = value
        image = preserve_dtype(brain, volume)
        assert image.get_data_dtype() == np.float32
        np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), brain)


def test_same_image_same_bytes(tmp_path: Path) -> None:
    volume = load(scan(tmp_path / "t1.nii.gz"))
    image = to_image(volume.array > 50, volume)
    first = save_image(image, tmp_path / "a.nii.gz").read_bytes()
    assert save_image(image, tmp_path / "b.nii.gz").read_bytes() == first
    assert len(save_image(image, tmp_path / "c.nii.gz", compresslevel=9).read_bytes()) <= len(first)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".mgh"])
def test_existing_output(tmp_path: Path, suffix: str) -> None:
    image = to_image(np.ones(SHAPE, bool), Volume(np.zeros(SHAPE), OBLIQUE))
    target = tmp_path / f"mask{suffix}"
    target.write_text("mine")
    with pytest.raises(OutputError, match="exists already") as caught:
        save_image(image, target)
    assert "\n" not in str(caught.value) and target.name in str(caught.value)
    assert target.read_text() == "mine"
    assert np.all(load(save_image(image, target, overwrite=True), check_constant=False).array == 1)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["mask", "mask.nii.bz2", "mask.npy", "mask.img", "mask.gz"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOption, match=r"\.nii\.gz, \.nii, \.mgz, \.mgh"):
        save_image(to_image(np.ones(SHAPE, bool), Volume(np.zeros(SHAPE), OBLIQUE)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_folder_missing_a_file_or_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = to_image(np.ones(SHAPE, bool), Volume(np.zeros(SHAPE), OBLIQUE))
    with pytest.raises(OutputError, match="expected a folder for the output, found nothing; create it"):
        save_image(image, tmp_path / "new" / "mask.nii")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="found a file"):
        save_image(image, tmp_path / "file" / "mask.nii")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        save_image(image, tmp_path / "folder.nii", overwrite=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="no permission to write"):
        save_image(image, tmp_path / "mask.nii")


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = to_image(np.ones(SHAPE, bool), Volume(np.zeros(SHAPE), OBLIQUE))
    target = save_image(image, tmp_path / "mask.nii.gz")
    before = target.read_bytes()

    def full(self: Any, stream: Any) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", full)
    with pytest.raises(OutputError, match=r"No space left on device\); free space"):
        save_image(image, target, overwrite=True)
    assert list(tmp_path.iterdir()) == [target] and target.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("sub-01.a.nii.gz", "sub-01.a"),
        ("sub-01.b.nii", "sub-01.b"),
        ("/data/x.y/orig.mgz", "orig"),
        ("brain.mgh", "brain"),
        ("scan.img.gz", "scan"),
        ("notes.txt", "notes.txt"),
    ],
)
def test_strip_suffix(name: str, stem: str) -> None:
    assert strip_suffix(name) == stem
