"""The layers of Bayesian networks against their definitions in NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.nn.bayesian import VariationalConv3D, WeightNormConv3D
from kerasneuro.nn.bayesian_dropout import BernoulliDropout, ConcreteDropout
from kerasneuro.nn.monte_carlo import is_random, reseed, with_monte_carlo

RANDOM = np.random.default_rng(3)


def values(tensor: object) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def batch(channels: int, size: int = 6, count: int = 2) -> np.ndarray:
    return RANDOM.normal(size=(count, size, size - 1, size + 1, channels)).astype("float32")


def convolve(x: np.ndarray, kernel: np.ndarray, rate: int) -> np.ndarray:
    """Sum the shifted volumes, one per tap, in float64; zeros beyond the border."""
    reach = rate * (kernel.shape[0] // 2)
    padded = np.pad(x.astype("float64"), ((0, 0), *((reach, reach),) * 3, (0, 0)))
    total = np.zeros((*x.shape[:-1], kernel.shape[-1]))
    for tap in np.ndindex(*kernel.shape[:3]):
        part = padded[
            (slice(None), *(slice(t * rate, t * rate + n) for t, n in zip(tap, x.shape[1:4], strict=True)))
        ]
        total += part @ kernel[tap].astype("float64")
    return total


def randomise(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    found = {}
    for variable in layer.weights:
        found[variable.name] = RANDOM.uniform(-1, 1, variable.shape).astype("float32")
        variable.assign(found[variable.name])
    return found


def mean_kernel(found: dict[str, np.ndarray]) -> np.ndarray:
    return found["g"] * found["v"] / np.linalg.norm(found["v"].reshape(-1, found["v"].shape[-1]), axis=0)


@pytest.mark.parametrize("kind", [WeightNormConv3D, VariationalConv3D])
@pytest.mark.parametrize(("size", "rate"), [(3, 1), (3, 2), (3, 4), (1, 1)])
def test_deterministic_convolution(kind: type, size: int, rate: int) -> None:
    layer = kind(4, size, dilation_rate=rate)
    x = batch(3)
    layer.build(x.shape)
    found = randomise(layer)
    expected = convolve(x, mean_kernel(found), rate) + found["bias_m"]
    np.testing.assert_allclose(values(layer(x)), expected, atol=1e-5)


def test_an_empty_filter_gives_the_bias() -> None:
    layer = WeightNormConv3D(2, 3)
    x = batch(1)
    layer.build(x.shape)
    layer.v.assign(np.zeros(layer.v.shape, "float32"))
    layer.bias_m.assign([1.5, -2])
    np.testing.assert_array_equal(
        values(layer(x)), np.broadcast_to([1.5, -2], (*x.shape[:4], 2)).astype("float32")
    )


def test_variables_and_what_of_them_trains() -> None:
    plain, variational = WeightNormConv3D(5, 3), VariationalConv3D(5, 3)
    for layer in (plain, variational):
        layer.build((None, None, None, None, 2))
        assert {v.name: tuple(v.shape) for v in layer.weights} == {
            "v": (3, 3, 3, 2, 5),
            "kernel_a": (3, 3, 3, 2, 5),
            "g": (1, 1, 1, 1, 5),
            "bias_m": (5,),
            "bias_a": (5,),
        }
        assert layer.compute_output_shape((None, 8, None, 8, 2)) == (None, 8, None, 8, 5)
    assert [v.name for v in plain.trainable_variables] == ["v", "g", "bias_m"]
    assert len(variational.trainable_variables) == 5


def test_one_draw_per_filter_for_the_whole_batch_and_volume() -> None:
    layer = VariationalConv3D(3, 3, monte_carlo=True, seed=1)
    x = batch(2)
    layer.build(x.shape)
    found = randomise(layer)
    mean = convolve(x, mean_kernel(found), 1) + found["bias_m"]
    variance = convolve(x**2, found["kernel_a"] ** 2, 1) + found["bias_a"] ** 2
    draws = []
    for _ in range(50):
        noise = (values(layer(x)) - mean) / np.sqrt(variance + 1e-8)
        draws.append(noise.mean(axis=(0, 1, 2, 3)))
        # The same number at every voxel of every item, another one for every filter.
        np.testing.assert_allclose(noise, np.broadcast_to(draws[-1], noise.shape), atol=2e-3)
        assert len(np.unique(draws[-1])) == 3
    sample = np.concatenate(draws)
    assert abs(sample.mean()) < 4 / np.sqrt(150)
    assert abs(sample.var() - 1) < 4 * np.sqrt(2 / 150)


def test_bernoulli_dropout_keeps_and_does_not_scale() -> None:
    x = np.full((2, 20, 20, 20, 3), 2.0, "float32")
    np.testing.assert_allclose(values(BernoulliDropout(0.7)(x)), 1.4, rtol=1e-6)
    found = values(BernoulliDropout(0.7, monte_carlo=True, seed=2)(x))
    assert set(np.unique(found)) == {0.0, 2.0}
    assert abs((found == 2).mean() - 0.7) < 4 * np.sqrt(0.21 / found.size)
    assert found[0].tolist() != found[1].tolist()
    with pytest.raises(ValueError, match="keep_probability"):
        BernoulliDropout(0.0)


def test_concrete_dropout_keeps_with_the_probability_of_its_channel() -> None:
    keep = np.array([0.3, 0.8, 0.99, -1.0], "float32")
    x = np.full((1, 24, 24, 24, 4), 3.0, "float32")
    layer, drawing = ConcreteDropout(), ConcreteDropout(monte_carlo=True, seed=3)
    for one in (layer, drawing):
        one.build(x.shape)
        one.p.assign(keep)
    within = np.clip(keep, 0.05, 0.95)
    np.testing.assert_allclose(values(layer(x)), np.broadcast_to(3 * within, x.shape), rtol=1e-6)
    found = values(drawing(x)) / 3
    assert ((found < 0.01) | (found > 0.99)).mean() > 0.9  # nearly all are 0 or 1
    error = np.sqrt(within * (1 - within) / 24**3)
    assert (np.abs(found.mean(axis=(0, 1, 2, 3)) - within) < 4 * error + 1e-3).all()


def small_model(monte_carlo: bool = False) -> keras.Model:
    inputs = x = keras.Input((None, None, None, 1))
    x = VariationalConv3D(3, 3, monte_carlo=monte_carlo, name="a")(x)
    x = ConcreteDropout(monte_carlo=monte_carlo, name="b")(x)
    x = BernoulliDropout(0.5, monte_carlo=monte_carlo, name="c")(x)
    return keras.Model(inputs, x)


def test_switched_copies_share_nothing_but_the_values() -> None:
    model, x = small_model(), batch(1)
    assert is_random(model) and not is_random(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    drawing = with_monte_carlo(model, True)
    again = with_monte_carlo(drawing, False)
    assert [layer.name for layer in drawing.layers[1:]] == ["a", "b", "c"]
    np.testing.assert_array_equal(values(again(x)), values(model(x)))
    assert values(drawing(x)).tolist() != values(drawing(x)).tolist()
    drawing.get_layer("a").g.assign(np.zeros((1, 1, 1, 1, 3), "float32"))
    assert values(model.get_layer("a").g).all()


def test_seeds_repeat_a_draw_and_differ_between_layers() -> None:
    drawing, x = small_model(monte_carlo=True), batch(1)
    reseed(drawing, 5)
    first, second = values(drawing(x)), values(drawing(x))
    reseed(drawing, 5)
    np.testing.assert_array_equal(values(drawing(x)), first)
    reseed(drawing, 6)
    assert values(drawing(x)).tolist() not in (first.tolist(), second.tolist())
    states = [values(v).tolist() for v in drawing.variables if "seed_generator_state" in v.path]
    assert len({state[0] for state in states}) == 3


def test_layers_survive_a_file(tmp_path) -> None:
    model, x = small_model(), batch(1)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(values(again(x)), values(model(x)), atol=1e-6)
    for layer in small_model(monte_carlo=True).layers[1:]:
        config = layer.get_config()
        assert config["monte_carlo"] is True
        assert type(layer).from_config(config).get_config() == config


@pytest.mark.training
def test_training_draws_though_inference_does_not() -> None:
    model, x = small_model(), batch(1)
    np.testing.assert_array_equal(values(model(x)), values(model(x)))
    assert values(model(x, training=True)).tolist() != values(model(x, training=True)).tolist()


@pytest.mark.training
def test_divergence_from_the_prior() -> None:
    layer = VariationalConv3D(2, 3, prior_deviation=0.5, kl_weight=0.01)
    x = batch(1)
    layer.build(x.shape)
    found = randomise(layer)
    layer(x, training=False)
    assert layer.losses == []
    layer(x, training=True)
    means = (mean_kernel(found) ** 2).sum() + (found["bias_m"] ** 2).sum()
    deviations = np.concatenate([np.abs(found[name]).ravel() for name in ("kernel_a", "bias_a")])
    expected = (means + (deviations**2).sum()) / (2 * 0.25) - np.log(deviations + 1e-8).sum()
    assert float(values(layer.losses[0])) == pytest.approx(0.01 * expected, rel=1e-4)
    dropout = ConcreteDropout(kl_weight=2.0)
    dropout.build(x.shape)
    dropout(x, training=True)
    expected = 0.9 * np.log(1.8) + 0.1 * np.log(0.2)
    assert float(values(dropout.losses[0])) == pytest.approx(2 * expected, rel=1e-4)
