"""The page says what the result says, shows the right side, and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import importlib.util
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import numpy as np
import pytest

from kerasneuro.errors import InvalidOption, MissingDependency, OutputError
from kerasneuro.report import write_quality_page
from kerasneuro.report.figure import SLICES, draw, slice_positions
from kerasneuro.report.quality import gather
from kerasneuro.tasks import Result
from kerasneuro.volume import Volume

HOSTILE = "<script>alert(1)</script>"


def affine_for(axcodes: str, zooms: tuple[float, float, float]) -> np.ndarray:
    """Make an affine whose voxel axes point to the given directions."""
    start = nibabel.orientations.axcodes2ornt("RAS")
    turned = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt(axcodes), start)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel_axis, (world_axis, sign) in enumerate(turned.astype(int)):
        affine[world_axis, voxel_axis] = sign * zooms[voxel_axis]
    return affine


def make_result(
    shape: tuple[int, int, int] = (24, 20, 16),
    axcodes: str = "RAS",
    zooms: tuple[float, float, float] = (2.0, 2.0, 2.0),
    field: str = "mask",
    name: str = "sub-01.nii.gz",
    **changes: object,
) -> Result:
    """Make a scan with a bright block that the mask or the labels outline."""
    affine = affine_for(axcodes, zooms)
    scan = np.random.default_rng(0).uniform(0, 50, shape).astype(np.float32)
    found = np.zeros(shape, np.uint8)
    found[tuple(slice(extent // 4, max(extent * 3 // 4, 1)) for extent in shape)] = 1
    if field == "labels":
        found[: shape[0] // 2] *= 7
    scan[found > 0] += 100
    values = {
        field: nibabel.Nifti1Image(found, affine),
        "input": Volume(scan, affine, path=Path("/data") / name),
        "table": ({"volume_cm3": 12.5, "name": "brain"},),
        "provenance": {
            "model": "deepbet",
            "weights": {"brain": {"sha256": "ab12"}},
            "options": {"size": [1, 2]},
        },
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def png_of(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))


class Requests(HTMLParser):
    """Collect everything that a page would load, and the names of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.loaded += [
            value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")
        ]


def test_page_is_self_contained_and_holds_the_picture(tmp_path: Path) -> None:
    page, picture = write_quality_page(make_result(), tmp_path / "sub-01_report.html")
    text = page.read_text(encoding="utf-8")
    parser = Requests()
    parser.feed(text)
    (only,) = parser.loaded
    assert base64.b64decode(only.removeprefix("data:image/png;base64,")) == picture.read_bytes()
    assert not re.search(r"@import|url\(", text)
    assert not parser.elements & {"script", "link", "iframe", "object"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sub-01_report.html", "sub-01_report.png"]


def test_page_says_what_the_result_says(tmp_path: Path) -> None:
    result = make_result(warnings=("qform and sform differ by 3.1 mm",))
    text = write_quality_page(result, tmp_path / "q.html")[0].read_text(encoding="utf-8")
    for expected in (
        "sub-01.nii.gz",
        "qform and sform differ by 3.1 mm",
        "volume_cm3",
        "12.5",
        "weights: brain: sha256",
        "ab12",
        "1 x 2",
        "deepbet: Fast brain extraction",  # citation of the card
        "10.1016/j.compbiomed.2024.108845",
        "never a diagnosis",
        f"{12 * 10 * 8 * 8 / 1000:.2f}",  # voxels of the block times 8 mm3, in cm3
    ):
        assert expected in text


def test_every_value_is_escaped(tmp_path: Path) -> None:
    result = make_result(
        name=HOSTILE.replace("/", "") + ".nii.gz",
        warnings=(HOSTILE,),
        table=({HOSTILE: HOSTILE},),
        provenance={"model": HOSTILE, HOSTILE: {"a": HOSTILE}},
    )
    text = write_quality_page(result, tmp_path / "q.html")[0].read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8


@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "PSR", "ILA"])
def test_slices_are_shown_in_ras_whatever_the_storage_order(axcodes: str) -> None:
    affine = affine_for(axcodes, (1.0, 2.0, 3.0))
    scan, mask = np.zeros((10, 12, 14), np.float32), np.zeros((10, 12, 14), np.uint8)
    corner = tuple(
        extent - 2 if code in "RAS" else 1 for extent, code in zip(scan.shape, axcodes, strict=True)
    )
    scan[corner], mask[corner] = 9.0, 1  # one step inside the right, front, top corner of the world
    result = Result(
        mask=nibabel.Nifti1Image(mask, affine), input=Volume(scan, affine), provenance={"model": "x"}
    )
    _, scene = gather(result)
    expected = tuple(extent - 2 for extent in scene.scan.shape)
    assert tuple(np.argwhere(scene.scan == 9.0)[0]) == expected
    assert scene.labels is not None
    assert tuple(np.argwhere(scene.labels)[0]) == expected
    for size, extent in zip(scene.zooms, scene.scan.shape, strict=True):
        assert {10: 1.0, 12: 2.0, 14: 3.0}[extent] == pytest.approx(size)


def test_slices_lie_inside_the_outlined_region() -> None:
    _, scene = gather(make_result())
    for axis, extent in enumerate(scene.scan.shape):
        positions = slice_positions(scene, axis)
        assert 1 < len(positions) <= SLICES
        assert extent // 4 <= min(positions) and max(positions) < extent * 3 // 4


def test_mask_outline_is_drawn_in_its_colour(tmp_path: Path) -> None:
    def orange(result: Result, name: str) -> int:
        picture = png_of(write_quality_page(result, tmp_path / f"{name}.html")[1])
        return int(((picture[..., 0] > 0.8) & (picture[..., 2] < 0.4) & (picture[..., 1] < 0.6)).sum())

    with_mask = make_result()
    assert orange(with_mask, "with") > 500
    assert orange(Result(input=with_mask.input, provenance={"model": "deepbet"}), "without") == 0


def test_labels_are_listed_with_their_own_colours() -> None:
    quality, _ = gather(make_result(field="labels", provenance={"model": "my-own"}))
    assert [(region.label, region.name) for region in quality.regions] == [(1, "label 1"), (7, "label 7")]
    assert len({region.colour for region in quality.regions}) == 2
    assert quality.card is None


@pytest.mark.parametrize(
    ("shape", "zooms"),
    [
        ((1, 1, 1), (1, 1, 1)),
        ((3, 40, 2), (5, 0.5, 8)),
        ((30, 30, 4), (0.9, 0.9, 6)),
        ((2, 2, 60), (1, 1, 1)),
    ],
)
def test_tiny_and_anisotropic_images(
    shape: tuple[int, int, int], zooms: tuple[float, float, float], tmp_path: Path
) -> None:
    _, picture = write_quality_page(make_result(shape, zooms=zooms), tmp_path / "q.html")
    assert png_of(picture).std() > 0


def test_empty_mask_and_constant_scan_still_give_a_page_with_a_doubt(tmp_path: Path) -> None:
    affine, zeros = np.eye(4), np.zeros((6, 6, 6), np.uint8)
    result = Result(
        mask=nibabel.Nifti1Image(zeros, affine),
        input=Volume(zeros.astype(np.float32), affine),
        provenance={"model": "deepbet"},
    )
    text = write_quality_page(result, tmp_path / "q.html")[0].read_text(encoding="utf-8")
    assert "The mask is empty" in text


def test_a_doubt_of_the_task_is_not_repeated() -> None:
    affine, ones = np.eye(4), np.ones((6, 6, 6), np.uint8)
    own = ("the result touches the border of the scan",)
    result = Result(
        mask=nibabel.Nifti1Image(ones, affine),
        input=Volume(ones.astype(np.float32), affine),
        provenance={"model": "deepbet"},
        warnings=own,
    )
    assert gather(result)[0].warnings == own


def test_labels_on_another_grid_show_the_scan_on_theirs() -> None:
    result = make_result()
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[10:20, 10:20, 10:20] = 3
    other = Result(
        labels=nibabel.Nifti1Image(labels, np.eye(4)), input=result.input, provenance=dict(result.provenance)
    )
    _, scene = gather(other)
    assert scene.scan.shape == (32, 32, 32)
    assert scene.regions[0].volume_cm3 == pytest.approx(1.0)


def test_not_finite_voxels_are_drawn_as_black() -> None:
    result = make_result()
    assert result.input is not None
    scan = result.input.array.copy()
    scan[0] = np.nan
    scan[1] = np.inf
    _, scene = gather(Result(mask=result.mask, input=result.input.replace(array=scan)))
    assert np.isfinite(scene.scan).all()
    assert draw(scene).startswith(b"\x89PNG")


def test_result_without_a_scan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="input scan"):
        write_quality_page(Result(), tmp_path / "q.html")
    assert not list(tmp_path.iterdir())


def test_existing_page_is_kept_without_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "q.html"
    target.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_quality_page(make_result(), target)
    assert target.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["q.html"]
    write_quality_page(make_result(), target, overwrite=True)
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"\.html"):
        write_quality_page(make_result(), tmp_path / "q.png")


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kerasneuro.report.page.os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_quality_page(make_result(), tmp_path / "q.html")
    assert os.listdir(tmp_path) == []


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "kerasneuro.report.page.find_spec", lambda name: None if name == "jinja2" else find_spec(name)
    )
    with pytest.raises(MissingDependency, match=r"jinja2.*kerasneuro\[report\]"):
        write_quality_page(make_result(), tmp_path / "q.html")
    assert not list(tmp_path.iterdir())


def test_no_pyplot_state_is_made(tmp_path: Path) -> None:
    write_quality_page(make_result(), tmp_path / "q.html")
    pyplot = __import__("sys").modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
