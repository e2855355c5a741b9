"""Three steps of training of FastSurferCNN against the original's (PyTorch 2.13, FastSurfer 1.1.0)."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.errors import WeightsMismatch
from kerasneuro.models.fastsurfer import finetune, graph
from kerasneuro.models.fastsurfer.dataset import SliceDataset, label_volume
from kerasneuro.models.fastsurfer.weights import LEAVES
from kerasneuro.training.optimisers.adam_l2 import StepDecay

pytestmark = pytest.mark.training

LOGITS, GRADIENT, LOSS = 1e-4, 5e-6, 5e-6
# By step: Adam turns the rounding of a small gradient into part of a step of 0.01, and three steps add up.
STATE = {1: 2e-4, 3: 5e-4}
FINAL = 4e-3
STEPS = 3
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def case(fixtures: Path) -> Arrays:
    with np.load(fixtures / "fastsurfer" / "training.npz") as file:
        return dict(file)


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def meta(case: Arrays) -> dict[str, int]:
    return json.loads(str(case["meta"]))


def original_name(variable: keras.Variable) -> str:
    layer, leaf = variable.path.split("/")[-2:]
    return f"{layer.replace('_', '.')}.{LEAVES.get(leaf, leaf)}"


def rule_array(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Fill an array of the original by its name and a seed, as the reference was made."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))
    owner, leaf = name.split(".")[-2:]
    if leaf == "running_mean":
        return 0.4 * rng.standard_normal(shape)
    if leaf == "running_var":
        return rng.uniform(0.6, 2.5, shape)
    if owner == "prelu":
        return rng.uniform(0.05, 0.4, shape)
    if owner.startswith("bn"):
        return rng.uniform(0.5, 1.5, shape) if leaf == "weight" else 0.3 * rng.standard_normal(shape) - 0.2
    if leaf == "bias":
        return 0.1 * rng.standard_normal(shape)
    return rng.standard_normal(shape) * np.sqrt(1.5 / np.prod(shape[1:]))


def initialise(model: keras.Model, seed: int) -> None:
    for variable in model.weights:
        shape = tuple(variable.shape)
        if variable.name == "kernel":
            height, width, inputs, outputs = shape
            drawn = rule_array(original_name(variable), (outputs, inputs, height, width), seed)
            variable.assign(drawn.transpose(2, 3, 1, 0).astype(np.float32))
        else:
            variable.assign(rule_array(original_name(variable), shape, seed).astype(np.float32))


@dataclass(frozen=True)
class Course:
    """What three steps of training left behind."""

    model: keras.Model
    start: Arrays
    moments: Arrays
    states: list[Arrays]
    losses: list[float]
    logits: np.ndarray


def state(model: keras.Model) -> Arrays:
    return {name: array.copy() for name, array in finetune.original_arrays(model)}


def unbiased_variance(name: str, found: np.ndarray, steps: int, case: Arrays) -> np.ndarray:
    """Turn a running variance of Keras into PyTorch's, the mean of n / (n - 1) times each batch's."""
    block, (count, _, height, width) = name.split(".")[0], case["x"].shape
    level = 5 if block == "bottleneck" else int(block[-1])
    n = count * height * width / 4 ** (level - 1)
    rest = 0.9**steps * rule_array(name, found.shape, meta(case)["weights_seed"])
    return rest + (found - rest) * n / (n - 1)


def as_original(found: Arrays, steps: int, case: Arrays) -> Arrays:
    return {
        name: unbiased_variance(name, values, steps, case) if name.endswith("running_var") else values
        for name, values in found.items()
    }


@pytest.fixture(scope="module")
def course(case: Arrays) -> Course:
    """Train three steps as the original did, from the same weights on the same slices."""
    model = graph.build(
        filters=meta(case)["num_filters"], classes=meta(case)["num_classes"], input_shape=(32, 48)
    )
    initialise(model, meta(case)["weights_seed"])
    start, states, losses, moments = state(model), [], [], {}
    finetune.compile_network(model)
    batch = (channels_last(case["x"]), case["loss_target"], case["loss_weight"])
    for step in range(1, STEPS + 1):
        losses.append(float(np.asarray(model.train_on_batch(*batch))))
        states.append(as_original(state(model), step, case))
        if step == 1:
            moments = first_moments(model)
    for variable in model.weights:
        if variable.name == "moving_variance":
            variable.assign(states[-1][original_name(variable)])
    logits = np.asarray(model.predict_on_batch(channels_last(case["x"])[:1]))
    return Course(model, start, moments, states, losses, logits)


def first_moments(model: keras.Model) -> Arrays:
    """Return Adam's mean of each gradient, by the name and in the axis order of the original."""
    found = {}
    for variable, moment in zip(model.trainable_variables, model.optimizer._momentums, strict=True):
        values = ops.convert_to_numpy(moment).copy()
        found[original_name(variable)] = values.transpose(3, 2, 0, 1) if variable.name == "kernel" else values
    return found


def test_logits_in_training_are_those_of_the_original(case: Arrays) -> None:
    model = graph.build(filters=meta(case)["num_filters"], classes=meta(case)["num_classes"])
    initialise(model, meta(case)["weights_seed"])
    found = ops.convert_to_numpy(model(channels_last(case["x"]), training=True))
    np.testing.assert_allclose(found, channels_last(case["train_logits_step0"]), rtol=0, atol=LOGITS)


def test_all_gradients_are_those_of_the_original(case: Arrays, course: Course) -> None:
    expected = {name.removeprefix("grad0/"): case[name] for name in case if name.startswith("grad0/")}
    assert set(course.moments) == set(expected) and len(expected) == 121
    for name, gradient in expected.items():
        # After one step, the first moment is a tenth of the gradient and its L2 term.
        found = course.moments[name] / 0.1 - finetune.L2 * course.start[name]
        np.testing.assert_allclose(found, gradient, rtol=0, atol=GRADIENT, err_msg=name)


@pytest.mark.parametrize(("step", "arrays"), [(1, 177), (3, 28 * 2 + 9)])
def test_state_after_a_step_is_that_of_the_original(
    case: Arrays, course: Course, step: int, arrays: int
) -> None:
    found = {
        name: values for name, values in course.states[step - 1].items() if f"state{step}/{name}" in case
    }
    assert len(found) == arrays
    for name, values in found.items():
        np.testing.assert_allclose(
            values, case[f"state{step}/{name}"], rtol=0, atol=STATE[step], err_msg=name
        )


def test_losses_and_final_logits_are_those_of_the_original(case: Arrays, course: Course) -> None:
    np.testing.assert_allclose(course.losses, case["losses"][:, 0], rtol=LOSS)
    np.testing.assert_allclose(course.logits, channels_last(case["eval_logits_after3"]), rtol=0, atol=FINAL)


def test_adam_l2_takes_weights_out_and_comes_back_from_its_config() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(finetune.AdamL2(0.1, l2=0.5)))
    assert (optimizer.l2, optimizer.beta_2) == (0.5, 0.999)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.layers[-1].bias.assign([1.0])
    model.compile(optimizer=optimizer, loss="mse")
    model.train_on_batch(np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))  # No gradient at all.
    kernel, bias = (ops.convert_to_numpy(weight) for weight in model.weights)
    assert kernel[0, 0] == pytest.approx(0.9, abs=1e-6) and bias[0] == 1


@pytest.mark.backend_free
def test_learning_rates_of_31_epochs(case: Arrays) -> None:
    schedule = finetune.schedule().schedule
    rates = [schedule(epoch, 1.0) for epoch in range(finetune.EPOCHS)]
    np.testing.assert_allclose(rates, case["lr_per_epoch"], rtol=1e-12)
    assert StepDecay(1.0, 0.5, 2)(3) == 0.5


def test_new_classes_start_from_the_weights_of_the_parent(tmp_path: Path) -> None:
    parent = graph.build(filters=2, classes=5, kernel_height=3, kernel_width=5)
    finetune.write_network(parent, tmp_path / "parent.h5", {"classes": "0 1 2 3 4"})
    read = finetune.read_network(tmp_path / "parent.h5")
    child = finetune.with_classes(read, 3)
    assert child.output_shape == (None, None, None, 3)
    ours, theirs = state(child), state(parent)
    assert len(ours) == len(theirs) == 177
    for name, values in ours.items():
        if not name.startswith("classifier"):
            np.testing.assert_array_equal(values, theirs[name])


def test_an_original_checkpoint_is_a_parent(fixtures: Path) -> None:
    parent = finetune.read_network(fixtures / "fastsurfer" / "e2e_axial.pkl")
    child = finetune.with_classes(parent, 4, name="child")
    assert (parent.output_shape[-1], child.output_shape[-1], child.name) == (79, 4, "child")
    np.testing.assert_array_equal(state(child)["decode1.conv2.weight"], state(parent)["decode1.conv2.weight"])


def test_another_network_is_no_parent() -> None:
    narrow = graph.build(filters=2, classes=3)
    with pytest.raises(WeightsMismatch, match="encode1_conv0"):
        finetune.copy_weights(graph.build(filters=3, classes=3), narrow, new=(finetune.HEAD,))
    with pytest.raises(WeightsMismatch, match="head"):
        finetune.copy_weights(graph.build(filters=2, classes=3), narrow, new=("head",))


class RecordedDataset(SliceDataset):
    """Remembers which batches of which epoch were asked for."""

    drawn: ClassVar[list[tuple[int, int]]] = []

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.drawn.append((self.epoch, index))
        return super().__getitem__(index)


def test_fit_follows_the_epochs_lowers_the_loss_and_the_rate_falls(course: Course) -> None:
    generator = np.random.default_rng(0)
    image = np.zeros((32, 48, 6), np.uint8)
    image[6:26, 6:42] = 120
    image[12:20, 12:30] = 240
    noisy = np.clip(image + generator.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    dataset = RecordedDataset([label_volume(noisy, (image // 100).astype(np.uint8), 7)], "coronal", 3, pad=2)
    options = {"callbacks": [finetune.schedule(), dataset.follow()], "shuffle": False, "verbose": 0}
    history = course.model.fit(dataset, epochs=8, initial_epoch=3, **options).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["learning_rate"] == pytest.approx([0.01] * 2 + [0.003] * 3, rel=1e-6)
    for epoch in range(3, 8):
        assert [index for at, index in dataset.drawn if at == epoch][-2:] == [0, 1], epoch
