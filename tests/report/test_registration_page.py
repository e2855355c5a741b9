"""The page of a registration: what it shows, what it measures, and that it loads nothing from elsewhere."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.report import write_quality_page
from kerasneuro.report.registration import (
    correlation,
    facts,
    gather_pair,
    mutual_information,
    write_registration_page,
)
from kerasneuro.report.registration_figure import Slices, checkerboard, scaled
from kerasneuro.tasks import Result
from kerasneuro.volume import Volume
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.jacobian import jacobian_determinant, percent_folding
from kerasneuro.volume.transform import Affine, Warp

SHAPE = (20, 24, 16)
LIA = np.array([[-2.0, 0, 0, 20], [0, 0, 2, -16], [0, -2, 0, 24], [0, 0, 0, 1]])
HOSTILE = "<script>alert(1)</script>"


def make_result(**changes: Any) -> Result:
    """Move blobs by a smooth warp, and move them back by its approximate inverse."""
    rng = np.random.default_rng(0)
    scan = gaussian_filter(rng.normal(size=SHAPE), 1.5).astype(np.float32)
    scan = np.where(scan > 0, scan, 0)
    field = np.stack([gaussian_filter(rng.normal(size=SHAPE), 4) * 40 for _ in range(3)], axis=-1)
    field = field.astype(np.float32)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))

    def pull(array: np.ndarray, displacement: np.ndarray) -> np.ndarray:
        return map_coordinates(array, grid + np.moveaxis(displacement, -1, 0), order=1, mode="nearest")

    moving = pull(scan, field)
    space = Geometry(SHAPE, LIA)
    values = {
        "moved": nibabel.Nifti1Image(pull(moving, -field), LIA),
        "transform": Warp(-field, space, space),
        "jacobian": nibabel.Nifti1Image(jacobian_determinant(-field), LIA),
        "input": Volume(moving, LIA, path=Path("/data/moving.nii.gz")),
        "fixed": Volume(scan, LIA, path=Path("/data/fixed.nii.gz")),
        "summaries": {"summary": {"folding_percent": 0.25, "inverse_consistency_mean_mm": 0.125}},
        "provenance": {"model": "voxelmorph-t1", "weights": {"model": {"sha256": "ab12"}}},
    }
    return Result(**{**values, **changes})


class Page(HTMLParser):
    """Collect what a page would load, and the names of its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.elements: set[str] = set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.loaded += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data")]


def test_page_is_self_contained_and_moves(tmp_path: Path) -> None:
    html, png = write_quality_page(make_result(), tmp_path / "a_report.html")
    page = Page(html)
    pictures = [base64.b64decode(item.removeprefix("data:image/png;base64,")) for item in page.loaded]
    assert len(pictures) == 5 and all(item.startswith(b"\x89PNG") for item in pictures)
    assert pictures[0] == png.read_bytes()
    fixed, before, again, after = pictures[1:]
    assert fixed == again and len({fixed, before, after}) == 3
    assert not page.elements & {"script", "link", "iframe", "object"}
    assert not re.search(r"@import|url\(|https?://[^ ]*\.(png|css|js)", page.text)
    assert "@keyframes" in page.text and "animation:" in page.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_report.html", "a_report.png"]


def test_page_says_what_the_result_says(tmp_path: Path) -> None:
    result = make_result(warnings=("both directions disagree by 3.2 mm on average",))
    text = Page(write_quality_page(result, tmp_path / "q.html")[0]).text
    for expected in (
        "moving.nii.gz to fixed.nii.gz",
        "both directions disagree by 3.2 mm",
        "Correlation (NCC)",
        "Mutual information",
        "Folded voxels",
        "0.25 %",
        "0.125 mm",
        "weights: model: sha256",
        "10.1109/TMI.2019.2897538",
        "never a diagnosis",
    ):
        assert expected in text


def test_every_value_is_escaped(tmp_path: Path) -> None:
    result = make_result(
        warnings=(HOSTILE,), provenance={"model": HOSTILE, HOSTILE: HOSTILE}, table=({HOSTILE: HOSTILE},)
    )
    text = Page(write_quality_page(result, tmp_path / "q.html")[0]).text
    assert "<script" not in text and text.count("&lt;script&gt;") >= 4


def test_similarity_grows(tmp_path: Path) -> None:
    pair = gather_pair(make_result())
    for measure in (correlation, mutual_information):
        before, after = measure(pair.fixed, pair.before), measure(pair.fixed, pair.moved)
        assert after > before + 0.05
        assert measure(pair.fixed, pair.fixed) > after


def test_similarity_measures() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(2, 30, 30, 30)).astype(np.float32)
    assert correlation(one, -2 * one + 5) == pytest.approx(-1)
    assert correlation(one, other) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1], abs=1e-6)
    assert correlation(one, np.ones_like(one)) == mutual_information(one, np.ones_like(one)) == 0
    halves = (np.arange(1000).reshape(10, 10, 10) % 2).astype(np.float32)
    # A change of contrast loses nothing: one bit, in nats.
    assert mutual_information(halves, 7 - 3 * halves) == pytest.approx(np.log(2))


def test_all_images_lie_on_the_fixed_grid_in_ras() -> None:
    result = make_result()
    pair = gather_pair(result)
    assert pair.fixed.shape == pair.moved.shape == pair.before.shape == (20, 16, 24)
    # LIA: the first axis points left, the second down, the third to the front.
    np.testing.assert_array_equal(pair.fixed, result.fixed.array[::-1, ::-1].transpose(0, 2, 1))
    # The same moving scan, stored in another order and cropped: placed by its header.
    other = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.asarray(result.input.array), LIA))
    placed = gather_pair(make_result(input=Volume(other.get_fdata(), other.affine)))
    np.testing.assert_allclose(placed.before, pair.before, atol=1e-6)


def test_places_of_warps_and_matrices() -> None:
    space = Geometry(SHAPE, LIA)
    shift = np.zeros((*SHAPE, 3), np.float32)
    shift[..., 0] = 3  # voxels to the left, 2 mm each
    matrix = np.eye(4)
    matrix[0, 3] = -3  # moving voxel -> fixed voxel
    by_warp = gather_pair(make_result(transform=Warp(shift, space, space))).places
    by_matrix = gather_pair(make_result(transform=Affine(matrix, space, space))).places
    still = gather_pair(make_result(transform=Affine(np.eye(4), space, space))).places
    np.testing.assert_allclose(by_warp, by_matrix, atol=1e-4)
    np.testing.assert_allclose(by_warp - still, np.broadcast_to([-6, 0, 0], by_warp.shape), atol=1e-4)


def test_page_without_field_or_transform(tmp_path: Path) -> None:
    result = make_result(transform=None, jacobian=None, summaries={})
    text = Page(write_quality_page(result, tmp_path / "q.html")[0]).text
    assert "Jacobian determinant: red" not in text and "straight and evenly" not in text
    assert facts(result) == ()


def test_folding_is_counted_where_the_task_did_not() -> None:
    determinant = np.ones(SHAPE, np.float32)
    determinant[:2] = -1
    result = make_result(jacobian=nibabel.Nifti1Image(determinant, LIA), summaries={})
    assert facts(result) == (("Folded voxels", "10 %"),)


def test_slices_and_checkerboard() -> None:
    scan = np.zeros((30, 20, 10), np.float32)
    scan[20:25, 3:6, 7] = 1
    slices = Slices.through(scan, (1.0, 1.0, 2.0))
    assert slices.positions == {"sagittal": 22, "coronal": 4, "axial": 7}
    assert slices.size(scan.shape, "coronal") == (30, 20)
    tiles = checkerboard(np.zeros((16, 16)), np.ones((16, 16)), (16.0, 16.0))
    assert tiles.mean() == 0.5
    np.testing.assert_array_equal(tiles[:2, :4], [[0, 0, 1, 1], [0, 0, 1, 1]])
    assert scaled(np.full((3, 3, 3), 7.0)).max() == 0


def test_jacobian_of_a_known_map() -> None:
    x, y, z = np.meshgrid(*map(np.arange, (19, 6, 5)), indexing="ij")
    field = np.stack([0.5 * x, -2.0 * y, 0.1 * z + 0.2 * x], axis=-1).astype(np.float32)
    np.testing.assert_allclose(jacobian_determinant(field), 1.5 * -1 * 1.1, rtol=1e-5)
    np.testing.assert_allclose(jacobian_determinant(field, -2.0), 3.3, rtol=1e-5)
    assert percent_folding(jacobian_determinant(field)) == 100
    assert jacobian_determinant(np.zeros((1, 4, 1, 3), np.float32)).tolist() == [[[1.0]] * 4]
    with pytest.raises(InvalidOption, match=r"\(X, Y, Z, 3\)"):
        jacobian_determinant(field[..., :2])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="has no fixed"):
        write_registration_page(make_result(fixed=None), tmp_path / "q.html")
    (tmp_path / "q.html").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_quality_page(make_result(), tmp_path / "q.html")
    assert [path.name for path in tmp_path.iterdir()] == ["q.html"]
