"""Settings, flips, uncertainty, memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasneuro.errors import InvalidOption, OutOfMemory
from kerasneuro.inference import Settings, StreamingMoments, flip, flip_axes, parse_memory
from kerasneuro.inference.assemble import label_dtype, scratch_array
from kerasneuro.inference.memory import Attempt, attempts, is_out_of_memory

quick = settings(deadline=None, max_examples=50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, None), (12, 12), ("2.5GB", 2_500_000_000), ("512 MiB", 2**29), ("1e6", 10**6), ("3kb", 3000)],
)
def test_memory_is_read_from_text(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "3 parsecs", "nanGB", "infGB", True])
def test_unreadable_memory_is_refused(text):
    with pytest.raises(InvalidOption, match="max_memory"):
        parse_memory(text)


@pytest.mark.parametrize(
    "option",
    [
        {"overlap": 1.0},
        {"overlap": -0.5},
        {"overlap": float("nan")},
        {"merge": "mean"},
        {"edge": "wrap"},
        {"batch_size": 0},
        {"batch_size": True},
        {"engine": "turbo"},
        {"precision": "float8"},
        {"block_shape": (8, 8, 0)},
        {"block_shape": (8, 8.5, 8)},
        {"max_memory": "lots"},
        {"scratch": "no/such/folder"},
    ],
)
def test_bad_settings_are_refused_in_one_sentence(option):
    with pytest.raises(InvalidOption) as caught:
        Settings(**option)
    assert next(iter(option)) in str(caught.value)


def test_settings_are_updated_by_name():
    settings = Settings(block_shape=(8, 8, 8)).updated(overlap=0.5)
    assert (settings.block_shape, settings.overlap) == ((8, 8, 8), 0.5)
    assert Settings(**settings.options()) == settings
    with pytest.raises(InvalidOption, match="overlop"):
        settings.updated(overlop=0.5)


@quick
@given(st.integers(1, 3), st.data())
def test_flips_undo_themselves(rank, data):
    chosen = tuple(data.draw(st.sets(st.integers(0, rank - 1))))
    batch = np.random.default_rng(0).normal(size=(*(2, 3, 4, 5)[: rank + 1], 2))
    combinations = flip_axes(chosen, rank)
    assert len(set(combinations)) == 2 ** len(chosen) and combinations[0] == ()
    for combination in combinations:
        np.testing.assert_array_equal(flip(flip(batch, combination), combination), batch)
        assert (not combination) == np.array_equal(flip(batch, combination), batch)


def test_flips_may_be_named():
    assert flip_axes(("x", "Z"), 3) == ((), (0,), (2,), (0, 2))
    assert len(flip_axes(True, 3)) == 8
    for bad in [(3,), ("w",), (0, 0), ("z",)]:
        with pytest.raises(InvalidOption, match="flips"):
            flip_axes(bad, 2)


def test_moments_are_those_of_nobrainer(fixtures):
    with np.load(fixtures / "nobrainer" / "uncertainty_predict_array.npz") as data:
        samples, mean, variance, entropy = (data[k] for k in ("samples", "mean", "var", "entropy"))
    moments = StreamingMoments(variance=True)
    for sample in samples:
        moments.update(sample)
    np.testing.assert_allclose(moments.mean, mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(moments.variance(), variance.sum(-1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(moments.entropy(), entropy.sum(-1), rtol=0, atol=1e-6)


def test_moments_do_not_change_the_samples():
    sample = np.ones((2, 3), np.float32)
    moments = StreamingMoments(variance=True)
    moments.update(sample)
    moments.update(sample * 3)
    np.testing.assert_array_equal(sample, 1)
    np.testing.assert_allclose(moments.variance(), [3, 3])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (type("ResourceExhaustedError", (Exception,), {})(), True),
        (type("OutOfMemoryError", (RuntimeError,), {})(), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("shapes do not match"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_recognised(error, expected):
    assert is_out_of_memory(error) is expected


def test_attempts_halve_the_batch_then_the_block_then_move_to_the_cpu():
    found = list(attempts(Attempt((64, 32, 32), 4, None), 8, fixed=False))
    half = len(found) // 2
    assert [a.batch_size for a in found[:half]] == [4, 2, 1, 1, 1, 1, 1]
    assert [a.block for a in found[2:half]] == [
        (64, 32, 32),
        (32, 32, 32),
        (16, 32, 32),
        (16, 16, 32),
        (16, 16, 16),
    ]
    assert {a.device for a in found[:half]} == {None} and {a.device for a in found[half:]} == {"cpu"}
    assert len(list(attempts(Attempt((64, 64, 64), 1, "cpu"), 8, fixed=True))) == 1


@quick
@given(st.tuples(*[st.integers(1, 12)] * 3), st.integers(1, 12), st.integers(1, 5))
def test_attempts_end_and_keep_the_multiple(counts, multiple, batch):
    block = tuple(count * multiple for count in counts)
    found = list(attempts(Attempt(block, batch, "cpu"), multiple, fixed=False))
    assert len(set(found)) == len(found) < 40
    assert all(extent % multiple == 0 for attempt in found for extent in attempt.block)


def test_scratch_file_is_removed_and_space_is_checked(tmp_path, monkeypatch):
    with scratch_array((4, 5), 10**6, tmp_path) as held:
        assert not isinstance(held, np.memmap) and not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError), scratch_array((4, 5), 10, tmp_path) as lent:
        assert isinstance(lent, np.memmap) and not lent.any() and len(list(tmp_path.iterdir())) == 1
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutOfMemory, match="scratch"), scratch_array((10**6, 10**7), 10, tmp_path):
        pass


def test_labels_take_the_smallest_type():
    assert [label_dtype(n).name for n in (1, 2, 256, 257)] == ["uint8", "uint8", "uint8", "uint16"]
