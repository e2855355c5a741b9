"""Where blocks lie and how their weights add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasneuro.errors import InvalidOption
from kerasneuro.inference import BlendWeights, make_grid, profile

quick = settings(deadline=None, max_examples=50)
axes = st.integers(1, 3).flatmap(
    lambda n: st.tuples(
        st.tuples(*[st.integers(1, 14)] * n),
        st.tuples(*[st.integers(1, 9)] * n),
    )
)
overlaps = st.floats(0, 0.99)
edges = st.sampled_from(["auto", "edge", "zero", "shift"])


@quick
@given(axes, overlaps, edges)
def test_every_voxel_is_covered_and_blocks_of_the_shape_asked_for(shapes, overlap, edge):
    shape, block = shapes
    grid = make_grid(shape, block, overlap, edge)
    seen = np.zeros(shape, int)
    for one in grid:
        there, here = grid.inside(one)
        seen[there] += 1
        assert tuple(s.stop - s.start for s in there) == tuple(s.stop - s.start for s in here)
        assert all(extent > 0 for extent in seen[there].shape)
    assert seen.min() >= 1
    assert grid.disjoint == (seen.max() == 1)
    assert len(list(grid)) == len(grid)
    assert grid.block == block


@quick
@given(axes, overlaps)
def test_overlapping_blocks_are_shifted_inside(shapes, overlap):
    shape, block = shapes
    grid = make_grid(shape, block, overlap, "shift")
    for starts, extent, size in zip(grid.starts, shape, block, strict=True):
        assert starts[-1] == max(extent - size, 0)


@quick
@given(axes, overlaps, edges, st.sampled_from(["constant", "gaussian", "hann"]))
def test_weights_sum_to_one(shapes, overlap, edge, merge):
    shape, block = shapes
    grid = make_grid(shape, block, overlap, edge)
    weights, total = BlendWeights(grid, merge), np.zeros(shape)
    for one in grid:
        found = weights.of(one)
        assert found.min() >= 0
        total[grid.inside(one)[0]] += found
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-5)


@quick
@given(axes)
def test_padding_repeats_the_border_or_is_zero(shapes):
    shape, block = shapes
    volume = np.random.default_rng(0).normal(size=shape)
    for edge, options in (("edge", {"mode": "edge"}), ("zero", {"mode": "constant"})):
        grid = make_grid(shape, block, 0.0, edge)
        whole = [(0, starts[-1] + b - n) for starts, b, n in zip(grid.starts, block, shape, strict=True)]
        padded = np.pad(volume, [(0, max(after, 0)) for _, after in whole], **options)
        for one in grid:
            out = np.full(block, np.nan)
            grid.read(volume, one, out)
            there = tuple(slice(s, s + b) for s, b in zip(one.start, block, strict=True))
            np.testing.assert_array_equal(out, padded[there])


@pytest.mark.parametrize(
    ("volume", "shape", "blocks", "back"),
    [
        ("vol8", (6, 4, 10), "blocks8", "back8"),
        ("vol27", (3, 2, 4), "blocks27", "back27"),
        ("vol4d", (4, 2, 3), "blocks4d", "back4d"),
        ("vol_nc", (4, 4, 4), "blocks_nc", None),
    ],
)
def test_blocks_and_their_order_are_those_of_nobrainer(fixtures, volume, shape, blocks, back):
    with np.load(fixtures / "nobrainer" / "volume_utils.npz") as data:
        array, expected = data[volume], data[blocks]
        original = data[back] if back else array
    grid = make_grid(array.shape[:3], shape)
    found, again = np.full_like(expected, np.nan), np.full_like(array, np.nan)
    for place, one in enumerate(grid):
        grid.read(array, one, found[place])
        again[grid.inside(one)[0]] = expected[place]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again, original)


def test_a_block_longer_than_the_volume_is_cut_to_the_multiple():
    assert make_grid((20, 40, 7), (32, 32, 32), multiple=8).block == (24, 32, 8)
    assert make_grid((20, 40, 7), (32, 32, 32)).block == (32, 32, 32)


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"edge": "reflect"},
        {"multiple": 3},
        {"block_shape": (4, 4)},
        {"block_shape": (4, 0, 4)},
    ],
)
def test_impossible_grids_are_refused_in_one_sentence(options):
    arguments = {"shape": (9, 9, 9), "block_shape": (4, 4, 4), **options}
    with pytest.raises(InvalidOption) as caught:
        make_grid(**arguments)
    assert "\n" not in str(caught.value)


def test_profiles_are_symmetric_and_highest_in_the_middle():
    for merge in ("constant", "gaussian", "hann"):
        weight = profile(9, merge)
        np.testing.assert_allclose(weight, weight[::-1])
        assert weight.min() > 0 and weight.argmax() in (0, 4)
    with pytest.raises(InvalidOption, match="merge"):
        profile(9, "triangle")
