"""Files of transforms: FreeSurfer's against surfa, ITK's against SimpleITK, FSL's against nitransforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from nitransforms.io.fsl import FSLLinearTransform
from nitransforms.io.itk import ITKLinearTransform

from kerasneuro.errors import InvalidOption, InvalidTransform, OutputError
from kerasneuro.volume import Affine, Geometry, Warp, apply_transform
from kerasneuro.volume.freesurfer_warp import from_nifti, pack_extension, to_nifti
from kerasneuro.volume.lta import read_lta, write_lta
from kerasneuro.volume.transform import FORMATS, WarpFormat
from kerasneuro.volume.transform_io import load_transform, save_transform

LTAS = [
    f"e2e/{name}.{way}.lta" for name in ("affine", "affine_init", "rigid") for way in ("trans", "inverse")
]


@pytest.fixture(scope="module")
def files(fixtures: Path) -> Path:
    return fixtures / "synthmorph"


def geometry(files: Path, name: str) -> Geometry:
    return Geometry.of(nibabel.load(files / "e2e" / f"{name}.nii.gz"))


def affine_of(path: Path) -> Affine:
    transform = load_transform(path)
    assert isinstance(transform, Affine)
    return transform


def warp_of(path: Path) -> Warp:
    transform = load_transform(path)
    assert isinstance(transform, Warp)
    return transform


@pytest.mark.parametrize("name", LTAS)
def test_lta_is_written_as_the_original_does(files: Path, name: str, tmp_path: Path) -> None:
    read = affine_of(files / name)
    ends = [geometry(files, "moving"), geometry(files, "fixed")]
    source, target = reversed(ends) if "inverse" in name else ends
    assert (read.source, read.target, read.space) == (source, target, "world")
    save_transform(Affine(read.matrix, source, target, "world"), tmp_path / "new.lta")
    assert (tmp_path / "new.lta").read_bytes() == (files / name).read_bytes()


@pytest.mark.parametrize("name", [*LTAS, "geom_world_0to1.lta"])
def test_lta_comes_back(files: Path, name: str, tmp_path: Path) -> None:
    read = affine_of(files / name)
    assert read.source is not None
    for affine in (read, read.to_voxel()):
        again = read_lta(write_lta(affine), "again")
        assert (again.space, again.source, again.target) == (affine.space, affine.source, affine.target)
        np.testing.assert_allclose(again.matrix, affine.matrix, rtol=1e-15, atol=0)
        np.testing.assert_allclose(again.source.vox2world, read.source.vox2world, rtol=0, atol=1e-12)


def test_lta_of_other_programs(files: Path) -> None:
    text = (files / "geom_world_0to1.lta").read_text()
    plain = read_lta(text, "plain")
    decorated = "# transform file /data/my = file.lta\n# created by someone\n\n" + text.replace(
        "valid = 1", "valid = 1  # volume info valid"
    ).replace("filename = none", "filename = /data/src volume info.mgz")
    np.testing.assert_array_equal(
        read_lta(decorated + "subject fsaverage\nfscale 0.15\n", "x").matrix, plain.matrix
    )
    assert plain.source is not None and plain.target is not None
    to_surface = plain.target.vox2surface @ plain.target.world2vox
    matrix = to_surface @ plain.matrix @ np.linalg.inv(plain.source.vox2surface @ plain.source.world2vox)
    rows = "\n".join(" ".join(map(repr, map(float, row))) for row in matrix)
    head, _, tail = text.partition("1 4 4\n")
    surface = (
        head.replace("type      = 1", "type      = 3") + "1 4 4\n" + rows + "\n" + tail[tail.index("src") :]
    )
    np.testing.assert_allclose(read_lta(surface, "surface").matrix, plain.matrix, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["joint.trans", "joint.inverse"])
def test_warp_is_written_as_the_original_does(files: Path, name: str, tmp_path: Path) -> None:
    path = files / "e2e" / f"{name}.nii.gz"
    read, image = warp_of(path), nibabel.load(path)
    ends = [geometry(files, "moving"), geometry(files, "fixed")]
    source, target = reversed(ends) if "inverse" in name else ends
    assert (read.source, read.target, read.format) == (source, target, "disp_ras")
    np.testing.assert_array_equal(read.displacement, np.squeeze(image.dataobj))
    made = to_nifti(Warp(read.displacement, source, target, "disp_ras"))
    assert made.header.binaryblock == image.header.binaryblock
    stored, own = (bytes(each.header.extensions[0].get_content()) for each in (image, made))
    if "inverse" in name:  # Its shears are rounding errors, in the file of the original 0 in the last bits.
        stored, own = (
            np.frombuffer(each[4 + 12 : 4 + 12 + 160], ">f4").astype(float) for each in (stored, own)
        )
        np.testing.assert_allclose(own, stored, rtol=1e-6, atol=0)
    else:
        assert own == stored
    save_transform(read, tmp_path / "new.nii.gz")
    again = nibabel.load(tmp_path / "new.nii.gz")
    assert again.header.binaryblock == image.header.binaryblock
    np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(image.dataobj))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgh", ".mgz"])
def test_warp_comes_back(files: Path, suffix: str, format: WarpFormat, tmp_path: Path) -> None:
    warp = warp_of(files / "e2e" / "joint.trans.nii.gz").to(format)
    path = save_transform(warp, tmp_path / f"warp{suffix}")
    again = warp_of(path)
    assert (again.source, again.target) == (warp.source, warp.target)
    if suffix.startswith(".m"):
        assert again.format == format
        assert path.read_bytes()[:2] == b"\x1f\x8b" or path.read_bytes()[:4] == bytes([0, 0, 3, 1])
        np.testing.assert_array_equal(again.displacement, warp.displacement)
    else:
        assert again.format == "disp_ras"
        np.testing.assert_allclose(again.displacement, warp.to("disp_ras").displacement, rtol=0, atol=0)


@given(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.booleans())
def test_sheared_grids_come_back(tmp_path_factory: Any, one: float, two: float, mgh: bool) -> None:
    rotation = nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1)
    source = Geometry.of_parts((3, 4, 5), (1, 2, 3), rotation, (5, 6, 7), (one, two, 0.1))
    target = Geometry.of_parts((2, 3, 4), (2, 1, 2), rotation.T, (-5, 6, 7), (two, 0, one))
    field = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
    path = tmp_path_factory.mktemp("warps") / ("warp.mgh" if mgh else "warp.nii")
    save_transform(Warp(field, source, target, "disp_ras"), path)
    again = warp_of(path)
    assert (again.source, again.target) == (source, target)
    np.testing.assert_array_equal(again.displacement, field)
    affine = read_lta(write_lta(Affine(np.eye(4), source, target, "world")), "sheared")
    assert (affine.source, affine.target) == (source, target)


def random_world(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(0, 0.2, (3, 3))
    matrix[:3, 3] = rng.normal(0, 20, 3)
    return matrix


def pulled(affine: Affine, point: np.ndarray) -> np.ndarray:
    """Take a point of the target to the source, both in the coordinates of ITK."""
    turn = np.array([-1, -1, 1])
    back = np.linalg.inv(affine.to_world().matrix)
    return turn * (back[:3, :3] @ (turn * point) + back[:3, 3])


@pytest.mark.parametrize("suffix", [".txt", ".tfm", ".h5"])
def test_itk_reads_the_matrix(suffix: str, tmp_path: Path) -> None:
    affine = Affine(random_world(3), None, None, "world")
    path = save_transform(affine, tmp_path / f"matrix{suffix}")
    point = np.array([10.0, -20, 30])
    found = SimpleITK.ReadTransform(str(path)).TransformPoint(point.tolist())
    np.testing.assert_allclose(found, pulled(affine, point), rtol=0, atol=1e-10)
    np.testing.assert_allclose(affine_of(path).matrix, affine.matrix, rtol=0, atol=1e-12)
    if suffix != ".tfm":
        ras = ITKLinearTransform.from_filename(path).to_ras()
        np.testing.assert_allclose(np.linalg.inv(ras), affine.matrix, rtol=0, atol=1e-4)


def itk_transforms() -> list[Any]:
    affine = SimpleITK.AffineTransform(3)
    affine.SetMatrix([1, 0.1, 0, 0, 1.2, 0.3, 0, 0, 0.9])
    affine.SetTranslation([1, 2, 3])
    affine.SetCenter([4, 5, 6])
    euler = SimpleITK.Euler3DTransform((7, 8, 9), 0.1, 0.2, 0.3, (1, 2, 3))
    other = SimpleITK.Euler3DTransform(euler)
    other.SetComputeZYX(True)
    shift = SimpleITK.TranslationTransform(3, (1, 2, 3))
    return [affine, euler, other, shift, SimpleITK.CompositeTransform([affine, euler, shift])]


@pytest.mark.parametrize("suffix", [".txt", ".h5", ".mat"])
@pytest.mark.parametrize("index", range(5))
def test_matrices_of_itk_are_read(index: int, suffix: str, tmp_path: Path) -> None:
    transform = itk_transforms()[index]
    if suffix == ".mat" and index == 4:
        transform = itk_transforms()[0].GetInverse()  # a composite has no .mat form
    path = tmp_path / f"itk{suffix}"
    SimpleITK.WriteTransform(transform, str(path))
    affine = affine_of(path)
    assert (affine.source, affine.target) == (None, None)
    for point in np.random.default_rng(index).normal(0, 50, (5, 3)):
        expected = transform.TransformPoint(point.tolist())
        np.testing.assert_allclose(pulled(affine, point), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["affine.trans.lta", "joint.trans.nii.gz"])
def test_itk_moves_the_image_alike(files: Path, name: str, tmp_path: Path) -> None:
    transform = load_transform(files / "e2e" / name)
    path = save_transform(transform, tmp_path / ("itk.h5" if "lta" in name else "itk.nii.gz"), format="itk")
    moving, fixed = (
        SimpleITK.ReadImage(str(files / "e2e" / f"{image}.nii.gz"), SimpleITK.sitkFloat32)
        for image in ("moving", "fixed")
    )
    if isinstance(transform, Affine):
        itk = SimpleITK.ReadTransform(str(path))
    else:
        itk = SimpleITK.DisplacementFieldTransform(
            SimpleITK.ReadImage(str(path), SimpleITK.sitkVectorFloat64)
        )
    resampled = SimpleITK.Resample(moving, fixed, itk, SimpleITK.sitkLinear, 0.0)
    expected = SimpleITK.GetArrayFromImage(resampled).transpose(2, 1, 0)
    found = apply_transform(transform, files / "e2e" / "moving.nii.gz").get_fdata()
    # ITK ends an image half a voxel beyond its last centres, so only what lies between centres is compared.
    inside = between_centres(transform, files)
    assert np.count_nonzero(expected[inside]) > 5000
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=2e-2)


def between_centres(transform: Affine | Warp, files: Path) -> np.ndarray:
    source, target = geometry(files, "moving"), geometry(files, "fixed")
    if isinstance(transform, Affine):
        matrix = np.linalg.inv(transform.to_voxel(source=source).matrix)
        places = np.moveaxis(np.indices(target.shape), 0, -1) @ matrix[:3, :3].T + matrix[:3, 3]
    else:
        places = transform.to("abs_crs").displacement
    return np.all((places > 1e-3) & (places < np.array(source.shape) - 1 - 1e-3), axis=-1)


def test_field_of_itk_comes_back(files: Path, tmp_path: Path) -> None:
    warp = warp_of(files / "e2e" / "joint.trans.nii.gz")
    path = save_transform(warp, tmp_path / "field.nii.gz", format="itk")
    again = warp_of(path)
    assert (again.source, again.target, again.format) == (None, warp.target, "disp_ras")
    np.testing.assert_array_equal(again.displacement, warp.displacement)
    one, two = (apply_transform(each, files / "e2e" / "moving.nii.gz") for each in (warp, again))
    np.testing.assert_allclose(np.asarray(one.dataobj), np.asarray(two.dataobj), rtol=0, atol=2e-3)


@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_fsl_matrix_equals_nitransforms(tmp_path_factory: Any, seed: int, flip: bool, flop: bool) -> None:
    images = []
    for mirrored, shape in ((flip, (5, 6, 7)), (flop, (8, 6, 4))):
        matrix = random_world(seed)
        matrix[:3, :3] = np.linalg.qr(matrix[:3, :3])[0] * [1, 2, 3]
        if (np.linalg.det(matrix[:3, :3]) > 0) == mirrored:
            matrix[:, 0] *= -1
        image = nibabel.Nifti1Image(np.zeros(shape, np.float32), matrix)
        images.append(nibabel.Nifti1Image.from_bytes(image.to_bytes()))
    moving, fixed = images
    source, target = Geometry.of(moving), Geometry.of(fixed)
    affine = Affine(random_world(seed + 1), source, target, "world")
    path = tmp_path_factory.mktemp("fsl") / "flirt.mat"
    save_transform(affine, path)
    ras = FSLLinearTransform.from_filename(path).to_ras(moving=moving, reference=fixed)
    np.testing.assert_allclose(np.linalg.inv(ras), affine.matrix, rtol=0, atol=1e-4)
    again = load_transform(path, source=source, target=target)
    assert isinstance(again, Affine)
    np.testing.assert_allclose(again.to_world().matrix, affine.matrix, rtol=0, atol=1e-8)
    with pytest.raises(InvalidTransform, match=r"flirt\.mat: a matrix of FSL means nothing without"):
        load_transform(path)


def test_existing_file_is_kept(files: Path, tmp_path: Path) -> None:
    affine = affine_of(files / LTAS[0])
    path = tmp_path / "there.lta"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        save_transform(affine, path)
    assert path.read_text() == "mine"
    save_transform(affine, path, overwrite=True)
    assert affine_of(path).target == affine.target
    assert [each.name for each in tmp_path.iterdir()] == ["there.lta"]


def test_what_a_format_cannot_hold(files: Path, tmp_path: Path) -> None:
    affine, warp = affine_of(files / LTAS[0]), warp_of(files / "e2e" / "joint.trans.nii.gz")
    bare = Affine(affine.matrix, None, None, "world")
    nameless = Warp(warp.displacement, None, warp.target, "disp_ras")
    sheared = Geometry.of_parts((2, 2, 2), (1, 1, 1), np.eye(3), (0, 0, 0), (0.1, 0, 0))
    cases: list[tuple[Any, str, Any, str]] = [
        (bare, "a.lta", None, "holds the geometry of both images"),
        (bare, "a.mat", None, "holds no source grid"),
        (nameless, "a.nii.gz", None, "found none of the source"),
        (nameless, "a.mgz", None, "found none of the source"),
        (Warp(np.zeros((2, 2, 2, 3)), sheared, sheared), "a.nii", "itk", "axes at right angles"),
    ]
    for transform, name, format, message in cases:
        with pytest.raises(InvalidTransform, match=message):
            save_transform(transform, tmp_path / name, format=format)
    for transform, name, format in (
        (affine, "a.nii.gz", None),
        (warp, "a.lta", None),
        (affine, "a.lta", "itk"),
        (warp, "a.mgz", "itk"),
        (affine, "a.h5", "fsl"),
    ):
        with pytest.raises(InvalidOption, match=r"^'a\.[^\n]*$"):
            save_transform(transform, tmp_path / name, format=format)
    assert list(tmp_path.iterdir()) == []


def test_extension_that_contradicts_the_header(files: Path) -> None:
    warp = warp_of(files / "e2e" / "joint.trans.nii.gz")
    image = to_nifti(warp)
    image.set_sform(np.diag([2.0, 2, 2, 1]), 1)
    with pytest.raises(InvalidTransform, match="the header says a grid of"):
        from_nifti(image, "moved.nii")
    assert pack_extension(warp)[-1:] == b"*"
