"""The stages of the FastSurfer pipeline outside the networks, against Deep-MI/FastSurfer@070647d."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from kerasneuro.errors import OutputError
from kerasneuro.models.fastsurfer import aggregation, cortex
from kerasneuro.models.fastsurfer.aggregation import CLASSES, ViewAdder, aggregate_views
from kerasneuro.models.fastsurfer.aseg import brain_mask, reduce_to_aseg, swap_islands
from kerasneuro.models.fastsurfer.cleaning import remove_islands
from kerasneuro.models.fastsurfer.cortex import (
    BOTH_SIDES,
    largest_piece,
    split_cortex,
    split_pieces,
    vote_by_voxel,
    white_matter_centre,
)
from kerasneuro.models.fastsurfer.findings import doubts, measure, summarise
from kerasneuro.models.fastsurfer.labels import class_labels, colour_table, sagittal_classes, structures
from kerasneuro.models.fastsurfer.scratch import scratch_folder
from kerasneuro.models.fastsurfer.slices import PLANES, ThickSlices, empty_logits
from kerasneuro.models.fastsurfer.task import name_structures
from kerasneuro.volume import Volume
from kerasneuro.volume.conform_mgh import ROTATION

pytestmark = pytest.mark.backend_free
FULL = np.ones((3, 3, 3), bool)
SIDES = st.sampled_from([0, 2, 41, 1011, 1019, 1026, 2026, 1029, 1003])


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "fastsurfer"


# --- labels --------------------------------------------------------------------------------------------


def test_labels_of_the_original(folder: Path) -> None:
    answers = json.loads((folder / "labels.json").read_text())
    assert class_labels().tolist() == [entry["freesurfer_id"] for entry in answers["classes79"]]
    assert sagittal_classes().tolist() == answers["sagittal_to_79"]
    assert list(BOTH_SIDES) == answers["lateralised_labels"]
    final = [(entry["freesurfer_id"], entry["name"]) for entry in answers["final_labels"]]
    assert [(found.label, found.name) for found in structures()] == final and len(final) == 96
    for entry in answers["final_labels"]:
        if "dkt_rgb" in entry:
            assert colour_table().entries[entry["freesurfer_id"]][1] == tuple(entry["dkt_rgb"])


def test_every_paired_structure_has_two_sides() -> None:
    pairs: dict[str, set[str]] = {}
    for found in structures():
        pairs.setdefault(found.structure, set()).add(found.side)
    assert all(sides in ({""}, {"left", "right"}) for sides in pairs.values())
    assert sum(len(sides) == 2 for sides in pairs.values()) == 14 + 31


# --- slices and their sum ------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", PLANES)
def test_thick_slices_of_the_original(plane: str, folder: Path) -> None:
    stored = np.load(folder / "thick_slices.npz")
    slices = ThickSlices(stored["volume"], PLANES[plane])
    batches = [slices.batch(start, min(4, len(slices) - start)) for start in range(0, len(slices), 4)]
    np.testing.assert_array_equal(np.concatenate(batches), np.moveaxis(stored[plane], 1, -1))


def test_sagittal_classes_of_the_original(folder: Path) -> None:
    stored = np.load(folder / "sagittal_map.npz")
    np.testing.assert_array_equal(stored["sag"][:, sagittal_classes()], stored["full79"])


def pixelwise(part: str, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Make a network that gives each pixel the same bits in any batch."""
    weights = np.random.default_rng([seed, CLASSES[part]]).normal(size=(7, CLASSES[part])).astype(np.float32)

    def network(batch: np.ndarray) -> np.ndarray:
        logits = np.zeros((*batch.shape[:-1], CLASSES[part]), np.float32)
        for channel in range(7):
            logits += batch[..., channel, None] * weights[channel]
        return logits + weights[0] / 16

    return network


def all_at_once(volume: np.ndarray, networks: dict) -> np.ndarray:
    """Sum the logits of all slices in memory, as the original does."""
    i, j, k = volume.shape
    total = np.zeros((i, j, k, 79), np.float32)
    logits = {
        name: networks[name](ThickSlices(volume, plane).batch(0, volume.shape[plane.slice_axis]))
        for name, plane in PLANES.items()
    }
    total += np.multiply(logits["axial"].transpose(2, 0, 1, 3), np.float32(0.4))
    total += np.multiply(logits["coronal"].transpose(1, 2, 0, 3), np.float32(0.4))
    sagittal = logits["sagittal"][..., sagittal_classes()]
    total += np.multiply(sagittal.transpose(0, 2, 1, 3), np.float32(0.2))
    return total.argmax(axis=-1)


@settings(deadline=None, max_examples=12)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    st.integers(1, 6),
    st.integers(0, 100),
    st.booleans(),
)
def test_streamed_sum_is_the_sum_in_memory(
    shape: tuple[int, int, int], batch_size: int, seed: int, framed: bool
) -> None:
    """With and without empty slices around the head, in batches of any size."""
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 256, shape, dtype=np.uint8)
    if framed:
        volume = np.pad(volume, [tuple(pair) for pair in rng.integers(0, 12, (3, 2))])
    networks = {part: pixelwise(part, seed) for part in PLANES}
    done: list[tuple[int, int]] = []
    found = aggregate_views(
        volume, networks, batch_size=batch_size, report=lambda *progress: done.append(progress)
    )
    np.testing.assert_array_equal(found, all_at_once(volume, networks))
    assert done[0][0] == 0 and done[-1][0] == done[-1][1] <= sum(volume.shape)


def test_empty_slices_are_computed_once_if_their_place_does_not_matter() -> None:
    volume = np.zeros((48, 40, 32), np.uint8)
    volume[20:24, 18:20, 10:12] = 200
    networks, counted = {part: pixelwise(part) for part in PLANES}, itertools.count()

    def watched(batch: np.ndarray) -> np.ndarray:
        for _ in batch:
            next(counted)
        return networks["axial"](batch)

    found = aggregate_views(volume, {**networks, "axial": watched}, batch_size=4)
    np.testing.assert_array_equal(found, all_at_once(volume, networks))
    assert next(counted) == 4 + 8  # a batch of empty slices; two slices with three neighbours on either side


def test_all_slices_are_computed_if_their_place_matters() -> None:
    volume = np.zeros((24, 24, 24), np.uint8)
    volume[10:12, 10:12, 10:12] = 200
    networks, counted = {part: pixelwise(part) for part in PLANES}, itertools.count()

    def uneven(batch: np.ndarray) -> np.ndarray:
        for _ in batch:
            next(counted)
        return networks["coronal"](batch) + np.arange(len(batch), dtype=np.float32).reshape(-1, 1, 1, 1)

    assert empty_logits(uneven, (24, 24), 4) is None
    aggregate_views(volume, {**networks, "coronal": uneven}, batch_size=4)
    assert next(counted) == 4 + 4 + 24


def test_scratch_files_are_gone_afterwards_and_after_a_failure(tmp_path: Path) -> None:
    volume = np.full((16, 16, 16), 9, np.uint8)
    networks = {part: pixelwise(part) for part in PLANES}
    seen = []

    def failing(batch: np.ndarray) -> np.ndarray:
        seen.append(True)
        raise RuntimeError("stop")

    aggregate_views(volume, networks, work_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="stop"):
        aggregate_views(volume, {**networks, "coronal": failing}, work_dir=tmp_path)
    assert seen and list(tmp_path.iterdir()) == []


def test_scratch_folder_must_exist_and_have_space(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none at .*missing; name one with work_dir"):
        aggregate_views(np.ones((16, 16, 16), np.uint8), {}, work_dir=tmp_path / "missing")
    with (
        pytest.raises(OutputError, match=r"1000000000.0 GB are needed, but .* GB free; name a folder"),
        scratch_folder(tmp_path, 10**18),
    ):
        pytest.fail("the folder was lent")


def test_a_failing_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    message = r"failed \(No space left on device\); name another folder"
    with pytest.raises(OutputError, match=message) as caught, scratch_folder(tmp_path, 1):
        raise OSError(28, "No space left on device")
    assert "\n" not in str(caught.value)


def test_needed_space_of_a_whole_scan_is_known_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def lend(folder: Path | None, needed: int) -> None:
        asked.append(needed)
        raise OutputError("asked")

    monkeypatch.setattr(aggregation, "scratch_folder", lend)
    with pytest.raises(OutputError, match="asked"):
        aggregate_views(np.ones((256, 256, 256), np.uint8), {}, work_dir=tmp_path)
    assert asked == [256**3 * 4 * (79 + 51)]


def test_sums_are_formed_in_the_order_of_the_original() -> None:
    """Large numbers that cancel only in the right order."""
    shape = (2, 3)
    axial = np.full((3, 2, 79), 2.5e8, np.float32)
    coronal = np.full((*shape, 79), -2.5e8, np.float32)
    sagittal = np.full((*shape, 51), 1.0, np.float32)
    total = ViewAdder(3).sums(axial, coronal, sagittal)
    np.testing.assert_array_equal(total, np.float32(0.2))


# --- hemispheres ---------------------------------------------------------------------------------------


def test_split_of_the_original(folder: Path) -> None:
    stored = np.load(folder / "split_clean.npz")
    labels = stored["labels"]
    right, left = white_matter_centre(labels, 41), white_matter_centre(labels, 2)
    np.testing.assert_array_equal(right, stored["centroid_rh"])
    np.testing.assert_array_equal(left, stored["centroid_lh"])
    pieces = split_pieces(labels, right, left)
    np.testing.assert_array_equal(pieces, stored["after_components"])
    np.testing.assert_array_equal(vote_by_voxel(pieces), stored["after_split"])
    np.testing.assert_array_equal(split_cortex(labels), stored["after_split"])
    assert split_cortex(labels).dtype == np.int16


def test_largest_piece_of_the_original(folder: Path) -> None:
    stored = np.load(folder / "largest_cc.npz")
    np.testing.assert_array_equal(largest_piece(stored["mask"]), stored["largest"])


@settings(deadline=None, max_examples=40)
@given(arrays(bool, (4, 3, 5)))
def test_largest_piece_by_counting(mask: np.ndarray) -> None:
    """The most frequent number is left out, whichever it is."""
    numbers, _ = ndimage.label(mask, FULL)
    counts = np.bincount(numbers.ravel())
    counts[counts.argmax()] = -1
    np.testing.assert_array_equal(largest_piece(mask), numbers == counts.argmax())


@settings(deadline=None, max_examples=25)
@given(
    arrays(np.int16, (6, 5, 7), elements=SIDES),
    st.tuples(*[st.tuples(st.integers(0, 30), st.integers(0, 30))] * 3),
)
def test_vote_in_a_box_is_the_vote_in_the_whole_volume(block: np.ndarray, margins: tuple) -> None:
    """Wherever the parcels lie, at the border or far from it, bit for bit."""
    labels = np.pad(block, margins)
    # White matter far away, within reach, and outside the box.
    spots = np.random.default_rng(labels.size).integers(0, labels.shape, (12, 3))
    for index, spot in enumerate(spots):
        if labels[tuple(spot)] == 0:
            labels[tuple(spot)] = (2, 41)[index % 2]
    left, right = (ndimage.gaussian_filter(1000.0 * (labels == label), 3) for label in (2, 41))
    wanted = labels.copy()
    for label in (1011, 1019, 1026, 1029):
        here = (labels == label) | (labels == label + 1000)
        wanted[here] = label + 1000 * (right > left)[here]
    np.testing.assert_array_equal(vote_by_voxel(labels), wanted)


@settings(deadline=None, max_examples=15)
@given(st.tuples(*[st.tuples(st.integers(0, 28), st.integers(1, 6), st.integers(0, 28))] * 3))
def test_blur_in_a_box_has_the_bits_of_the_whole_blur(layout: tuple) -> None:
    shape = tuple(low + inner + high for low, inner, high in layout)
    mask = np.random.default_rng(sum(shape)).random(shape) < 0.4
    inner = tuple((low, low + length) for low, length, _ in layout)
    outer = cortex.grow_box(inner, cortex.RADIUS, shape)
    within = tuple(slice(a - low, b - low) for (a, b), (low, _) in zip(inner, outer, strict=True))
    whole = cortex.blurred(mask)[tuple(slice(*edge) for edge in inner)]
    np.testing.assert_array_equal(cortex.blurred(mask[tuple(slice(*edge) for edge in outer)])[within], whole)


# --- islands -------------------------------------------------------------------------------------------


def test_cleaning_of_the_original(folder: Path) -> None:
    stored = np.load(folder / "split_clean.npz")
    np.testing.assert_array_equal(remove_islands(stored["after_split"]), stored["after_clean"])


@settings(deadline=None, max_examples=30)
@given(arrays(np.int16, (7, 6, 5), elements=st.sampled_from([0, 0, 0, 2, 17, 1026, 1003])))
def test_cleaning_by_a_median_of_the_whole_volume(labels: np.ndarray) -> None:
    median = ndimage.median_filter(labels, size=3)
    wanted = labels.copy()
    for label in (2, 17, 1026):
        numbers, count = ndimage.label(labels == label, FULL)
        for index in range(1, count + 1):
            if (numbers == index).sum() <= 25:
                wanted[numbers == index] = median[numbers == index]
    np.testing.assert_array_equal(remove_islands(labels), wanted)


# --- brain mask and aseg -------------------------------------------------------------------------------


def test_mask_and_aseg_of_the_original(folder: Path) -> None:
    stored = np.load(folder / "aseg_mask.npz")
    mask = brain_mask(stored["labels"])
    np.testing.assert_array_equal(mask, stored["mask"])
    aseg = reduce_to_aseg(stored["labels"], mask)
    np.testing.assert_array_equal(aseg, stored["aseg"])
    np.testing.assert_array_equal(swap_islands(aseg), stored["aseg_fixwm"])
    assert aseg.dtype == np.uint8


@settings(deadline=None, max_examples=25)
@given(
    arrays(np.uint8, (5, 4, 6), elements=st.sampled_from([0, 0, 2, 3, 41, 42])),
    st.tuples(*[st.tuples(st.integers(0, 12), st.integers(0, 12))] * 3),
)
def test_islands_and_mask_in_a_box_are_those_of_the_whole_volume(block: np.ndarray, margins: tuple) -> None:
    aseg = np.pad(block, margins)
    signed = np.isin(aseg, (41, 42)).astype(float) - np.isin(aseg, (2, 3))
    nearby = ndimage.gaussian_filter(signed, 1.5, mode="nearest", truncate=4.0)
    wanted = aseg.copy()
    for label, other, sign in ((41, 2, -1), (2, 41, 1)):
        numbers, count = ndimage.label(aseg == label, FULL)
        largest = np.bincount(numbers.ravel())[1:].argmax() + 1 if count else 0
        wanted[(numbers > 0) & (numbers != largest) & (sign * nearby > 0)] = other
    np.testing.assert_array_equal(swap_islands(aseg), wanted)

    grown = ndimage.binary_dilation(aseg > 0, FULL, iterations=5)
    shrunk = ndimage.binary_erosion(grown, FULL, iterations=4, border_value=1)
    np.testing.assert_array_equal(brain_mask(aseg.astype(np.int16)), largest_of(shrunk))


def largest_of(mask: np.ndarray) -> np.ndarray:
    numbers, count = ndimage.label(mask, FULL)
    return numbers == np.bincount(numbers.ravel())[1:].argmax() + 1 if count else mask


# --- from the classes of a whole scan ------------------------------------------------------------------


def test_labels_of_a_whole_scan(folder: Path) -> None:
    """The original's classes of a 256^3 scan become the original's labels, without a difference."""
    stored = np.load(folder / "e2e_result.npz")
    meta = json.loads(str(stored["meta"]))
    box = tuple(slice(*edge) for edge in zip(meta["crop_lo"], meta["crop_hi"], strict=True))
    classes = np.zeros((256, 256, 256), np.uint8)
    classes[box] = stored["class_index_crop"]
    maps = name_structures(classes, clean=False)
    np.testing.assert_array_equal(maps.labels[box], stored["labels_crop"])
    assert np.count_nonzero(maps.labels) == np.count_nonzero(stored["labels_crop"])
    assert maps.labels.dtype == np.int16 and maps.mask[maps.labels > 0].mean() > 0.99
    cleaned = name_structures(classes, clean=True)
    assert 0 < np.count_nonzero(cleaned.labels != maps.labels) < 100_000


# --- what is told --------------------------------------------------------------------------------------


def head(labels: np.ndarray, seed: int = 0) -> tuple[Volume, Volume]:
    """Make a conformed scan around labels, and the same voxels as the input."""
    affine = np.eye(4)
    affine[:3, :3] = ROTATION
    scan = np.random.default_rng(seed).integers(0, 256, labels.shape, dtype=np.uint8)
    return Volume(scan, affine), Volume(scan, affine)


def test_table_of_structures(tmp_path: Path) -> None:
    labels = np.zeros((12, 10, 8), np.int16)
    labels[2:5, 3:6, 2:4] = 17
    labels[7, 7, 7] = 2035
    _, conformed = head(labels)
    table = measure(labels, conformed)
    rows = {row["label"]: row for row in table}
    values = conformed.array[labels == 17].astype(float)
    assert len(table) == 95 and [row["label"] for row in table] == sorted(rows)
    found = rows[17]
    assert (found["name"], found["side"], found["structure"]) == ("Left-Hippocampus", "left", "Hippocampus")
    assert (found["voxels"], found["volume_mm3"]) == (18, 18.0)
    assert found["mean"] == round(values.mean(), 4) and found["std"] == round(values.std(ddof=1), 4)
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert rows[2035]["std"] == 0 and rows[2035]["structure"] == "insula"
    assert rows[2]["voxels"] == 0 and rows[2]["mean"] is None
    summary = summarise(table)
    assert summary["all_structures"] == 19.0 and summary["structures"]["Left-Hippocampus"] == 18.0
    from kerasneuro.tasks.result import table_text

    assert len(list(csv.DictReader(table_text(table).splitlines()))) == 95


def test_doubts_about_a_small_lopsided_parcellation() -> None:
    labels = np.zeros((40, 40, 40), np.int16)
    labels[5:20, 5:30, 5:30] = 2
    labels[22:30, 5:30, 5:30] = 41
    labels[5, 5, 5], labels[6, 6, 6] = 4, 43
    scan, conformed = head(labels)
    table = measure(labels, conformed)
    found = doubts(labels, scan, conformed, table)
    assert any("outside the usual 600 to 2000 cm3" in doubt for doubt in found)
    assert any("91 of 95 structures were not found" in doubt for doubt in found)
    assert any("Cerebral-White-Matter (9373 and 5000 mm3)" in doubt for doubt in found)
    assert not any("border" in doubt for doubt in found)
    assert all(doubt.endswith(".") and "\n" not in doubt for doubt in found)


def test_doubt_about_a_cropped_field_of_view() -> None:
    """The structures end where the scan ends, in the middle of the conformed grid."""
    labels = np.zeros((40, 40, 40), np.int16)
    labels[5:30, 5:30, 10:30] = 2
    _, conformed = head(labels)
    array = conformed.array[:, :, 10:]
    affine = conformed.affine.copy()
    affine[:3, 3] += 10 * affine[:3, 2]
    found = doubts(labels, Volume(array, affine), conformed, measure(labels, conformed))
    assert any("field of view is cropped" in doubt for doubt in found)


def test_doubt_about_an_empty_parcellation() -> None:
    labels = np.zeros((16, 16, 16), np.int16)
    scan, conformed = head(labels)
    assert doubts(labels, scan, conformed, measure(labels, conformed)) == (
        "The parcellation is empty: nothing was found in this scan.",
    )
