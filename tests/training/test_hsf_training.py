"""HSF's loss against the original's values and gradients; blocks that are opened one by one."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.training.losses.forgiving import ForgivingTversky, forgive, tversky_index
from kerasneuro.training.optimisers.adamp import AdamP
from kerasneuro.training.segmentation.unfreezing import StagedUnfreezing, set_trainable

pytestmark = pytest.mark.training

ORDER = {
    "decoder": [f"decoders_{index}" for index in (2, 1, 0)],
    "encoder": [f"encoders_{i}" for i in range(4)],
}


@pytest.fixture(scope="module")
def case(fixtures: Path) -> dict[str, np.ndarray]:
    """Arrays of the fixture, channels last."""
    with np.load(fixtures / "hsf" / "losses.npz") as file:
        return {
            name: np.moveaxis(file[name], 1, -1) if file[name].ndim else file[name] for name in file.files
        }


@pytest.fixture(scope="module")
def settings(fixtures: Path) -> list[dict]:
    return json.loads((fixtures / "hsf" / "losses.json").read_text())


def gradient(loss: keras.losses.Loss, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Differentiate a loss by the prediction, on any backend."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        tensor = torch.tensor(values, requires_grad=True)
        loss(truth, tensor).backward()
        return tensor.grad.numpy()
    if backend == "jax":
        import jax

        return np.asarray(jax.jit(jax.grad(lambda tensor: loss(truth, tensor)))(values))
    import tensorflow

    tensor = tensorflow.Variable(values)
    with tensorflow.GradientTape() as tape:
        found = loss(truth, tensor)
    return tape.gradient(found, tensor).numpy()


def value(loss: keras.losses.Loss, truth: np.ndarray, values: np.ndarray) -> float:
    """Compute a loss; compiled where single operations are slow."""
    if keras.backend.backend() == "jax":
        import jax

        return float(jax.jit(loss)(truth, values))
    return float(loss(truth, values))


def test_the_seven_kinds_of_labels(case, settings) -> None:
    assert len(settings) == 7
    for index, each in enumerate(settings):
        head, tail = (each[name] if each[name] > 0 else None for name in ("head", "tail"))
        loss, truth = (
            ForgivingTversky(each["ca_type"], head, tail),
            np.ascontiguousarray(case[f"fg{index}_target"]),
        )
        probability = np.ascontiguousarray(case["prob"])
        assert value(loss, truth, probability) == pytest.approx(each["loss"], abs=1e-6), each
        found = gradient(loss, truth, probability)
        np.testing.assert_allclose(found, case[f"fg{index}_grad"], atol=1e-6, rtol=0, err_msg=str(each))
        assert np.abs(found).max() > 1e-5, "a gradient that is not lost in the tolerance"


def test_tversky_index_in_all_its_forms(case) -> None:
    truth, probability = case["target_123sep"], case["prob"]

    def mean(start: int = 0, **options) -> float:
        return float(np.mean(ops.convert_to_numpy(tversky_index(truth, probability, **options))[..., start:]))

    assert mean() == pytest.approx(-float(case["tversky"]), abs=1e-6)
    assert mean(1) == pytest.approx(-float(case["tversky_nobg"]), abs=1e-6)
    assert mean(per_sample=False) == pytest.approx(-float(case["tversky_batchdice"]), abs=1e-6)
    assert float(ForgivingTversky()(truth, probability)) == pytest.approx(
        float(case["focal_tversky"]), abs=1e-6
    )
    assert mean(false_positives=0.5) < mean()


def test_a_forgiven_voxel_may_be_any_subfield() -> None:
    labels = np.eye(8, dtype=np.float32)[[[0, 1, 5, 6, 7]]]
    forgiven = ops.convert_to_numpy(forgive(labels, head=6))
    assert forgiven.shape == (1, 5, 7)
    assert forgiven[0, 3].tolist() == [0, 1, 1, 1, 1, 1, 1]
    both = ops.convert_to_numpy(forgive(labels, head=6, tail=7))
    assert both[0, 4].tolist() == [0, 0, 1, 0, 0, 1]
    # The head may lie behind the tail.
    swapped = ops.convert_to_numpy(forgive(labels[..., [0, 1, 2, 3, 4, 5, 7, 6]], head=7, tail=6))
    np.testing.assert_array_equal(swapped, both)


def test_a_perfect_prediction_costs_nothing_and_has_a_finite_gradient() -> None:
    truth = np.eye(6, dtype=np.float32)[np.random.default_rng(0).integers(0, 6, (1, 4, 4, 4))]
    loss = ForgivingTversky()
    assert float(loss(truth, truth)) < 1e-4
    assert np.isfinite(gradient(loss, truth, truth)).all()


@pytest.mark.parametrize(
    ("options", "channels", "told"),
    [
        ({"ca_mode": "12/3"}, 6, "ca_mode is one of '1/2/3', '1/23', '123', found '12/3'"),
        ({"ca_mode": "1/23"}, 6, "has 5 classes as '1/23', the labels have 6"),
        ({"head": 6}, 6, "head is a channel of the labels, 1 to 5, found 6"),
        ({"head": 5, "tail": 5}, 6, "two channels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(options, channels, told) -> None:
    truth, probability = np.zeros((1, 2, 2, 2, channels), "float32"), np.ones((1, 2, 2, 2, 6), "float32")
    with pytest.raises(InvalidOption, match=told):
        ForgivingTversky(**options)(truth, probability)


def test_loss_is_rebuilt_from_its_configuration() -> None:
    loss = ForgivingTversky("1/23", tail=5, focus=0.5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, ForgivingTversky) and again.get_config() == loss.get_config()


def test_blocks_open_as_in_the_original(fixtures: Path) -> None:
    cases = json.loads((fixtures / "hsf" / "finetune_schedule.json").read_text())
    assert len(cases) == 5
    for each in cases:
        schedule = StagedUnfreezing(ORDER[each["mode"]], each["unfreeze_frequency"], each["depth"])
        for epoch, expected in enumerate(each["trainable_per_epoch"]):
            found = sorted(name.replace("s_", "s.") for name in schedule.blocks_at(epoch))
            assert found == expected, (each["mode"], each["depth"], epoch)
    never = StagedUnfreezing(["a", "b"], frequency=1)
    assert {never.blocks_at(epoch) for epoch in range(50)} == {("final_conv",)}


def tower() -> keras.Model:
    """Three dense layers in place of a network."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, activation="relu", name="encoders_0_conv")(inputs)
    x = keras.layers.Dense(4, activation="relu", name="decoders_0_conv")(x)
    return keras.Model(inputs, keras.layers.Dense(1, name="final_conv")(x))


def test_training_moves_the_opened_blocks_alone_and_keeps_the_moments() -> None:
    model = tower()
    model.compile(AdamP(0.01, 40), "mse")
    generator = np.random.default_rng(0)
    data, truth = (
        generator.normal(size=(8, 3)).astype("float32"),
        generator.normal(size=(8, 1)).astype("float32"),
    )
    moved: list[set[str]] = []
    counts: list[dict[str, float]] = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.before = {v.path: ops.convert_to_numpy(v).copy() for v in self.model.variables}

        def on_epoch_end(self, epoch, logs=None):
            changed = {
                v.path.split("/")[0]
                for v in self.model.variables
                if v.path in self.before and np.any(ops.convert_to_numpy(v) != self.before[v.path])
            }
            moved.append(changed)
            steps = [v for v in self.model.optimizer.variables if v.path.endswith("kernel_steps")]
            counts.append({v.path.split("/")[-1][:8]: float(ops.convert_to_numpy(v)) for v in steps})

    schedule = StagedUnfreezing(["decoders_0", "encoders_0"], frequency=2)
    model.fit(data, truth, batch_size=4, epochs=6, verbose=0, callbacks=[schedule, Watch()])
    head, decoder, encoder = "final_conv", "decoders_0_conv", "encoders_0_conv"
    assert moved == [*[{head}] * 3, *[{head, decoder}] * 2, {head, decoder, encoder}]
    # Every variable counts its own steps, two in an epoch; the head's go on when others join.
    assert counts[-1] == {"final_co": 12, "decoders": 6, "encoders": 2}
    assert int(model.optimizer.iterations) == 12


def test_a_block_without_layers_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"no layers of decoders_7"):
        set_trainable(tower(), ["final_conv", "decoders_7"])
    with pytest.raises(InvalidOption, match="frequency is at least 1"):
        StagedUnfreezing(["a"], 0)


def test_a_trained_network_gets_another_head_and_is_loaded_again(tmp_path: Path) -> None:
    import kerasneuro
    from kerasneuro.models.hsf import graph, training

    parent = graph.build(generation=3, filters=(2, 3), name="parent")
    child = training.with_classes(parent, 4)
    assert child.output_shape[-1] == 4 and training.filters_of(child) == [2, 3]
    assert training.blocks(child) == ["decoders_0"]
    assert training.blocks(child, "encoder") == ["encoders_0", "encoders_1"]
    kept = {variable.path: variable for variable in parent.variables}
    for variable in child.variables:
        if not variable.path.startswith("final_conv"):
            same = ops.convert_to_numpy(variable), ops.convert_to_numpy(kept[variable.path])
            np.testing.assert_array_equal(*same)
    training.write_network(child, tmp_path / "child.pth")
    again = kerasneuro.load("hsf-single-fast", weights=tmp_path / "child.pth").model
    crop = np.random.default_rng(0).normal(size=(1, 8, 4, 4, 1)).astype("float32")
    found, expected = (np.asarray(network.predict_on_batch(crop)) for network in (again, child))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(InvalidOption, match="is no network of HSF"):
        training.filters_of(tower())
    with pytest.raises(InvalidOption, match="mode is decoder or encoder"):
        training.blocks(child, "both")
    with pytest.raises(InvalidOption, match="no whole step"):
        training.compile_network(child, batches=1, epochs=3)


@pytest.mark.parametrize("engine", ["numpy", "torchio"])
def test_crops_are_changed_at_random_and_by_the_generator_alone(engine: str) -> None:
    from kerasneuro.models.hsf import phantom, training

    if engine == "torchio":
        pytest.importorskip("torchio")
    change = training.augmentation(engine)
    image, labels = phantom.make_crop(1, (16, 24, 16))
    image = ((image - image.mean()) / image.std())[..., None]
    drawn = [change(image, labels, np.random.default_rng(seed)) for seed in (0, 0, *range(1, 5))]
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    assert all(one.shape == image.shape and two.shape == labels.shape for one, two in drawn)
    assert any(not np.array_equal(two, labels) for _, two in drawn)
    assert all(set(np.unique(two)) <= set(range(6)) for _, two in drawn)
    with pytest.raises(InvalidOption, match="numpy or torchio"):
        training.augmentation("other")
