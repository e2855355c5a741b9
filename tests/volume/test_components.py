"""Connected pieces of label maps, cubes, and colour tables."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import nibabel
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from kerasneuro.volume import ColourTable, dilate_cube, find_components, load, save_image
from kerasneuro.volume.colour_table import MGH_TRAILER
from kerasneuro.volume.crop import grow_box

FULL = np.ones((3, 3, 3), bool)
TABLE = ColourTable(
    {0: ("Unknown", (0, 0, 0)), 2: ("Left", (1, 2, 255)), 2035: ("ctx-rh-insula", (255, 192, 32))}
)
CUBES = array_shapes(min_dims=3, max_dims=3, max_side=8)


@settings(deadline=None, max_examples=60)
@given(arrays(np.int16, CUBES, elements=st.sampled_from([0, 0, 1, 2, 5])))
def test_pieces_are_those_of_scipy(labels: np.ndarray) -> None:
    found = find_components(labels, (1, 5, 9))
    pieces = np.zeros(labels.shape, int)
    pieces[found.box] = found.pieces
    assert found.sizes[0] == 0 and len(found.sizes) == len(found.labels) == pieces.max() + 1
    total = 0
    for label in (1, 5):
        wanted, count = ndimage.label(labels == label, FULL)
        total += count
        for index in range(1, count + 1):
            where = np.argwhere(wanted == index)
            number = pieces[tuple(where[0])]
            assert found.labels[number] == label and found.sizes[number] == len(where)
            np.testing.assert_array_equal(np.argwhere(pieces == number), where)
            np.testing.assert_array_equal(found.centres[number], where.mean(axis=0))
    assert total == len(found.sizes) - 1


@settings(deadline=None, max_examples=60)
@given(
    arrays(bool, CUBES),
    st.integers(0, 4),
)
def test_cubes_are_those_of_scipy(mask: np.ndarray, n: int) -> None:
    grown = ndimage.binary_dilation(mask, FULL, iterations=n) if n else mask
    shrunk = ndimage.binary_erosion(mask, FULL, iterations=n, border_value=1) if n else mask
    np.testing.assert_array_equal(dilate_cube(mask, n), grown)
    np.testing.assert_array_equal(dilate_cube(mask, -n), shrunk)


def test_a_box_grows_to_the_border() -> None:
    assert grow_box(((2, 5), (0, 3), (7, 8)), 3, (20, 4, 10)) == ((0, 8), (0, 4), (4, 10))


def test_colour_table_as_text() -> None:
    lines = TABLE.text().splitlines()
    assert lines[0].startswith("#No.") and lines[2].split() == ["2", "Left", "1", "2", "255", "0"]
    assert TABLE.hexadecimal(2) == "#0102ff"


def test_colour_table_inside_an_mgh_file(tmp_path: Path) -> None:
    """Read the tag back field by field, as FreeSurfer does: after the voxels and five scan parameters."""
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.MGHImage(array, np.eye(4))
    image.extra[MGH_TRAILER] = TABLE.mgh_trailer()
    plain = nibabel.MGHImage(array, np.eye(4)).to_bytes()
    content = save_image(image, tmp_path / "labels.mgh").read_bytes()
    assert content[: len(plain)] == plain and len(plain) == 284 + array.nbytes + 20
    stream = io.BytesIO(content[len(plain) :])

    def numbers(count: int) -> tuple[int, ...]:
        return struct.unpack(f">{count}i", stream.read(4 * count))

    assert numbers(5) == (1, -2, 2036, 0, 3)
    entries = {}
    for _ in range(3):
        label, length = numbers(2)
        name = stream.read(length)
        assert name.endswith(b"\0")
        entries[label] = (name[:-1].decode(), numbers(4))
    assert entries == {label: (name, (*colour, 0)) for label, (name, colour) in TABLE.entries.items()}
    assert stream.read() == b""
    np.testing.assert_array_equal(load(tmp_path / "labels.mgh", dtype=None).array, array)


def test_colour_table_stays_out_of_nifti(tmp_path: Path) -> None:
    image = nibabel.MGHImage(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    without = save_image(image, tmp_path / "without.nii").read_bytes()
    image.extra[MGH_TRAILER] = TABLE.mgh_trailer()
    assert save_image(image, tmp_path / "with.nii").read_bytes() == without
