"""AdamP and its learning rate against the steps of the original, and what their options do."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.training.optimisers.adamp import AdamP
from kerasneuro.training.optimisers.rates import WarmCosine, warm_cosine

pytestmark = pytest.mark.training

STEPS = 20
NAMES = ("kernel", "bias", "gamma", "mean_weight")


@pytest.fixture(scope="module")
def case(fixtures: Path) -> dict[str, np.ndarray]:
    """Start, gradients and results of 19 steps on four tensors in PyTorch's order."""
    with np.load(fixtures / "hsf" / "adamp.npz") as file:
        return {name: file[name] for name in file.files}


def as_stored(array: np.ndarray) -> np.ndarray:
    return array


def as_in_keras(array: np.ndarray) -> np.ndarray:
    if array.shape == (1, 4, 1, 1, 1):
        return array.reshape(4)
    return array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array


def stepper(optimiser: AdamP, tensors: list[keras.Variable]):
    """Return what makes one step; compiled where single operations are slow."""
    if keras.backend.backend() != "jax":
        return lambda gradients: optimiser.apply(list(map(ops.convert_to_tensor, gradients)), tensors)
    import jax

    optimiser.build(tensors)
    compiled = jax.jit(optimiser.stateless_apply)

    def step(gradients: list[np.ndarray]) -> None:
        state = [variable.value for variable in optimiser.variables]
        found, state = compiled(state, gradients, [tensor.value for tensor in tensors])
        for variable, value in zip([*tensors, *optimiser.variables], [*found, *state], strict=True):
            variable.assign(value)

    return step


def variables(case: dict[str, np.ndarray], order) -> list[keras.Variable]:
    return [keras.Variable(order(case[f"p{index}_init"]), name=name) for index, name in enumerate(NAMES)]


@pytest.mark.parametrize(("order", "unit_axis"), [(as_stored, 0), (as_in_keras, -1)])
def test_steps_are_those_of_the_original(case, order, unit_axis) -> None:
    rate = WarmCosine(0.01, STEPS // 2, STEPS)
    optimiser = AdamP(rate, STEPS, unit_axis=unit_axis, projected_vectors=("gamma",))
    tensors = variables(case, order)
    move = stepper(optimiser, tensors)
    for step, expected_rate in enumerate(case["lr"]):
        assert rate.rate(step) == pytest.approx(expected_rate, abs=1e-16)
        move([order(case[f"step{step}_g{index}"]) for index in range(4)])
        for index, tensor in enumerate(tensors):
            expected = order(case[f"step{step}_p{index}"])
            np.testing.assert_allclose(ops.convert_to_numpy(tensor), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changed", [{"projected_vectors": ()}, {"clipping": None}, {"total_steps": None}, {"delta": 0.0}]
)
def test_every_part_matters(case, changed) -> None:
    settings = {"total_steps": STEPS, "projected_vectors": ("gamma",)} | changed
    optimiser, tensors = AdamP(WarmCosine(0.01, STEPS // 2, STEPS), **settings), variables(case, as_in_keras)
    move = stepper(optimiser, tensors)
    for step in range(19):
        move([as_in_keras(case[f"step{step}_g{index}"]) for index in range(4)])
    off = [
        np.abs(ops.convert_to_numpy(tensor) - as_in_keras(case[f"step18_p{index}"])).max()
        for index, tensor in enumerate(tensors)
    ]
    assert max(off) > 1e-4


def test_matrices_are_clipped_by_their_inputs() -> None:
    weights, gradient = np.ones((3, 2), np.float32), np.full((3, 2), 100, np.float32)
    optimiser, tensor = AdamP(1.0, beta_1=0.0, beta_2=0.0, epsilon=1.0, delta=0.0), keras.Variable(weights)
    optimiser.apply([ops.convert_to_tensor(gradient)], [tensor])
    share = 0.01 * np.sqrt(3) / np.sqrt(3)  # the norm over three inputs, spread over three equal gradients
    np.testing.assert_allclose(ops.convert_to_numpy(tensor), 1 - share / (share + 1), rtol=1e-6)


def test_rates_are_those_of_the_original(fixtures: Path) -> None:
    for case in json.loads((fixtures / "hsf" / "lr_schedule.json").read_text()):
        schedule = WarmCosine(case["base"], case["warmup"], case["max"])
        found = [schedule.rate(step) for step in range(len(case["lr"]))]
        np.testing.assert_allclose(found, case["lr"], atol=1e-16, rtol=0)
        tensors = ops.convert_to_numpy(schedule(np.arange(len(found), dtype="float32")))
        np.testing.assert_allclose(tensors, case["lr"], atol=1e-6 * case["base"], rtol=1e-5)


def test_rate_rises_for_a_tenth_of_the_epochs() -> None:
    schedule = warm_cosine(0.01, epochs=64, steps=7)
    assert (schedule.warm_steps, schedule.total_steps) == (42, 448)
    short = warm_cosine(0.5, epochs=9, steps=3)
    assert (short.warm_steps, short.rate(0), short.rate(27), short.rate(40)) == (0, 0.5, 0.0, 0.0)
    with pytest.raises(InvalidOption, match="rises for 0 to 9 of 10 steps, found 10"):
        WarmCosine(0.1, 10, 10)


def test_a_schedule_counts_steps_where_gradients_are_accumulated() -> None:
    plain, summed = (
        AdamP(WarmCosine(0.1, 2, 8), 8, **more) for more in ({}, {"gradient_accumulation_steps": 2})
    )
    tensors = [keras.Variable(np.ones(3, np.float32)) for _ in range(2)]
    gradient = ops.convert_to_tensor(np.array([1.0, -2.0, 3.0], np.float32))
    for _ in range(4):
        plain.apply([gradient], tensors[:1])
        summed.apply([gradient], tensors[1:])
        summed.apply([gradient], tensors[1:])
    np.testing.assert_allclose(*map(ops.convert_to_numpy, tensors), rtol=1e-6)
    assert np.abs(ops.convert_to_numpy(tensors[0]) - 1).min() > 1e-3


def test_optimiser_is_rebuilt_from_its_configuration() -> None:
    optimiser = AdamP(WarmCosine(0.1, 2, 8), 8, clipping=0.02, projected_vectors=("gamma", "beta"))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimiser))
    assert isinstance(again, AdamP)
    assert again.get_config() == optimiser.get_config()


@pytest.mark.parametrize(
    ("options", "told"), [({"unit_axis": 1}, "unit_axis"), ({"total_steps": 0}, "steps")]
)
def test_wrong_settings_are_refused(options, told) -> None:
    with pytest.raises(InvalidOption, match=told):
        AdamP(**options)
