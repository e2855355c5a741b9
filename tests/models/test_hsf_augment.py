"""Augmented copies: as TorchIO makes and undoes them, repeatable, and as many as asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.settings import Settings
from kerasneuro.models.hsf.augment import Augmentation
from kerasneuro.models.hsf.boxes import Box
from kerasneuro.models.hsf.draw import Chances, draw_samples
from kerasneuro.models.hsf.moves import Bend, Turn
from kerasneuro.models.hsf.predict import Crop, Plan, predict_side
from kerasneuro.models.hsf.steps import prepare
from kerasneuro.models.hsf.vote import Vote, merge_subfields
from kerasneuro.volume import Volume

pytestmark = pytest.mark.backend_free

OBLIQUE = np.array([[-1.1, 0.2, 0.1, 30], [0.15, 0.9, -0.3, -20], [0.1, 0.3, 1.2, 5], [0, 0, 0, 1.0]])


def augmentation(steps: list[dict[str, Any]]) -> Augmentation:
    """Read one sample of the original."""
    flip, move = False, None
    for step in steps:
        if step["name"] == "Flip":
            flip = step["axes"] == [0]
        elif step["name"] == "Affine":
            values = (tuple(step[name]) for name in ("scales", "degrees", "translation"))
            move = Turn(*values)
        elif step["name"] == "ElasticDeformation":
            move = Bend(np.array(step["control_points"]))
    return Augmentation(flip, move)


def stand_in(copy: np.ndarray, numbers: dict[str, list[Any]]) -> np.ndarray:
    """Compute probabilities ``(X, Y, Z, 6)`` that depend on intensity and place, as the reference did."""
    x = copy.astype(np.float64)[..., np.newaxis]
    scores = np.array(numbers["c"]) + np.array(numbers["a"]) * x + np.array(numbers["b"]) * np.sin(x)
    for axis, n in enumerate(copy.shape):
        places = np.linspace(0, 1, n).reshape([-1 if axis == other else 1 for other in range(4)])
        scores = scores + np.array(numbers["g"][axis]) * places
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("name", ["tta_aniso_ras", "tta_oblique"])
def test_copies_and_their_way_back_are_those_of_the_original(fixtures: Path, name: str):
    stored = np.load(fixtures / "hsf" / f"{name}.npz")
    facts = json.loads((fixtures / "hsf" / f"{name}.json").read_text())
    crop = Volume(stored["raw"], stored["affine"])
    padded, before = prepare(crop)
    np.testing.assert_allclose(padded.array, stored["preprocessed"][0], rtol=0, atol=1e-5)
    vote = Vote()
    kinds = set()
    for index, steps in enumerate(facts["transforms_per_sample"]):
        sample = augmentation(steps)
        copy = sample.apply(padded.array, padded.affine)
        np.testing.assert_allclose(copy, stored[f"aug{index}"][0], rtol=0, atol=1e-5)
        back = sample.way_back(padded.shape, padded.affine, before, crop.shape)
        soft = back(merge_subfields(stand_in(copy, facts["fake_net"]), facts["ca_mode"]))
        np.testing.assert_allclose(np.moveaxis(soft, -1, 0), stored["soft"][index], rtol=0, atol=1e-5)
        vote.add(soft)
        kinds.add(type(sample.move))
    assert kinds == {Turn, Bend, type(None)}
    np.testing.assert_array_equal(vote.labels(), stored["hard"])
    np.testing.assert_allclose(vote.uncertainty(), stored["uncertainty"], rtol=0, atol=1e-6)


@given(seed=st.integers(0, 99), flip=st.booleans(), before=st.tuples(*[st.integers(0, 3)] * 3))
def test_the_way_back_from_a_mirrored_copy_is_exact(seed: int, flip: bool, before: tuple[int, int, int]):
    array = np.random.default_rng(seed).normal(size=(9, 8, 7)).astype(np.float32)
    crop = (5, 4, 3)
    sample = Augmentation(flip)
    back = sample.way_back(array.shape, np.eye(4), before, crop)
    found = back(sample.apply(array, np.eye(4))[..., np.newaxis])[..., 0]
    inside = tuple(slice(start, start + n) for start, n in zip(before, crop, strict=True))
    np.testing.assert_array_equal(found, array[inside])


@pytest.mark.parametrize(
    "still", [Turn((1, 1, 1), (0, 0, 0), (0, 0, 0)), Bend(np.zeros((5, 4, 6, 3)))], ids=["turn", "bend"]
)
def test_a_move_by_nothing_changes_nothing(still: Turn | Bend):
    array = np.random.default_rng(1).normal(size=(9, 8, 7)).astype(np.float32)
    sample = Augmentation(move=still)
    np.testing.assert_allclose(sample.apply(array, OBLIQUE), array, atol=1e-6)
    back = sample.way_back(array.shape, OBLIQUE, (0, 0, 0), array.shape)
    np.testing.assert_array_equal(back(array[..., np.newaxis])[..., 0], array)


def test_a_shift_moves_by_whole_voxels_and_fills_with_the_minimum_and_zero():
    array = np.random.default_rng(2).normal(size=(8, 8, 8)).astype(np.float32)
    sample = Augmentation(move=Turn((1, 1, 1), (0, 0, 0), (0, 0, 3)))  # 3 mm up
    moved = sample.apply(array, np.eye(4))
    np.testing.assert_allclose(moved[..., 3:], array[..., :-3], atol=1e-6)
    assert (moved[..., :2] == array.min()).all()
    probability = np.ones((8, 8, 8, 2), np.float32)
    found = sample.way_back((8, 8, 8), np.eye(4), (0, 0, 0), (8, 8, 8))(probability)
    assert (found[..., :5, :] == 1).all() and (found[..., 6:, :] == 0).all()


def test_where_a_bent_copy_shows_nothing_every_channel_has_its_minimum():
    far = np.zeros((4, 4, 4, 3))
    far[..., 2] = 50.0
    back = Augmentation(move=Bend(far)).way_back((8, 8, 8), np.eye(4), (0, 0, 0), (8, 8, 8))
    probability = np.random.default_rng(3).random((8, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        back(probability), np.broadcast_to(probability.min((0, 1, 2)), (8, 8, 8, 3))
    )


def test_copies_are_drawn_again_by_the_same_seed_alone():
    one, same, other = (draw_samples(6, Chances(), np.random.default_rng(seed)) for seed in (5, 5, 6))
    described = [[sample.describe() for sample in samples] for samples in (one, same, other)]
    assert described[0] == described[1] != described[2]
    bends = [s.move.control_points for s in (*one, *other) if isinstance(s.move, Bend)]
    assert bends and max(abs(points).max() for points in bends) <= 4


@pytest.mark.parametrize(("asked", "drawn"), [(0, 1), (1, 1), (2, 3), (20, 21)])
def test_the_crop_itself_comes_last(asked: int, drawn: int):
    samples = draw_samples(asked, Chances(), np.random.default_rng(0))
    assert len(samples) == drawn
    assert samples[-1] == Augmentation()
    assert all(sample.move is not None for sample in samples[:-1])


def test_what_is_drawn_keeps_to_its_chances():
    samples = draw_samples(2000, Chances(), np.random.default_rng(0))[:-1]
    turns = [sample.move for sample in samples if isinstance(sample.move, Turn)]
    assert 0.47 < np.mean([sample.flip for sample in samples]) < 0.53
    assert 0.77 < len(turns) / len(samples) < 0.83
    for name, low, high in (("scales", 0.8, 1.2), ("degrees", -15, 15), ("translation", -3, 3)):
        values = np.array([getattr(turn, name) for turn in turns])
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert abs(np.corrcoef(values.T)[0, 1]) < 0.1  # each axis for itself
    only_bends = draw_samples(5, Chances(affine_probability=0), np.random.default_rng(0))[:-1]
    assert all(isinstance(sample.move, Bend) for sample in only_bends)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"flip_probability": 1.5}, "flip_probability must lie between 0 and 1, found 1.5"),
        ({"scales": 1.0}, "scales must be at least 0 and below 1, found 1.0"),
        ({"degrees": -1.0}, "degrees must be 0 or more, found -1.0"),
        ({"control_points": 3}, "control_points must be at least 4, found 3"),
    ],
)
def test_chances_out_of_range_are_refused(wrong: dict[str, Any], reason: str):
    with pytest.raises(InvalidOption, match=reason):
        Chances(**wrong)


def plan(copies: int, batch_size: int = 1, seed: int = 0) -> Plan:
    return Plan("1/2/3", copies, seed, Chances(), Settings(batch_size=batch_size))


def test_every_network_sees_the_same_copies_and_has_one_vote_for_each():
    seen: list[list[np.ndarray]] = [[], []]

    def network(index: int) -> Any:
        def compute(batch: np.ndarray) -> np.ndarray:
            seen[index] += list(batch)
            return np.full((*batch.shape[:-1], 6), 1 / 6, np.float32)

        return compute

    crop = Crop.of(Volume(np.random.default_rng(0).normal(size=(10, 9, 8)).astype("f4"), np.eye(4)), "left")
    box = Box((0, 0, 0), (10, 9, 8))
    found = predict_side("left", box, (crop, crop), [network(0), network(1)], plan(4, batch_size=2))
    assert found.count == 2 * 2 * 5
    assert len(found.copies) == 2 * 4
    np.testing.assert_array_equal(seen[0], seen[1])
    originals = [seen[0][4], seen[0][9]]
    np.testing.assert_array_equal(originals[0], crop.padded.array[..., np.newaxis])
    np.testing.assert_array_equal(originals[0], originals[1])
    assert not np.array_equal(seen[0][0], seen[0][5])  # the second contrast has copies of its own


def test_the_size_of_a_batch_changes_nothing():
    crop = Crop.of(Volume(np.random.default_rng(0).normal(size=(10, 9, 8)).astype("f4"), np.eye(4)), "left")
    box = Box((0, 0, 0), (10, 9, 8))
    numbers = {"a": [1, 2, 0.5], "b": [0.3, 1, 2], "c": [0, 0.1, 0.2], "g": [[1, 0, 2]] * 3}

    def network(batch: np.ndarray) -> np.ndarray:
        return np.stack([stand_in(copy[..., 0], numbers) for copy in batch])

    one, three = (predict_side("right", box, (crop,), [network], plan(6, size)) for size in (1, 3))
    np.testing.assert_array_equal(one.labels, three.labels)
    np.testing.assert_allclose(one.uncertainty, three.uncertainty, atol=1e-12)
    other_seed = predict_side("right", box, (crop,), [network], plan(6, seed=1))
    assert not np.array_equal(one.uncertainty, other_seed.uncertainty)
    alone = predict_side("right", box, (crop,), [network], plan(0))
    assert alone.uncertainty is None and alone.count == 1 and alone.copies == ()
