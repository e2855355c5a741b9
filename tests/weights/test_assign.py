"""Arrays reach variables one to one, or nothing is assigned and the differences are listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kerasneuro.errors import WeightsCorrupt, WeightsMismatch
from kerasneuro.weights import Entry, WeightStore, assign, read, write_flat

# TensorFlow's variables, when Keras turns them into arrays under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Variable:
    def __init__(self, path: str, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self.value: np.ndarray | None = None

    def assign(self, value: np.ndarray) -> None:
        assert value.shape == self.shape
        self.value = value


class Model:
    name = "small"

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.variables = [Variable(path.replace("__", "/"), shape) for path, shape in shapes.items()]

    def values(self) -> dict[str, np.ndarray | None]:
        return {variable.path: variable.value for variable in self.variables}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WeightStore]:
    arrays = {
        "a": np.arange(6, dtype="f4").reshape(2, 3),
        "b": np.ones(3, "f4"),
        "g": np.full(3, 2, "f4"),
        "n": np.array(7),
        "bad": np.array([1, np.nan], "f4"),
        "inf": np.array([1, -np.inf], "f4"),
    }
    write_flat(tmp_path / "weights.h5", arrays, {})
    with read(tmp_path / "weights.h5") as opened:
        yield opened


REST = ("g", "n", "bad", "inf")


def test_plain_and_converted_arrays(store: WeightStore) -> None:
    model = Model(x__kernel=(3, 2), x__bias=(3,))
    table = {"x/kernel": Entry(("a",), np.transpose), "x/bias": Entry(("b", "g"), lambda b, g: b * g)}
    assign(model, store, table, ignore=["n", "bad", "inf"])
    np.testing.assert_array_equal(model.values()["x/kernel"], np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(model.values()["x/bias"], [2, 2, 2])
    assert model.values()["x/kernel"].flags.c_contiguous


def test_scalar_keeps_its_shape(store: WeightStore) -> None:
    model = Model(step=())
    assign(model, store, {"step": "n"}, ignore=["*"])
    assert model.values()["step"] == 7


@pytest.mark.parametrize(
    ("table", "ignore", "words"),
    [
        ({"k": "a"}, REST, r"- +\| v \(3,\)"),
        ({"k": "a", "v": "gone"}, (*REST, "b"), r"- \(gone is missing\) +\| v \(3,\)"),
        ({"k": "a", "v": "b"}, REST[1:], r"g \(3,\) +\| -"),
        ({"k": "b", "v": "a"}, REST, r"b \(3,\) +\| k \(2, 3\)"),
        ({"k": "a", "v": Entry(("b", "b"), np.add)}, REST, r"b \(3,\) \(used 2 times\) +\| v \(3,\)"),
        ({"k": "a", "v": "b", "w": "g"}, REST[1:], r"g +\| - \(no variable w\)"),
        ({"k": Entry(("a",), np.transpose, (3, 2)), "v": "b"}, REST, r"a \(3, 2\) +\| k \(2, 3\)"),
    ],
)
def test_difference_is_listed_and_nothing_assigned(
    table: dict[str, Entry | str], ignore: tuple[str, ...], words: str, store: WeightStore
) -> None:
    model = Model(k=(2, 3), v=(3,))
    with pytest.raises(WeightsMismatch, match=words) as caught:
        assign(model, store, table, ignore=ignore)
    assert "file has" in str(caught.value) and "model wants" in str(caught.value)
    assert set(model.values().values()) == {None}


def test_shape_after_conversion_is_checked(store: WeightStore) -> None:
    with pytest.raises(WeightsMismatch, match=r"a \(3, 2\) +\| k \(2, 3\)"):
        assign(Model(k=(2, 3)), store, {"k": Entry(("a",), np.transpose)}, ignore=["b", *REST])


def test_long_list_is_cut(tmp_path: Path) -> None:
    write_flat(tmp_path / "weights.h5", {f"w{number}": np.ones(number) for number in range(30)}, {})
    with (
        read(tmp_path / "weights.h5") as store,
        pytest.raises(WeightsMismatch, match="and 11 more") as caught,
    ):
        assign(Model(k=(3,)), store, {})
    lines = str(caught.value).splitlines()
    assert "31 differences" in lines[0] and "small" in lines[0]
    assert lines[2].split("|")[1].strip() == "k (3,)"
    assert len(lines) == 23


@pytest.mark.parametrize("key", ["bad", "inf"])
def test_values_that_are_not_finite(key: str, store: WeightStore) -> None:
    with pytest.raises(WeightsCorrupt, match=f"'{key}' holds NaN or infinity"):
        assign(Model(k=(2,)), store, {"k": key}, ignore=["*"])


def test_conversion_that_makes_nan(store: WeightStore) -> None:
    table = {"k": Entry(("b",), lambda b: b * np.float32("nan"))}
    with pytest.raises(WeightsCorrupt, match="NaN"):
        assign(Model(k=(3,)), store, table, ignore=["*"])


def test_two_variables_of_one_name(store: WeightStore) -> None:
    model = Model(k=(3,))
    model.variables *= 2
    with pytest.raises(WeightsMismatch, match="several variables named 'k'"):
        assign(model, store, {"k": "b"}, ignore=["*"])


def test_seed_states_are_left(store: WeightStore) -> None:
    model = Model(k=(3,), dropout__seed_generator__seed_generator_state=(2,))
    assign(model, store, {"k": "b"}, ignore=["*"])
    assert model.values()["dropout/seed_generator/seed_generator_state"] is None


def test_entry_without_function_takes_one_array() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Entry(("a", "b"))


def test_one_array_is_held_at_a_time(store: WeightStore) -> None:
    """Every variable has its values before the next array is read."""
    events: list[str] = []

    def note(name: str) -> Entry:
        return Entry((name,), lambda array: (events.append(f"read {name}"), array)[1])

    model = Model(k=(2, 3), v=(3,))
    for variable in model.variables:
        variable.assign = lambda value, path=variable.path: events.append(f"assign {path}")
    assign(model, store, {"k": note("a"), "v": note("b")}, ignore=REST)
    assert events == ["read a", "assign k", "read b", "assign v"]


def small_network(seed: int) -> object:
    import keras

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 4, 1), name="scan")
    x = keras.layers.Conv3D(2, 3, padding="same", name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    x = keras.layers.Conv3DTranspose(3, 2, strides=2, name="up")(x)
    return keras.Model(inputs, x, name="small")


def test_keras_model_from_a_keras_file(tmp_path: Path) -> None:
    """Keras itself writes the file; the second network then computes what the first does."""
    import keras

    first, second = small_network(0), small_network(1)
    for variable in first.weights:
        variable.assign(np.random.default_rng(len(variable.path)).uniform(0.5, 1, variable.shape))
    first.save(tmp_path / "whole.h5")
    with read(tmp_path / "whole.h5") as store:
        assert [layer for layer, _ in store.layers] == ["first", "norm", "up"]
        table = {variable.path: variable.path for variable in second.weights}
        assign(second, store, table)
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(one.value), keras.ops.convert_to_numpy(other.value)
        )
    scan = np.random.default_rng(0).normal(size=(1, 4, 4, 4, 1)).astype("f4")
    np.testing.assert_allclose(first.predict(scan, verbose=0), second.predict(scan, verbose=0), rtol=1e-6)


def test_keras_model_keeps_its_values_when_the_file_does_not_fit(tmp_path: Path) -> None:
    import keras

    model = small_network(0)
    before = [keras.ops.convert_to_numpy(variable.value) for variable in model.weights]
    write_flat(tmp_path / "weights.h5", {v.path: np.ones(v.shape) for v in model.weights[:-1]}, {})
    with (
        read(tmp_path / "weights.h5") as store,
        pytest.raises(WeightsMismatch, match=r"missing\) +\| up/bias \(3,\)"),
    ):
        assign(model, store, {variable.path: variable.path for variable in model.weights})
    for value, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable.value))


def test_native_file_of_keras_3_is_named(tmp_path: Path) -> None:
    small_network(0).save_weights(tmp_path / "native.weights.h5")
    with pytest.raises(WeightsCorrupt, match="Keras 3 native layout"):
        read(tmp_path / "native.weights.h5")
    small_network(0).save(tmp_path / "model.keras")
    with pytest.raises(WeightsCorrupt, match=r"Keras 3 model \(\.keras\)"):
        read(tmp_path / "model.keras")
