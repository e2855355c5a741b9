"""Every unusable image is refused with one sentence that names what was found."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.volume import header_check, load
from kerasneuro.volume.image import Volume


def voxels(shape: tuple[int, ...] = (6, 7, 8), dtype: Any = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def write(path: Path, array: np.ndarray | None = None, affine: Any = None, **header: Any) -> Path:
    image = nibabel.Nifti1Image(voxels() if array is None else array, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def patch_header(path: Path, **fields: Any) -> Path:
    """Write header fields as they are, past nibabel's repairs."""
    content = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


def refused(image: Any, *found: str, **options: Any) -> str:
    with pytest.raises(InvalidImage) as caught:
        load(image, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in found:
        assert part in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.nii", "nothing.nii", "no such file")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder")


def test_zero_byte_file(tmp_path: Path) -> None:
    for name in ("empty.nii", "empty.nii.gz", "empty.mgz"):
        (tmp_path / name).touch()
        refused(tmp_path / name, name, "0 bytes")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scan.nii")

    def deny(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    refused(path, "scan.nii", "cannot be read", "Permission denied")


@pytest.mark.parametrize("name", ["report.nii", "report.nii.gz", "report.txt", "report.mgh", "report.mgz"])
def test_text_named_as_an_image(tmp_path: Path, name: str) -> None:
    text = b"These are the results of the study.\n" * 40
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(("gz", "mgz")) else text)
    refused(path, name, "NIfTI")


def test_text_not_even_compressed(tmp_path: Path) -> None:
    path = tmp_path / "report.nii.gz"
    path.write_text("These are the results of the study.\n")
    refused(path, "gzip-compressed", "rename")


def test_compressed_file_without_gz(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii.gz")
    refused(path.rename(tmp_path / "scan.nii"), "gzip-compressed", "rename")


@pytest.mark.parametrize("kept", [5, 60, 2000])
def test_truncated_gzip(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "scan.nii.gz", np.random.default_rng(0).integers(0, 9999, (20, 20, 20), np.int16))
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "scan.nii.gz", "truncated")


def test_damaged_gzip(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii.gz", np.random.default_rng(0).integers(0, 9999, (20, 20, 20), np.int16))
    content = bytearray(path.read_bytes())
    content[3000:3100] = b"\xff" * 100
    path.write_bytes(content)
    refused(path, "scan.nii.gz", "damaged")


def test_header_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii")
    found = path.stat().st_size
    patch_header(path, dim=[3, 60, 70, 80, 1, 1, 1, 1])
    refused(path, str(60 * 70 * 80 * 2 + 352), str(found))


def test_header_that_promises_more_than_compressed_data_can_hold(tmp_path: Path) -> None:
    path = patch_header(write(tmp_path / "scan.nii"), dim=[3, 12, 14, 16, 1, 1, 1, 1])
    packed = tmp_path / "scan.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    refused(packed, "promises 5376 bytes", "found 672")
    patch_header(path, dim=[3, 600, 500, 400, 1, 1, 1, 1])
    packed.write_bytes(gzip.compress(path.read_bytes()))
    refused(packed, "promises", str(600 * 500 * 400 * 2 + 352))


def test_header_that_needs_more_memory_than_there_is(tmp_path: Path) -> None:
    path = patch_header(write(tmp_path / "scan.nii"), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    refused(path, "needs 162000.0 GB", "GB available")


def test_memory_is_compared_with_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scan.nii")
    monkeypatch.setattr(header_check, "available_memory", lambda: 6 * 7 * 8 * 6 - 1)
    refused(path, "GB available")
    monkeypatch.setattr(header_check, "available_memory", lambda: 6 * 7 * 8 * 6)
    assert load(path).shape == (6, 7, 8)


@pytest.mark.parametrize("shape", [(40,), (40, 50), (6, 7, 8, 1, 2), (6, 7, 8, 1, 1, 3)])
def test_wrong_number_of_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    listed = "x".join(map(str, shape))
    path = write(tmp_path / "scan.nii", voxels(shape))
    refused(path, "expected a 3-D image", f"{len(shape)}-D", listed)
    refused(nibabel.Nifti1Image(voxels(shape), np.eye(4)), f"{len(shape)}-D", frames="first")


def test_many_volumes(tmp_path: Path) -> None:
    path = write(tmp_path / "bold.nii.gz", voxels((4, 5, 6, 9)))
    refused(path, "4-D image of 9 volumes", "4x5x6x9")


@pytest.mark.parametrize(
    "dim", [[3, 6, 0, 8, 1, 1, 1, 1], [3, 6, -7, 8, 1, 1, 1, 1], [4, 6, 7, 8, 0, 1, 1, 1]]
)
def test_axis_without_voxels(tmp_path: Path, dim: list[int]) -> None:
    path = patch_header(write(tmp_path / "scan.nii"), dim=dim)
    refused(path, "at least one voxel", "x".join(map(str, dim[1 : dim[0] + 1])))


@pytest.mark.parametrize("size", [-1.0, 0.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_voxel_size_that_is_not_positive(tmp_path: Path, size: float, name: str) -> None:
    path = patch_header(write(tmp_path / "scan.nii"), pixdim=[1, 1, size, 1, 1, 1, 1, 1])
    if name.endswith("gz"):
        content = path.read_bytes()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content))
    refused(path, "positive voxel sizes", f"(1, {size:g}, 1)")
    image = nibabel.Nifti1Image(voxels(), np.eye(4))
    image.header["pixdim"][2] = size
    refused(image, "positive voxel sizes", f"(1, {size:g}, 1)")


@pytest.mark.parametrize("rows", [[0, 0, 0, 0], [1, 0, 0, 0], [np.nan, 0, 0, 0], [np.inf, 0, 0, 0]])
def test_affine_that_cannot_be_inverted(tmp_path: Path, rows: list[float]) -> None:
    fields = {"srow_x": [1, 0, 0, 0], "srow_y": rows, "srow_z": [0, 0, 1, 0], "sform_code": 1}
    path = patch_header(write(tmp_path / "scan.nii"), **fields)
    refused(path, "affine", "singular" if np.isfinite(rows).all() else "finite")


def test_damaged_qform(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii")
    patch_header(path, sform_code=0, qform_code=1, quatern_b=3.0, quatern_c=3.0)
    refused(path, "scan.nii")
    patch_header(path, sform_code=1)
    assert "damaged" in load(path).warnings[0]
    refused(path, "qform", affine_rule="qform")


def test_nibabel_image_without_affine() -> None:
    refused(nibabel.Nifti1Image(voxels(), None).__class__(voxels(), None), "4x4 affine")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_real_number(tmp_path: Path, dtype: Any) -> None:
    array = np.zeros((4, 5, 6), dtype)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    refused(tmp_path / "scan.nii", "one real number per voxel")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(tmp_path: Path, value: float) -> None:
    array = voxels(dtype=np.float32)
    array[0, 0, :3] = value
    path = write(tmp_path / "scan.nii", array)
    refused(path, "found 3 of 336")
    np.testing.assert_array_equal(load(path, allow_nan=True).array, array)


def test_nothing_but_nan(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii", np.full((4, 5, 6), np.nan, np.float32))
    refused(path, "none in 120", allow_nan=True)


@pytest.mark.parametrize("value", [0, 7])
def test_constant_image(tmp_path: Path, value: int) -> None:
    path = write(tmp_path / "scan.nii", np.full((4, 5, 6), value, np.int16))
    refused(path, f"constant image, value {value}")
    assert load(path, check_constant=False).array.max() == value


def test_constant_but_for_nan(tmp_path: Path) -> None:
    array = np.full((4, 5, 6), 2, np.float32)
    array[0] = np.nan
    refused(write(tmp_path / "scan.nii", array), "constant image, value 2", allow_nan=True)


def test_surface_is_not_an_image_of_voxels(tmp_path: Path) -> None:
    surface = nibabel.gifti.GiftiImage()
    nibabel.save(surface, tmp_path / "lh.gii")
    refused(tmp_path / "lh.gii", "expected an image of voxels")


def test_something_else_than_an_image() -> None:
    refused(voxels(), "ndarray")


@pytest.mark.parametrize("options", [{"affine_rule": "both"}, {"frames": "last"}])
def test_unknown_option(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"found '(both|last)'"):
        load(write(tmp_path / "scan.nii"), **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Volume(voxels((3, 4)), np.eye(4)),
        lambda: Volume(voxels((3, 4, 5, 1)), np.eye(4)),
        lambda: Volume(np.zeros((3, 0, 5)), np.eye(4)),
        lambda: Volume(voxels(), np.zeros((4, 4))),
        lambda: Volume(voxels(), np.eye(3)),
        lambda: Volume(voxels(), np.ones((4, 4)) + np.eye(4)),
    ],
)
def test_volume_refuses_what_is_no_volume(make: Callable[[], Volume]) -> None:
    with pytest.raises(InvalidImage, match=r"^[^\n]*expected[^\n]*found[^\n]*$"):
        make()
