"""Pairs for `fit`, the graph of the losses, and small networks that learn to register shapes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.voxelmorph.graph import build, build_hyper, registration_model
from kerasneuro.training.changes.noise import warp_labels
from kerasneuro.training.losses.field import FieldGradient
from kerasneuro.training.losses.similarity import ImageMSE, LabelDice
from kerasneuro.training.metrics.registration import score_pairs
from kerasneuro.training.registration.graph import training_model
from kerasneuro.training.registration.pairs import HyperPairs, ScanPairs, SynthesisPairs
from kerasneuro.training.registration.shapes import ShapeSettings, random_shapes
from kerasneuro.training.registration.synthesis import SynthesisSettings

SHAPE = (32, 32)
LABELS = 4


def shapes(count: int, first: int = 0, shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    settings = ShapeSettings(LABELS, (12, 24), warp_scales=(8, 16), warp_deviation=3)
    return [random_shapes(shape, np.random.default_rng(first + seed), settings) for seed in range(count)]


def network(int_steps: int = 0) -> keras.Model:
    return build(SHAPE, nb_unet_features=((16, 32), (32, 32, 16)), int_steps=int_steps)


def test_pairs_are_batches_of_images_labels_and_zeros() -> None:
    pairs = SynthesisPairs(shapes(3), 2, 4, seed=3)
    assert len(pairs) == 4
    (moving, fixed, moving_labels), (image, fixed_labels, zeros) = pairs[1]
    assert moving.shape == fixed.shape == (2, *SHAPE, 1) and moving_labels.shape == (2, *SHAPE, LABELS)
    assert zeros.shape == (2, 1, 1, 2) and not zeros.any()
    np.testing.assert_array_equal(image, fixed)
    np.testing.assert_array_equal(fixed_labels.sum(axis=-1), 1)
    assert (moving_labels != fixed_labels).any(axis=-1).mean() > 0.02
    assert SynthesisPairs(shapes(3), images=False)[0][1][0].shape == (1, *SHAPE, LABELS)


def test_a_pair_comes_from_one_map_or_from_two() -> None:
    maps = [np.full(SHAPE, label) for label in (0, 1)]
    settings = SynthesisSettings(warp_deviation=0)
    for same in (True, False):
        data = SynthesisPairs(maps, 20, settings=settings, same_map=same)
        (_, _, moving), (_, fixed, _) = data[0]
        assert (moving == fixed).all(axis=(1, 2, 3)).all() == same


def test_pairs_depend_on_seed_epoch_and_place_alone() -> None:
    maps = shapes(2)
    pairs, again = SynthesisPairs(maps, 1, 3, seed=3), SynthesisPairs(maps, 1, 3, seed=3)
    again[0]
    np.testing.assert_array_equal(pairs[2][0][0], again[2][0][0])
    assert (pairs[2][0][0] != pairs[1][0][0]).any()
    again.on_epoch_end()
    assert (pairs[2][0][0] != again[2][0][0]).any()
    pairs.follow().on_epoch_begin(1)
    np.testing.assert_array_equal(pairs[2][0][0], again[2][0][0])


def test_pairs_of_scans_never_pair_a_scan_with_itself() -> None:
    scans = [np.full((4, 6), value, float) for value in (1, 2, 3)]
    for index, scan in enumerate(scans):
        scan[index] = 9
    maps = [(scan == 9).astype(np.int16) * 4 for scan in scans]
    data = ScanPairs(scans, maps, 3, 5, labels=[4])
    for batch in range(5):
        (moving, fixed, moving_labels), (target, fixed_labels, _) = data[batch]
        assert moving.min() == 0 and moving.max() == 1 and moving_labels.shape == (3, 4, 6, 1)
        assert (moving != fixed).any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(moving == 1, moving_labels == 1)
        np.testing.assert_array_equal(target == 1, fixed_labels == 1)
    (moving, _), (_, _) = ScanPairs(scans)[0]
    assert moving.shape == (1, 4, 6, 1)


def test_hyper_pairs_weigh_the_losses_of_each_pair() -> None:
    pairs = SynthesisPairs(shapes(1), 50, 1, seed=1)
    (moving, _, hyper, _), targets, weights = HyperPairs(pairs, ends=0.5)[0]
    np.testing.assert_array_equal(moving, pairs[0][0][0])
    assert hyper.shape == (50, 1) and len(targets) == len(weights) == 3
    np.testing.assert_array_equal(weights[2], hyper[:, 0])
    for weight in weights[:2]:
        np.testing.assert_allclose(weight, 1 - hyper[:, 0])
    assert 0.3 < np.isin(hyper, (0, 1)).mean() < 0.7 and len(np.unique(hyper)) > 20
    assert HyperPairs(pairs, position=0)[0][0][0].shape == (50, 1)


def test_training_graph_moves_images_and_labels_by_the_displacement() -> None:
    model = network()
    flow = model.get_layer("vxm_dense_flow")
    flow.bias.assign([1.0, -2.0])
    training = training_model(registration_model(model), labels=LABELS)
    (moving, fixed, labels), _ = SynthesisPairs(shapes(1), seed=2)[0]
    moved, moved_labels, field = (ops.convert_to_numpy(x) for x in training([moving, fixed, labels]))
    plain, _ = model([moving, fixed])
    np.testing.assert_allclose(moved, ops.convert_to_numpy(plain), atol=1e-6)
    assert field.shape == (1, *SHAPE, 2) and moved_labels.shape == labels.shape
    inside = np.s_[:, 8:24, 8:24]
    u = ops.convert_to_numpy(field)[0]
    hard = warp_labels(labels[0].argmax(-1), u)
    assert (moved_labels[0].argmax(-1) == hard)[inside[1:]].mean() > 0.95
    images_only = training_model(registration_model(model))
    assert len(images_only.inputs) == len(images_only.outputs) == 2


@pytest.mark.training
@pytest.mark.slow
def test_a_network_trained_on_shapes_beats_identity_on_new_ones() -> None:
    keras.utils.set_random_seed(3)
    settings = SynthesisSettings(
        warp_scales=(8, 16),
        warp_deviation=1.5,
        spread=(0, 8),
        zero_background=1.0,
        blur=0.5,
        bias_deviation=0.1,
        bias_scales=(16,),
        gamma=0.1,
    )
    options: dict[str, Any] = {"settings": settings, "images": False, "labels": range(LABELS)}
    register = registration_model(network(int_steps=3))
    training = training_model(register, images=False, labels=LABELS)
    losses = [LabelDice(), FieldGradient("l2")]
    training.compile(keras.optimizers.Adam(5e-3), loss=losses, loss_weights=[1, 0.1])
    pairs = SynthesisPairs(shapes(20), 8, 100, seed=1, **options)
    training.fit(pairs, epochs=1, shuffle=False, verbose=0)

    held_out = SynthesisPairs(shapes(10, first=100), 24, 1, seed=9, **options)
    scores = score_pairs(register, [held_out[0]])
    assert scores.gain > 0.02 and scores.folding < 2, scores


def test_scores_of_known_displacements() -> None:
    """A network that moves everything by one voxel along the first axis undoes a shift by one."""
    moving = np.zeros((1, *SHAPE, 2), np.float32)
    moving[:, 10:20, 8:24, 0] = moving[:, 20:26, 8:24, 1] = 1
    fixed = np.roll(moving, 1, axis=1)
    images = [np.zeros((1, *SHAPE, 1), np.float32)] * 2
    batch = ((*images, moving), (fixed, np.zeros(1)))
    still = score_pairs(registration_model(network()), [batch])
    expected = np.mean([2 * 9 / 20, 2 * 5 / 12])
    assert still.before == pytest.approx(expected) == still.after
    assert still.gain == pytest.approx(0) and still.folding == 0 and still.change < 1e-3
    # A network of its own: OpenVINO would keep the weights that it has compiled.
    model = network()
    model.get_layer("vxm_dense_flow").bias.assign([-1.0, 0])
    assert score_pairs(registration_model(model), [batch]).after == pytest.approx(1)


@pytest.mark.training
def test_hypernetworks_train_by_weights_of_the_pairs(single_step: dict[str, bool]) -> None:
    keras.utils.set_random_seed(0)
    sizes = {"nb_hyp_layers": 1, "nb_hyp_units": 8, "nb_unet_features": ((4,), (4, 4)), "int_steps": 0}
    model = build_hyper(SHAPE, **sizes)
    training = training_model(registration_model(model), labels=LABELS)
    losses = [ImageMSE(0.5), LabelDice(), FieldGradient("l2", loss_mult=2)]
    training.compile(keras.optimizers.Adam(1e-3), loss=losses, **single_step)
    data = HyperPairs(SynthesisPairs(shapes(2), 3, 1, seed=1), ends=0)
    inputs, targets, _ = data[0]
    parts = [
        ops.convert_to_numpy(loss.call(ops.convert_to_tensor(truth), output))
        for loss, truth, output in zip(losses, targets, training(list(inputs)), strict=True)
    ]
    hyper = inputs[2][:, 0]
    before = model.get_layer("hyper_vxm_dense_hyp_dense_1").get_weights()[0]
    history = training.fit(data, epochs=1, shuffle=False, verbose=0, callbacks=[data.follow()]).history
    expected = np.mean((1 - hyper) * (parts[0] + parts[1]) + hyper * parts[2])
    assert history["loss"][0] == pytest.approx(float(expected), rel=1e-4)
    assert np.abs(model.get_layer("hyper_vxm_dense_hyp_dense_1").get_weights()[0] - before).max() > 0


@pytest.mark.training
def test_scans_train_by_images_alone_in_three_dimensions() -> None:
    keras.utils.set_random_seed(0)
    shape = (8, 16, 8)
    scans = [np.random.default_rng(seed).uniform(size=shape) for seed in range(3)]
    model = build(shape, nb_unet_features=((4,), (4, 4)), int_steps=0)
    training = training_model(registration_model(model))
    training.compile("sgd", loss=[ImageMSE(0.1), FieldGradient()])
    history = training.fit(ScanPairs(scans, batches=2), epochs=1, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SynthesisPairs([]), InvalidImage, "found shapes"),
        (lambda: SynthesisPairs([np.zeros((4, 4), int), np.zeros((4, 5), int)]), InvalidImage, "one grid"),
        (lambda: SynthesisPairs(shapes(1), 0), InvalidOption, "at least 1"),
        (lambda: SynthesisPairs(shapes(1), images=False, labels=[]), InvalidOption, "found neither"),
        (lambda: ScanPairs([np.zeros((4, 4))]), InvalidImage, "found 1 scans"),
        (lambda: ScanPairs([np.zeros((4, 4))] * 2, labels=[1]), InvalidImage, "0 label maps"),
        (lambda: HyperPairs(SynthesisPairs(shapes(1)), ends=2), InvalidOption, "found 2"),
        (lambda: training_model(registration_model(network()), images=False), InvalidOption, "neither"),
    ],
)
def test_bad_input_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
