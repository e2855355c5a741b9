"""The numbers of HSF around the network: standard scores, padding, united subfields, votes, uncertainty."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.hsf.steps import pad_around, prepare, standardise
from kerasneuro.models.hsf.vote import MODES, Vote, check_mode, label_names, merge_subfields
from kerasneuro.volume import Volume, load, to_axcodes

pytestmark = pytest.mark.backend_free


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


@pytest.mark.parametrize("index", [0, 1])
def test_crops_are_standardised_and_padded_as_the_original_does(fixtures: Path, index: int):
    stored = np.load(fixtures / "hsf" / f"znorm_pad_{index}.npz")
    padded, before = prepare(Volume(stored["raw"], stored["affine"]))
    assert padded.shape == stored["out"].shape[1:]
    np.testing.assert_allclose(padded.array, stored["out"][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(padded.affine, stored["out_affine"], rtol=0, atol=1e-6)
    inside = tuple(slice(start, start + n) for start, n in zip(before, stored["raw"].shape, strict=True))
    rest = padded.array.copy()
    rest[inside] = 0
    assert not rest.any()


@given(shape=st.tuples(*[st.integers(1, 30)] * 3))
def test_padding_puts_the_larger_part_in_front(shape: tuple[int, int, int]):
    padded, before = pad_around(Volume(np.ones(shape, np.float32), np.eye(4)))
    for n, full, start in zip(shape, padded.shape, before, strict=True):
        assert full % 8 == 0 and full - n < 8
        assert start - (full - n - start) in (0, 1)
    assert padded.array.sum() == np.prod(shape)


@pytest.mark.parametrize("name", ["RAS_0", "PIR_1", "LPS_2", "ASL_3"])
def test_scans_are_turned_as_the_original_does(fixtures: Path, name: str):
    folder = fixtures / "hsf" / "orientation"
    assert json.loads((folder / "table.json").read_text())[name]["equal_to_nibabel_canonical"]
    native, expected = load(folder / f"native_{name}.nii.gz"), nibabel.load(folder / f"lpi_{name}.nii.gz")
    turned, back = to_axcodes(native, "RAS")
    np.testing.assert_array_equal(turned.array, expected.get_fdata())
    np.testing.assert_allclose(turned.affine, expected.affine, rtol=0, atol=4e-7)
    np.testing.assert_array_equal(back(turned.array), native.array)


def test_a_constant_crop_is_refused():
    with pytest.raises(InvalidImage, match="the crop has the value 7 in all its voxels"):
        standardise(np.full((9, 9, 9), 7, np.float32))


def test_a_crop_that_the_network_would_shrink_to_one_voxel_is_refused():
    noise = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    with pytest.raises(InvalidImage, match=r"the crop has \(8, 8, 8\) voxels, expected more than 8"):
        prepare(Volume(noise, np.eye(4)))
    assert prepare(Volume(np.repeat(noise, 2, axis=0), np.eye(4)))[0].shape == (16, 8, 8)


@pytest.mark.parametrize("mode", ["1/2/3", "1/23", "123"])
def test_subfields_are_united_as_in_the_original(fixtures: Path, mode: str):
    stored = np.load(fixtures / "hsf" / "ca_modes.npz")
    found = merge_subfields(channels_last(stored["in"]), mode)
    np.testing.assert_array_equal(found, channels_last(stored[f"out_{mode.replace('/', '-')}"]))


def test_the_whole_hippocampus_is_the_sum_of_all_subfields(fixtures: Path):
    stored = np.load(fixtures / "hsf" / "ca_modes.npz")
    found, expected = merge_subfields(channels_last(stored["in"]), ""), channels_last(stored["out_whole"])
    # PyTorch adds the last voxels of an array, which fill no register of its own, in another order.
    full = found[:, :4]
    np.testing.assert_array_equal(full, expected[:, :4])
    np.testing.assert_array_max_ulp(found, expected, maxulp=1)


@pytest.mark.parametrize("mode", ["12/3", None, "None", "1/2", 12])
def test_other_modes_are_refused(mode: object):
    with pytest.raises(InvalidOption, match=r"ca_mode must be one of '1/2/3', '1/23', '123', ''"):
        check_mode(mode, 6)  # type: ignore[arg-type]


def test_a_mode_may_be_a_number_as_command_lines_give_it():
    assert check_mode(123, 6) == "123"  # type: ignore[arg-type]


def test_other_networks_keep_their_classes():
    assert check_mode("1/2/3", 8) == "1/2/3"
    assert label_names("1/2/3", 3) == ("background", "class 1", "class 2")
    with pytest.raises(InvalidOption, match="this network has 8"):
        check_mode("123", 8)


def test_the_number_of_a_label_depends_on_the_mode():
    assert [label_names(mode).index("SUB") for mode in list(MODES)[:3]] == [5, 4, 3]
    assert label_names("1/23")[3] == "CA2/3"
    assert label_names("") == ("background", "hippocampus")


def collect(samples: np.ndarray) -> Vote:
    vote = Vote()
    for sample in samples:
        vote.add(np.moveaxis(sample, 0, -1))
    return vote


def test_votes_and_uncertainty_are_those_of_the_original(fixtures: Path):
    stored = np.load(fixtures / "hsf" / "vote_uncertainty.npz")
    vote = collect(stored["soft"])
    np.testing.assert_array_equal(vote.labels(), stored["hard"])
    np.testing.assert_allclose(vote.uncertainty(), stored["unc"], rtol=0, atol=1e-6)
    assert vote.uncertainty().min() == 0


def test_the_uncertainty_of_one_channel(fixtures: Path):
    stored = np.load(fixtures / "hsf" / "vote_uncertainty.npz")
    found = collect(stored["soft_single"]).uncertainty()
    np.testing.assert_allclose(found, stored["unc_single"], rtol=0, atol=1e-6)


@given(seed=st.integers(0, 999), count=st.integers(1, 7))
def test_predictions_vote_whatever_their_order(seed: int, count: int):
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, 3, (count, 4, 3, 2, 2)).astype(np.float32)  # Many ties.
    hard = samples.argmax(axis=1)
    expected = np.stack([(hard == label).sum(axis=0) for label in range(4)]).argmax(axis=0)
    np.testing.assert_array_equal(collect(samples).labels(), expected)
    np.testing.assert_array_equal(collect(samples[::-1]).labels(), expected)


def test_the_memory_of_a_vote_does_not_grow_with_the_predictions():
    import tracemalloc

    sample = np.random.default_rng(0).random((16, 16, 16, 6)).astype(np.float32)
    vote = Vote()
    vote.add(sample)
    vote.add(sample)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(30):
        vote.add(sample)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < sample.nbytes / 4
    assert vote.count == 32


def test_values_that_are_not_finite_get_no_vote():
    broken = np.full((2, 2, 2, 6), np.nan, np.float32)
    with pytest.raises(InvalidImage, match="not finite"):
        Vote().add(broken)
