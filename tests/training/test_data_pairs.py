"""Labelled scans from lists, CSV files and BIDS folders; what the values of their label maps mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.training.description import describe
from kerasneuro.training.scans.class_table import ClassTable
from kerasneuro.training.scans.pairs import Pair, find_pairs

pytestmark = pytest.mark.backend_free


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def scan(path: Path, shape: tuple[int, int, int] = (4, 5, 6)) -> Path:
    return save(path, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def test_lists(tmp_path: Path) -> None:
    t1, flair, labels = (scan(tmp_path / f"sub-7_{name}.nii") for name in ("T1w", "FLAIR", "dseg"))
    assert find_pairs([(t1, labels)]) == [Pair((t1,), labels, "sub-7")]
    assert find_pairs([((str(t1), flair), str(labels), "P1")]) == [Pair((t1, flair), labels, "P1")]
    assert find_pairs(find_pairs([(t1, None)])) == [Pair((t1,), None, "sub-7")]


def test_csv(tmp_path: Path) -> None:
    for name in ("a_t1", "a_t2", "a_seg", "b_t1", "b_t2", "b_seg"):
        scan(tmp_path / f"{name}.nii")
    table = tmp_path / "scans.csv"
    table.write_text(
        "subject, t1, t2, labels\nA,a_t1.nii,a_t2.nii,a_seg.nii\nB,b_t1.nii,b_t2.nii,b_seg.nii\n"
    )
    found = find_pairs(table)
    assert [pair.subject for pair in found] == ["A", "B"]
    assert found[1].images == (tmp_path / "b_t1.nii", tmp_path / "b_t2.nii")
    assert find_pairs(table, channels=["t2"])[0].images == (tmp_path / "a_t2.nii",)
    with pytest.raises(InvalidOption, match="no column mask; expected one column per channel and mask"):
        find_pairs(table, labels="mask")
    table.write_text("t1,labels\na_t1.nii,\n")
    with pytest.raises(InvalidOption, match=r"scans.csv, line 2: the column labels is empty"):
        find_pairs(table)
    with pytest.raises(InvalidOption, match="cannot be read as CSV"):
        find_pairs(tmp_path / "none.csv")


def test_bids(tmp_path: Path) -> None:
    for subject in ("01", "02"):
        for name in (f"sub-{subject}/anat/sub-{subject}_T1w", f"sub-{subject}/anat/sub-{subject}_FLAIR"):
            scan(tmp_path / f"{name}.nii.gz")
        folder = tmp_path / "derivatives" / "manual" / f"sub-{subject}" / "anat"
        scan(folder / f"sub-{subject}_space-T1w_desc-tumour_mask.nii.gz")
    found = find_pairs(tmp_path, channels=("T1w", "FLAIR"))
    assert [pair.subject for pair in found] == ["sub-01", "sub-02"]
    assert [path.name for path in found[1].images] == ["sub-02_T1w.nii.gz", "sub-02_FLAIR.nii.gz"]
    assert found[1].labels is not None and found[1].labels.parent.parent.name == "sub-02"
    scan(tmp_path / "derivatives" / "other" / "sub-01" / "anat" / "sub-01_desc-brain_mask.nii.gz")
    with pytest.raises(InvalidImage, match=r"several label maps \(sub-01_space.*sub-01_desc-brain"):
        find_pairs(tmp_path)
    assert len(find_pairs(tmp_path, labels="desc-tumour_mask")) == 2
    with pytest.raises(InvalidImage, match=r"sub-01_T1w.nii.gz has no label map: expected sub-01_\*"):
        find_pairs(tmp_path, labels="lesion")


def test_what_does_not_fit(tmp_path: Path) -> None:
    image = scan(tmp_path / "image.nii")
    with pytest.raises(InvalidImage, match="gone"):
        find_pairs([(image, tmp_path / "gone.nii")])
    with pytest.raises(InvalidImage, match=r"small.nii has shape \(3, 5, 6\), .*image.nii has \(4, 5, 6\)"):
        find_pairs([(image, scan(tmp_path / "small.nii", (3, 5, 6)))])
    moved = save(tmp_path / "moved.nii", np.zeros((4, 5, 6), np.uint8), np.diag([1.0, 1, 2, 1]))
    with pytest.raises(InvalidImage, match="their affines differ by up to 1"):
        find_pairs([(image, moved)])
    assert len(find_pairs([(image, moved)], check=False)) == 1
    for wrong in ([image], [], 5, [(image,)], {"a": image}, [(3, image)]):
        with pytest.raises(InvalidOption):
            find_pairs(wrong)
    with pytest.raises(InvalidOption, match=r"same number of channels, found \[1, 2\]"):
        find_pairs([(image, image), ((image, image), image)])


def test_class_tables(tmp_path: Path) -> None:
    named = ClassTable.of({"tumour": [1, 4], "oedema": 2})
    assert named.rows() == [
        {"index": 0, "name": "background", "value": 0},
        {"index": 1, "name": "tumour", "value": 1},
        {"index": 2, "name": "oedema", "value": 2},
    ]
    assert ClassTable.of(named) is named
    assert ClassTable.of(3).values == (0, 1, 2)
    assert ClassTable.of([10, 0, 49]).names == ("background", "label 10", "label 49")
    assert ClassTable.of({1: 1, 4: 1, 2: 2}).classes[1].values == (1, 4)
    csv_file, colours = tmp_path / "classes.csv", tmp_path / "lut.txt"
    csv_file.write_text("name,value\ntumour,1 4\noedema,2\n")
    colours.write_text("#No. Label Name: R G B A\n0 Unknown 0 0 0 0\n\n17 Left-Hippocampus 220 216 20 0\n")
    assert ClassTable.of(csv_file) == named
    assert ClassTable.of(colours).names == ("Unknown", "Left-Hippocampus")
    binary = ClassTable.of("binary")
    assert binary.encode(np.array([0, 7, -3, 1])).tolist() == [0, 1, 1, 1]


@settings(max_examples=25)
@given(st.sets(st.integers(1, 3000), min_size=1, max_size=12), st.data())
def test_encode_and_decode(values: set[int], data: st.DataObject) -> None:
    table = ClassTable.of(sorted(values))
    labels = np.array(data.draw(st.lists(st.sampled_from([0, *values]), min_size=1, max_size=30)))
    classes = table.encode(labels.astype(data.draw(st.sampled_from(["int16", "float32", "uint16"]))))
    assert classes.dtype == np.uint8 and classes.max() < len(table)
    np.testing.assert_array_equal(table.decode(classes), labels)
    np.testing.assert_array_equal(table.one_hot(classes).argmax(axis=-1), classes)
    assert table.one_hot(classes).dtype == np.float32 and table.one_hot(classes).sum() == len(labels)


def test_encode_every_type_of_number() -> None:
    table = ClassTable.of([300, 70_000], others=0)
    for kind, values in (
        ("uint8", [0, 255]),
        ("int64", [-5, 300, 70_000, 10**12]),
        ("uint16", [300, 65_535]),
    ):
        expected = [{300: 1, 70_000: 2}.get(value, 0) for value in values]
        assert table.encode(np.array(values, kind)).tolist() == expected


def test_values_of_no_class() -> None:
    table = ClassTable.of({"tumour": 1})
    with pytest.raises(InvalidImage, match=r"seg.nii has the values -1, 2, 5, which belong to no class"):
        table.encode(np.array([0, 1, 2, 5, -1]), "seg.nii")
    assert ClassTable.of([1], others=0).encode(np.array([0, 1, 9])).tolist() == [0, 1, 0]
    with pytest.raises(InvalidImage, match="no whole numbers"):
        table.encode(np.array([0.5, 1]))


@pytest.mark.parametrize(
    "wrong",
    [1, [0], [2, 2], {"a": 1, "b": 1}, {"a": "x"}, {3: 1, 4: 5}, [-2], 2.5, "missing.csv", {"a": []}],
)
def test_no_class_table(wrong: Any) -> None:
    with pytest.raises(InvalidOption):
        ClassTable.of(wrong)


def test_description_of_functions() -> None:
    def scaled(factor: float) -> Any:
        return lambda volume: volume * factor

    assert describe(scaled(2.0)) == describe(scaled(2.0)) != describe(scaled(3.0))
    assert describe(lambda volume: volume + 1) != describe(lambda volume: volume + 2)
    assert describe(np.array([1, 2])) != describe(np.array([1, 3]))
    with pytest.raises(InvalidOption, match="give it an attribute key"):
        describe(object())
