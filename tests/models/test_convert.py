"""Original files become ours and load equally on every backend; ours become the original's again."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np
import pytest

import kerasneuro
from kerasneuro import convert_weights, networks, registry
from kerasneuro.errors import InvalidOption, OutputError, WeightsCorrupt, WeightsMismatch
from kerasneuro.models.deepbet import graph as deepbet_graph
from kerasneuro.models.deepbet import weights as deepbet
from kerasneuro.weights import assign, read, write_flat, write_original

MAKE = runpy.run_path(str(Path(__file__).parents[1] / "hostile" / "torch_files.py"))
UNETS = [
    "unet_b2_full",
    "unet_b2_weights",
    "unet_b2_2019full",
    "unet_b2_2019suffix",
    "unet_b2_2019weights_scoped",
    "unet_b2_bn_full",
    "unet_b1_c6_full",
    "unet_b1_2019adam",
]
KWYK = {
    "kwyk-bwn": "kwyk_bwn",
    "kwyk-bwn-multi": "kwyk_bwn_multi",
    "kwyk-bvwn-multi-prior": "kwyk_bvwn_multi_prior",
}


def arrays(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        variable.path: keras.ops.convert_to_numpy(variable).copy() for variable in networks.weights_of(model)
    }


def contents(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file, in its order."""
    with read(path) as store:
        return {key: array.read() for key, array in store.items()}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.fixture
def unet(fixtures: Path) -> Path:
    return fixtures / "nobrainer" / "unet_b2_weights.h5"


@pytest.fixture(scope="module")
def small() -> keras.Model:
    """A small network of deepbet whose weights are exact in bfloat16."""
    model = deepbet_graph.build(widths=(4, 8, 8, 16), head_width=4)
    rng = np.random.default_rng(3)
    for variable in model.variables:
        variable.assign(rng.integers(-8, 9, variable.shape) / 16)
    return model


@pytest.fixture
def state(small: keras.Model, tmp_path: Path) -> Path:
    """The state dict of the small network."""
    values = arrays(small)
    write_original(tmp_path / "state.pth", deepbet.original(small), values.__getitem__)
    return tmp_path / "state.pth"


class TestOurFormat:
    @pytest.mark.parametrize("name", UNETS)
    def test_keras_2_files(self, name: str, fixtures: Path, tmp_path: Path) -> None:
        source = fixtures / "nobrainer" / f"{name}.h5"
        target = convert_weights(source, "nobrainer-brainy", tmp_path / "out.h5")
        expected = kerasneuro.load("nobrainer-brainy", weights=source).model
        found = kerasneuro.load("nobrainer-brainy", weights=target).model
        assert_equal(arrays(found), arrays(expected))
        assert found.input_shape == expected.input_shape and found.output_shape == expected.output_shape

    def test_predictions_are_equal(self, fixtures: Path, tmp_path: Path) -> None:
        source = fixtures / "nobrainer" / "unet_b2_bn_full.h5"
        target = convert_weights(source, "nobrainer-brainy", tmp_path / "out.h5")
        batch = np.random.default_rng(0).normal(size=(1, 8, 16, 8, 1)).astype("float32")
        models = [kerasneuro.load("nobrainer-brainy", weights=path).model for path in (target, source)]
        found, expected = (keras.ops.convert_to_numpy(model(batch, training=False)) for model in models)
        np.testing.assert_array_equal(found, expected)
        assert found.std() > 0

    @pytest.mark.parametrize("name", KWYK)
    def test_savedmodels(self, name: str, fixtures: Path, tmp_path: Path) -> None:
        source = fixtures / "nobrainer" / KWYK[name]
        target = convert_weights(source, name, tmp_path / "out.h5")
        expected = kerasneuro.load(name, weights=source).model
        found = kerasneuro.load(name, weights=target).model
        assert_equal(arrays(found), arrays(expected))
        configs = [[layer.get_config() for layer in model.layers] for model in (found, expected)]
        for layer, other in zip(*configs, strict=True):
            assert {**layer, "name": ""} == {**other, "name": ""}

    def test_torchscript(self, deepbet_weights: dict[str, Path], tmp_path: Path) -> None:
        ours = {
            part: convert_weights(path, "deepbet", tmp_path / f"{part}.h5", part=part)
            for part, path in deepbet_weights.items()
        }
        expected = kerasneuro.load("deepbet", weights=deepbet_weights)
        found = kerasneuro.load("deepbet", weights=ours)
        for part, model in expected.models.items():
            assert_equal(arrays(found.models[part]), arrays(model))
        with read(ours["brain"]) as store:
            assert store.attributes["registered"] == "deepbet: model.pt"
            assert store.attributes["source_format"] == "torchscript"

    @pytest.mark.parametrize("layout", ["zip", "legacy", "parallel", "lightning", "lightning_bf16"])
    def test_checkpoints_of_pytorch(
        self, layout: str, state: Path, small: keras.Model, tmp_path: Path
    ) -> None:
        write_checkpoint(tmp_path / "checkpoint", contents(state), layout)
        target = convert_weights(tmp_path / "checkpoint", "deepbet", tmp_path / "out.h5", part="brain")
        assert_equal(contents(target), arrays(small))
        task = kerasneuro.load("deepbet", weights={"bbox": state, "brain": tmp_path / "checkpoint"})
        assert_equal(arrays(task.models["brain"]), arrays(small))

    def test_origin_is_written_down(self, unet: Path, tmp_path: Path) -> None:
        with read(convert_weights(unet, "nobrainer-ams", tmp_path / "out.h5")) as store:
            assert store.format == "kerasneuro-h5"
            card = registry.get("nobrainer-ams")
            assert json.loads(store.attributes.pop("config"))["filters"] == 2
            assert store.attributes == {
                "model": "nobrainer-ams",
                "part": "",
                "source": "unet_b2_weights.h5",
                "source_sha256": sha256(unet.read_bytes()).hexdigest(),
                "source_format": "keras-h5",
                "registered": "",
                "converter": networks.CONVERTER,
                "kerasneuro": kerasneuro.__version__,
                "licence": card.licence.name,
                "licence_grant": card.licence.grant,
                "licence_read": card.licence.read,
            }

    def test_converting_again_changes_no_byte(self, unet: Path, tmp_path: Path) -> None:
        first = convert_weights(unet, "nobrainer-brainy", tmp_path / "a.h5").read_bytes()
        second = convert_weights(tmp_path / "a.h5", "nobrainer-brainy", tmp_path / "b.h5").read_bytes()
        third = convert_weights(unet, "nobrainer-brainy", tmp_path / "b.h5", overwrite=True).read_bytes()
        assert first == second == third

    def test_no_variable_gets_memory(
        self, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The graph is only sketched: an array of the file is all that is held at a time."""

        def refuse(self: keras.Variable, value: object) -> None:
            raise AssertionError(f"{self.path} got a value")

        monkeypatch.setattr(keras.Variable, "_initialize", refuse)
        monkeypatch.setattr(keras.Variable, "assign", refuse)
        convert_weights(state, "deepbet", tmp_path / "out.h5", part="bbox")


def write_checkpoint(path: Path, state: dict[str, np.ndarray], layout: str) -> None:
    """Write a state dict as training programs do, without PyTorch."""
    half = layout == "lightning_bf16"
    prefix = {"parallel": "module.", "lightning": "model.", "lightning_bf16": "net."}.get(layout, "")
    tensors, storages = {}, {}
    for number, (key, array) in enumerate(state.items()):
        bits = array.view("<u4") >> 16
        storages[str(number)] = (bits.astype("<u2") if half else array.astype("<f4")).tobytes()
        stored = MAKE["storage"](array.size, str(number), f"{'BFloat16' if half else 'Float'}Storage")
        strides = tuple(stride // array.itemsize for stride in array.strides)
        tensors[prefix + key] = MAKE["tensor"](stored, array.shape, strides)
    value = MAKE["dictionary"](**tensors)
    if layout.startswith("lightning"):
        version = {"pytorch-lightning_version": MAKE["text"]("2.1.0")}
        extra = {"epoch": MAKE["integer"](3), "hyper_parameters": b"}", "optimizer_states": b"]"}
        value = MAKE["dictionary"](state_dict=value, **version, **extra)
    if layout == "legacy":
        tail = b"".join(
            array.size.to_bytes(8, "little") + storages[str(number)]
            for number, array in enumerate(state.values())
        )
        MAKE["write_legacy"](path, value, tuple(storages), tail)
    else:
        MAKE["write_zip"](path, value, storages)


class TestToOriginal:
    @pytest.mark.parametrize(
        "name", ["unet_b2_weights", "unet_b2_bn_weights", "unet_b2_full", "unet_b1_c6_full"]
    )
    def test_keras_2_file_comes_back(self, name: str, fixtures: Path, tmp_path: Path) -> None:
        source = fixtures / "nobrainer" / f"{name}.h5"
        ours = convert_weights(source, "nobrainer-unet", tmp_path / "ours.h5")
        back = convert_weights(ours, "nobrainer-unet", tmp_path / "back.h5", to_original=True)
        assert_equal(contents(back), contents(source))
        direct = convert_weights(source, "nobrainer-unet", tmp_path / "direct.h5", to_original=True)
        assert direct.read_bytes() == back.read_bytes()

    def test_foreign_counters_become_those_of_a_fresh_session(self, fixtures: Path, tmp_path: Path) -> None:
        source = fixtures / "nobrainer" / "unet_b2_2019suffix.h5"
        back = convert_weights(source, "nobrainer-unet", tmp_path / "back.h5", to_original=True)
        assert_equal(contents(back), contents(fixtures / "nobrainer" / "unet_b2_weights.h5"))

    @pytest.mark.parametrize("name", ["unet_b2_weights", "unet_b2_bn_weights"])
    def test_stock_keras_3_loads_it(self, name: str, fixtures: Path, tmp_path: Path) -> None:
        source = fixtures / "nobrainer" / f"{name}.h5"
        back = convert_weights(source, "nobrainer-unet", tmp_path / "back.h5", to_original=True)
        expected = kerasneuro.load("nobrainer-unet", weights=source).model
        model = kerasneuro.build("nobrainer-unet", filters=2, batchnorm="bn" in name)
        assert isinstance(model, keras.Model)
        model.load_weights(back)
        assert_equal(arrays(model), arrays(expected))

    def test_state_dict_comes_back(self, state: Path, tmp_path: Path) -> None:
        ours = convert_weights(state, "deepbet", tmp_path / "ours.h5", part="bbox")
        back = convert_weights(ours, "deepbet", tmp_path / "back.pth", part="bbox", to_original=True)
        assert back.read_bytes() == state.read_bytes()

    def test_published_archives_come_back(
        self, deepbet_weights: dict[str, Path], fixtures: Path, tmp_path: Path
    ) -> None:
        for part, manifest in (("bbox", "bbox_model"), ("brain", "model")):
            ours = convert_weights(deepbet_weights[part], "deepbet", tmp_path / f"{part}.h5", part=part)
            back = convert_weights(ours, "deepbet", tmp_path / f"{part}.pth", part=part, to_original=True)
            assert_equal(contents(back), contents(deepbet_weights[part]))
            text = (fixtures / "deepbet" / f"deepbet_manifest_{manifest}.json").read_text()
            listed = {entry["key"]: entry["sha256_le_float32_C"] for entry in json.loads(text)["weights"]}
            assert {
                key: sha256(array.tobytes()).hexdigest() for key, array in contents(back).items()
            } == listed

    @pytest.mark.parametrize("name", KWYK)
    def test_savedmodels_are_not_written(self, name: str, fixtures: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidOption, match=rf"original format of {name} \(savedmodel\)") as caught:
            convert_weights(fixtures / "nobrainer" / KWYK[name], name, tmp_path / "o", to_original=True)
        assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


class TestWrongFile:
    def test_of_another_family(self, unet: Path, state: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsMismatch, match="does not fit"):
            convert_weights(unet, "deepbet", tmp_path / "out.h5", part="bbox")
        with pytest.raises(WeightsMismatch, match="not a nobrainer U-Net"):
            convert_weights(state, "nobrainer-brainy", tmp_path / "out.h5")
        assert os.listdir(tmp_path) == ["state.pth"]

    @pytest.mark.parametrize(("to", "part"), [("nobrainer-ams", None), ("deepbet", "brain")])
    def test_converted_for_another_model(
        self, to: str, part: str | None, unet: Path, state: Path, tmp_path: Path
    ) -> None:
        ours = convert_weights(unet, "nobrainer-brainy", tmp_path / "ours.h5")
        found = f"model 'nobrainer-brainy' of kerasneuro, expected '{to}'"
        with pytest.raises(WeightsMismatch, match=found) as caught:
            kerasneuro.load(to, weights=ours if part is None else {"bbox": state, part: ours})
        assert "\n" not in str(caught.value)
        with pytest.raises(WeightsMismatch, match=found):
            convert_weights(ours, to, tmp_path / "out.h5", part=part)

    def test_converted_for_another_part(self, state: Path, tmp_path: Path) -> None:
        ours = convert_weights(state, "deepbet", tmp_path / "ours.h5", part="brain")
        with pytest.raises(WeightsMismatch, match=r"the part 'brain' of kerasneuro, expected 'bbox'"):
            kerasneuro.load("deepbet", weights={"bbox": ours, "brain": ours})

    def test_converted_by_another_table(
        self, unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = convert_weights(unet, "nobrainer-brainy", tmp_path / "ours.h5")
        monkeypatch.setattr(networks, "CONVERTER", "2")
        with pytest.raises(WeightsMismatch, match=r"converter '1', .* reads '2'; convert the original"):
            kerasneuro.load("nobrainer-brainy", weights=ours)

    @pytest.mark.parametrize("config", ["", "{", "[]", "3", "null"])
    def test_damaged_configuration(self, config: str, unet: Path, tmp_path: Path) -> None:
        path = with_config(unet, tmp_path, lambda _: config)
        with pytest.raises(WeightsCorrupt, match="configuration; convert it again"):
            kerasneuro.load("nobrainer-brainy", weights=path)

    def test_unknown_configuration(self, unet: Path, tmp_path: Path) -> None:
        path = with_config(unet, tmp_path, lambda text: json.dumps({**json.loads(text), "depth": 3}))
        with pytest.raises(InvalidOption, match="no configuration depth"):
            kerasneuro.load("nobrainer-brainy", weights=path)

    def test_stated_width_is_proven_before_memory_is_taken(self, unet: Path, tmp_path: Path) -> None:
        path = with_config(unet, tmp_path, lambda text: json.dumps({**json.loads(text), "filters": 10**6}))
        with pytest.raises(WeightsMismatch, match="does not fit the model"):
            kerasneuro.load("nobrainer-brainy", weights=path)
        with keras.StatelessScope():
            pass  # Keras would now give the sketch its 10**14 values, were they still waiting.

    def test_array_with_nan_leaves_nothing(self, small: keras.Model, tmp_path: Path) -> None:
        values = arrays(small)
        values["tp_conv2/bias"][1] = np.nan
        write_original(tmp_path / "nan.pth", deepbet.original(small), values.__getitem__)
        for to_original in (False, True):
            with pytest.raises(WeightsCorrupt, match="NaN"):
                convert_weights(
                    tmp_path / "nan.pth", "deepbet", tmp_path / "out", part="bbox", to_original=to_original
                )
        assert os.listdir(tmp_path) == ["nan.pth"]


def with_config(source: Path, folder: Path, change: Callable[[str], str]) -> Path:
    """Convert a file, and change the configuration that it states."""
    with read(convert_weights(source, "nobrainer-brainy", folder / "ours.h5")) as store:
        attributes = {**store.attributes, "config": change(store.attributes["config"])}
        write_flat(folder / "changed.h5", ((key, array.read()) for key, array in store.items()), attributes)
    return folder / "changed.h5"


def test_source_is_never_the_target(unet: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(unet.read_bytes())
    for target in (copy, tmp_path / "." / "copy.h5"):
        with pytest.raises(OutputError, match="is the file to convert"):
            convert_weights(copy, "nobrainer-brainy", target, overwrite=True)
    assert copy.read_bytes() == unet.read_bytes()


def test_flat_file_of_original_names_still_loads(unet: Path, tmp_path: Path) -> None:
    """A flat file without a description is read by the table of the model, as before."""
    write_flat(tmp_path / "flat.h5", contents(unet), {"note": "mine"})
    found = kerasneuro.load("nobrainer-brainy", weights=tmp_path / "flat.h5").model
    with read(unet) as store:
        expected = kerasneuro.build("nobrainer-unet", filters=2)
        assert isinstance(expected, keras.Model)
        assign(expected, store, {path: path for path in arrays(expected)})
    assert_equal(arrays(found), arrays(expected))
