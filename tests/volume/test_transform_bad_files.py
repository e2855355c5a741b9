"""Files that are no transform, or damaged ones: one sentence each, whatever they hold."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidTransform
from kerasneuro.volume import Affine, Geometry, Warp
from kerasneuro.volume.freesurfer_warp import to_mgh, to_nifti
from kerasneuro.volume.itk_transform import write_h5, write_text
from kerasneuro.volume.lta import write_lta
from kerasneuro.volume.transform_io import load_transform

GRID = Geometry.of_parts((3, 4, 5), (1, 2, 3), np.eye(3), (5, 6, 7))
AFFINE = Affine(np.eye(4), GRID, GRID, "world")
WARP = Warp(np.ones((3, 4, 5, 3)), GRID, GRID, "disp_ras")
LTA, ITK = write_lta(AFFINE), write_text(AFFINE)
NIFTI, MGH = to_nifti(WARP).to_bytes(), to_mgh(WARP)
PLAIN = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)).to_bytes()
FIELD = nibabel.Nifti1Image(np.zeros((3, 4, 5, 1, 3), np.float32), np.eye(4)).to_bytes()
Maker = Callable[[Path], None]


def content(data: bytes | str) -> Maker:
    return lambda path: path.write_bytes(data.encode() if isinstance(data, str) else data) and None


def without_geometry(side: str) -> Maker:
    head, _, tail = LTA.partition(f"{side} volume info\nvalid = 1")
    return content(f"{head}{side} volume info\nvalid = 0{tail}")


def matlab(**arrays: np.ndarray) -> Maker:
    def make(path: Path) -> None:
        from scipy.io import savemat

        savemat(path, arrays, format="4")

    return make


def displacement_h5(path: Path) -> None:
    field = SimpleITK.DisplacementFieldTransform(SimpleITK.Image((4, 5, 6), SimpleITK.sitkVectorFloat64, 3))
    SimpleITK.WriteTransform(field, str(path))


def scale_text(path: Path) -> None:
    SimpleITK.WriteTransform(SimpleITK.ScaleTransform(3, (1, 2, 3)), str(path))


def weights_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("conv3d/kernel:0", data=np.zeros(3))


CASES: dict[str, tuple[str, Maker, str]] = {
    "folder": ("x.lta", lambda path: path.mkdir(), "is a folder"),
    "empty": ("x.lta", content(""), "found a file of 0 bytes"),
    "prose": ("x.lta", content("this is not a transform"), "found a text file beginning with 'this is not"),
    "binary": ("x.lta", content(b"\xff\xd8\xff\xe0\0\x10JFIF"), "found a file beginning with"),
    "other text": ("x.txt", content(b"caf\xe9 au lait"), "found something else"),
    "cut lta": ("x.lta", content(LTA[:300]), "expected four rows|holds no valid geometry"),
    "lta without matrix": ("x.lta", content(LTA.replace("1 4 4\n", "")), "found 0 rows"),
    "lta with words": ("x.lta", content(LTA.replace("1 4 4\n", "1 4 4\none\n")), "expected four rows"),
    "lta without source": ("x.lta", without_geometry("src"), "no valid geometry of the source image"),
    "lta without target": ("x.lta", without_geometry("dst"), "no valid geometry of the target image"),
    "lta without xras": (
        "x.lta",
        content(LTA.replace("xras", "axes", 1)),
        "source image in the LTA is damaged",
    ),
    "lta of a flat image": ("x.lta", content(LTA.replace("= 3 4 5", "= 3 4 0", 1)), "LTA is damaged"),
    "lta of several": (
        "x.lta",
        content(LTA.replace("nxforms   = 1", "nxforms   = 2")),
        "one matrix, found 2",
    ),
    "lta of type 14": ("x.lta", content(LTA.replace("type      = 1", "type      = 14")), "found 14"),
    "lta without type": (
        "x.lta",
        content(LTA.replace("type", "kind")),
        "'type = NUMBER', found no such line",
    ),
    "singular lta": ("x.lta", content(LTA.replace(" 1.000000000000000e+00 0.0", " 0.0 0.0", 1)), "singular"),
    "plain image": ("x.nii", content(PLAIN), "found 3x4x5"),
    "field without extension": ("x.nii", content(FIELD), "without it, which does not say what it moves"),
    "cut warp": ("x.nii", content(NIFTI[:-9]), "the header promises"),
    "cut header": ("x.nii", content(NIFTI[:200]), "cannot be read"),
    "misnamed warp": ("x.nii.gz", content(NIFTI), "cannot be read"),
    "warp of scans": (
        "x.nii",
        content(NIFTI.replace(b">\0\3\1", b">\0\0\1", 1)),
        "of a warp, found one beginning",
    ),
    "warp without target": (
        "x.nii",
        content(NIFTI.replace(b"\0\0\0\3\0\0\0\4\0\0\0\5", b"\0\0\0\0\0\0\0\4\0\0\0\5")),
        "geometry of the warp is damaged",
    ),
    "cut mgh": ("x.mgh", content(MGH[:400]), "truncated"),
    "mgh without tags": ("x.mgh", content(MGH[: 284 + 4 * 180 + 20]), "holds no geometry"),
    "mgh image": ("x.mgh", content(b"\0\0\0\1" + MGH[4:]), "found an image"),
    "mgh of four frames": ("x.mgh", content(MGH[:19] + b"\4" + MGH[20:]), "three float frames"),
    "huge mgh": ("x.mgh", content(MGH[:4] + b"\0\0\x7f\xff" * 3 + MGH[16:]), "truncated"),
    "cut mgz": ("x.mgz", content(gzip.compress(MGH)[:-30]), "cannot be read"),
    "invalid mgh": (
        "x.mgh",
        content(MGH.replace(b"\0\0\0\1\0\0\0\3\0\0\0\4", b"\0\0\0\0\0\0\0\3\0\0\0\4")),
        "not valid",
    ),
    "cut itk": ("x.txt", content(ITK[:120]), "fixed ones|expected 12 parameters|expected numbers"),
    "itk words": ("x.txt", content(ITK.replace("Parameters: ", "Parameters: one ")), "expected numbers"),
    "itk without transforms": ("x.txt", content("#Insight Transform File V1.0\n"), "found none in the file"),
    "itk scaling": ("x.txt", scale_text, "found ScaleTransform_double_3_3"),
    "singular itk": ("x.txt", content(ITK.replace("1.0", "0.0", 2)), "inverted|finite"),
    "itk field in h5": ("x.h5", displacement_h5, "save a displacement field as NIfTI"),
    "weights": ("x.h5", weights_h5, "HDF5 file of an ITK transform"),
    "cut h5": ("x.h5", content(write_h5(AFFINE)[:900]), "HDF5 file of an ITK transform"),
    "other mat": ("x.mat", matlab(volume=np.zeros((3, 3))), "expected a .mat file of an ITK transform"),
    "large mat": ("x.mat", matlab(volume=np.zeros((99, 99)), fixed=np.zeros(3)), "expected a .mat file"),
    "short mat": ("x.mat", matlab(AffineTransform_double_3_3=np.zeros(9), fixed=np.zeros(3)), "found 9"),
    "singular fsl": ("x.mat", content("0 0 0 0\n" * 3 + "0 0 0 1\n"), "means nothing without|inverted"),
    "short fsl": ("x.mat", content("1 0 0 0\n0 1 0 0\n"), "found a text file"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_transform(case: str, tmp_path: Path) -> None:
    name, make, message = CASES[case]
    make(tmp_path / name)
    with pytest.raises(InvalidTransform, match=message) as caught:
        load_transform(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidTransform, match="no such file"):
        load_transform(tmp_path / "none.lta")


@given(st.sampled_from(["x.lta", "x.txt", "x.nii", "x.mgh", "x.h5"]), st.data())
def test_damage_anywhere(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    """A changed or missing part gives a transform or a sentence, never another error."""
    whole = {
        "x.lta": LTA.encode(),
        "x.txt": ITK.encode(),
        "x.nii": NIFTI,
        "x.mgh": MGH,
        "x.h5": write_h5(AFFINE),
    }
    damaged = bytearray(whole[name])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        transform = load_transform(path)
    except InvalidTransform as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(transform, (Affine, Warp))
