"""Models of third parties: which descriptions are taken, where they are kept, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerasneuro import hub, registry, third_party
from kerasneuro.errors import InvalidOption, KerasNeuroError, ModelNotFound, OutputError, WeightsCorrupt
from kerasneuro.fetching import ensure

pytestmark = pytest.mark.backend_free

pytest.importorskip("yaml")


@pytest.fixture(autouse=True)
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setenv("KERASNEURO_HUB", str(folder))
    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "cache"))
    return folder / "hub.json"


@pytest.fixture
def network(tmp_path: Path, fixtures: Path) -> Path:
    """A small ONNX network in a folder where a description may lie."""
    path = tmp_path / "given" / "network.onnx"
    path.parent.mkdir()
    shutil.copyfile(fixtures / "hsf" / "arunet_v4_dyn.onnx", path)
    return path


@pytest.fixture
def content(network: Path) -> dict[str, Any]:
    return {
        "name": "my-subfields",
        "family": "hsf",
        "summary": "Subfields of the hippocampus.",
        "files": [{"path": network.name, "sha256": digest(network)}],
        "labels": ["background", "DG", "CA1", "CA2", "CA3", "SUB"],
        "licence": {"name": "MIT", "url": "https://example.org/LICENSE"},
        "citation": "Somebody (2026).",
    }


def digest(path: Path, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, path.read_bytes()).hexdigest()


def write(network: Path, content: Any, suffix: str = ".json") -> Path:
    import yaml

    path = network.with_name(f"description{suffix}")
    path.write_text(json.dumps(content) if suffix == ".json" else yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_an_added_model_is_known_by_its_name_and_found_where_it_lies(network, content, suffix) -> None:
    card = hub.add(write(network, content, suffix))
    assert registry.get("my-subfields") == card
    assert registry.names()[-1] == "my-subfields" and registry.names("my-*") == ["my-subfields"]
    assert registry.cards()[-1] == card and "my-subfields" not in registry.published()
    assert card.third_party and card.third_party.added and card.status == "ready"
    assert "never" in card.intended_use.lower()
    (file,) = card.files
    assert file.bytes == network.stat().st_size
    assert ensure(file, offline=True) == network, "used where it lies, without a copy"
    assert registry.card_from_dict(json.loads(json.dumps(registry.as_dict(card)))) == card


def test_a_bag_with_addresses(network, content) -> None:
    content["files"] = [
        {
            "url": f"https://example.org/a%2Fb/net_{index}.onnx?download=1",
            "xxh3_64": f"{index:016x}",
            "bytes": 12,
        }
        for index in range(3)
    ]
    content |= {"contract": {"augmented_copies": 20}, "doi": "10.1234/abc", "classes": 6}
    card = hub.add(write(network, content))
    assert card.is_bag and card.parts == ("bag0", "bag1", "bag2")
    assert [file.name for file in card.files] == ["net_0.onnx", "net_1.onnx", "net_2.onnx"]
    assert card.files[2].digest == registry.Digest("xxh3_64", "0000000000000002")
    assert card.files[2].sources[0].url.startswith("https://example.org/")
    assert (card.input["augmented_copies"], card.doi) == (20, "10.1234/abc")


def test_a_network_of_its_own_kind(network, content) -> None:
    contract = {
        "images": ["T1w", "FLAIR"],
        "block_shape": [64, 64, 64],
        "kind": "logits",
        "orientation": "LIA",
    }
    card = hub.add(write(network, content | {"family": "onnx", "contract": contract}))
    assert card.input["images"] == ("T1w", "FLAIR") and card.input["normalise"] == "zscore"
    assert card.output["kind"] == "logits" and card.output["classes"][5]["name"] == "SUB"
    assert dict(card.needs) == {} and card.parts == ()


def change(**values: Any) -> Any:
    return lambda content: content | values


def change_file(**values: Any) -> Any:
    def apply(content: dict[str, Any]) -> dict[str, Any]:
        file = content["files"][0] | values
        return content | {"files": [{key: value for key, value in file.items() if value is not None}]}

    return apply


URL = {"path": None, "sha256": None, "md5": "0" * 32}
REFUSED = {
    "no name": (change(name=""), "lacks name"),
    "a name with a path": (change(name="../evil"), r"name '\.\./evil' is not allowed"),
    "a name with capitals": (change(name="My_Model"), "is not allowed"),
    "a name of the project": (change(name="deepbet"), "comes with kerasneuro"),
    "a name of a sample": (change(name="t1-group-average"), "comes with kerasneuro"),
    "an unknown key": (change(colour="blue"), "unknown key 'colour'"),
    "an unknown family": (change(family="nobrainer"), "family is one of hsf, onnx, found 'nobrainer'"),
    "no licence": (change(licence=None), "lacks licence"),
    "a licence without name": (change(licence={"url": "https://example.org"}), "licence lacks name"),
    "one label": (change(labels=["all"]), "two different names"),
    "labels that are not texts": (change(labels=["no", False]), "two different names"),
    "another count": (change(classes=5), "classes is 5, but 6 labels"),
    "no files": (change(files=[]), "lacks files"),
    "files by name": (change(files={"a.onnx": {}}), "files is a list"),
    "a folder of files": (change_file(path="."), "does not exist"),
    "no digest": (change_file(sha256=None), "has no digest; give its sha256, xxh3_64 or md5"),
    "half a digest": (change_file(sha256="abc"), "64 hexadecimal digits, found 'abc'"),
    "a digest that YAML took for a number": (change_file(sha256=None, md5=12), "in quotes"),
    "both places": (change_file(url="https://example.org/a.onnx"), "either url or path"),
    "no place": (change_file(path=None), "either url or path"),
    "outside": (change_file(path="../elsewhere.onnx"), "in the folder of description.json or below"),
    "absolute outside": (change_file(path="/etc/hosts"), "in the folder of"),
    "absent": (change_file(path="other.onnx"), "does not exist"),
    "http": (change_file(**URL, url="http://example.org/a.onnx"), "https address"),
    "a local address": (change_file(**URL, url="file:///etc/a.onnx"), "https address"),
    "a password": (change_file(**URL, url="https://me:secret@example.org/a.onnx"), "without a password"),
    "a line break": (change_file(**URL, url="https://example.org/a.onnx\nHost: x"), "https address"),
    "a Keras model": (change_file(**URL, url="https://example.org/a.keras"), "holds no code; a.keras is not"),
    "a pickle": (change_file(**URL, url="https://example.org/a.pkl"), "a.pkl is not taken"),
    "a checkpoint": (change_file(**URL, url="https://example.org/a.pt"), "a.pt is not taken"),
    "a folder in the name": (
        change_file(**URL, url="https://example.org/a.onnx", name="../a.onnx"),
        "name of a",
    ),
    "a hidden folder": (change_file(**URL, url="https://example.org/x/%2e%2e%2fa.onnx"), None),
    "no bytes": (change_file(bytes=0), "bytes is a whole number"),
    "many bytes": (change_file(bytes=True), "bytes is a whole number"),
    "a wrong doi": (change(doi="doi:10"), "doi has the form"),
    "an unknown contract": (change(contract={"multiple": 8}), "contract has the unknown key 'multiple'"),
    "copies": (change(contract={"augmented_copies": -1}), "augmented_copies is a whole number of at least 0"),
    "a text as contract": (change(contract="RAS"), "must hold keys"),
    "a wrong orientation": (change(family="onnx", contract={"orientation": "RAL"}), "axis codes such as RAS"),
    "a wrong block": (change(family="onnx", contract={"block_shape": [64, 64]}), "three whole numbers"),
    "a wrong rule": (change(family="onnx", contract={"normalise": "minmax"}), "zscore, quantiles or none"),
    "a list": (lambda content: [content], "must hold keys"),
}


@pytest.mark.parametrize(("changed", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_in_one_sentence(network, content, own_hub, changed, told) -> None:
    if told is None:  # Only the last part of an address becomes a name.
        assert hub.add(write(network, changed(content))).files[0].name == "a.onnx"
        return
    with pytest.raises(InvalidOption, match=told) as caught:
        hub.add(write(network, changed(content)))
    assert "\n" not in str(caught.value)
    assert not own_hub.exists()


def test_two_files_need_two_names_and_onnx_takes_one(network, content) -> None:
    twice = content | {"files": content["files"] * 2}
    with pytest.raises(InvalidOption, match="a name of its own"):
        hub.add(write(network, twice))
    twice["files"] = [content["files"][0], content["files"][0] | {"name": "other.onnx"}]
    with pytest.raises(InvalidOption, match="family onnx takes one file, found 2"):
        hub.add(write(network, twice | {"family": "onnx"}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [", "is not YAML in line 1"),
        ("a: &x [1]\nb: *x", "has aliases"),
        ("!!python/object/apply:os.system ['echo unsafe']", "is not YAML"),
        ("- 1", "must hold keys"),
        ("", "must hold keys"),
        ("x" * (1 << 20) + "y", "larger than a description"),
        (b"\xff\xfe", "is damaged"),
    ],
)
def test_damaged_yaml_is_refused_and_runs_nothing(tmp_path: Path, text, told) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidOption, match=told):
        hub.add(path)


def test_other_sources_are_refused(tmp_path: Path, network) -> None:
    with pytest.raises(InvalidOption, match=r"expected a description \(.yaml, .yml or .json\) or the folder"):
        hub.add(network)
    with pytest.raises(InvalidOption, match="cannot be read: No such file"):
        hub.add(tmp_path / "absent.yaml")
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    with pytest.raises(InvalidOption, match="is damaged"):
        hub.add(deep)
    with pytest.raises(ModelNotFound, match="no saved model"):
        hub.add(tmp_path)


def test_a_local_file_must_be_what_it_is_said_to_be(network, content, own_hub) -> None:
    with pytest.raises(WeightsCorrupt, match="replace the file"):
        hub.add(write(network, change_file(sha256="0" * 64)(content)))
    network.write_bytes(b"PK\x03\x04 not a graph")
    with pytest.raises(KerasNeuroError):
        hub.add(write(network, change_file(sha256=digest(network))(content)))
    assert not own_hub.exists()


def test_a_changed_or_absent_file_is_not_used(network, content) -> None:
    (file,) = hub.add(write(network, content)).files
    network.write_bytes(network.read_bytes()[:-1] + b"x")
    with pytest.raises(KerasNeuroError, match="was not used"):
        ensure(file, offline=True)
    network.unlink()
    with pytest.raises(KerasNeuroError, match=r"network\.onnx: is no longer there"):
        ensure(file, offline=True)


def test_a_name_is_added_once_and_removed(network, content) -> None:
    path = write(network, content)
    hub.add(path)
    with pytest.raises(InvalidOption, match="'my-subfields' has been added already"):
        hub.add(path)
    assert hub.add(path, replace=True, name="my-subfields").name == "my-subfields"
    assert hub.add(path, name="another").name == "another"
    assert [row["name"] for row in hub.as_table(hub.added())] == ["my-subfields", "another"]
    hub.remove("my-subfields")
    assert [card.name for card in hub.added()] == ["another"] and network.is_file()
    with pytest.raises(ModelNotFound, match="no model 'my-subfields' has been added; added are: another"):
        hub.remove("my-subfields")
    with pytest.raises(ModelNotFound):
        registry.get("my-subfields")
    with pytest.raises(ModelNotFound):
        hub.remove("deepbet")


def test_a_damaged_list_leaves_the_own_models_usable(network, content, own_hub) -> None:
    hub.add(write(network, content))
    own_hub.write_text("{")
    with pytest.warns(UserWarning, match="added models are left out: .*cannot be read"):
        assert "my-subfields" not in registry.names()
    assert registry.get("deepbet").family == "deepbet"
    with pytest.raises(third_party.HubDamaged, match="repair it, or delete it"):
        hub.add(write(network, content))
    assert own_hub.read_text() == "{", "what cannot be read is not overwritten"


@pytest.mark.parametrize(
    ("entry", "told"), [({"name": "deepbet"}, "comes with kerasneuro"), ({"name": "odd"}, "does not fit")]
)
def test_a_foreign_entry_never_takes_the_place_of_a_model(network, content, own_hub, entry, told) -> None:
    hub.add(write(network, content))
    kept = json.loads(own_hub.read_text())
    own_hub.write_text(json.dumps(kept | {"models": [*kept["models"], entry]}))
    with pytest.warns(UserWarning, match=f"{entry['name']} is left out, since .*{told}"):
        assert registry.names()[-1] == "my-subfields"
    assert registry.get("deepbet") is registry.published()["deepbet"]
    hub.remove(entry["name"])
    assert [item["name"] for item in third_party.read_entries()] == ["my-subfields"]


def test_a_folder_that_cannot_be_written(network, content, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(network, content)
    monkeypatch.setenv("KERASNEURO_HUB", str(network))
    with pytest.raises(OutputError, match="set KERASNEURO_HUB to another folder"):
        hub.add(path)


def saved_model(folder: Path) -> Path:
    """Write the folder of a saved model without a network."""
    from kerasneuro.weights import write_flat

    folder.mkdir()
    write_flat(folder / "weights.h5", [("layer/kernel", np.ones((2, 2), np.float32))], {"model": "deepbet"})
    base = registry.as_dict(registry.get("nobrainer-brainy"))
    card = {
        "kind": "kerasneuro model",
        "version": 1,
        "name": "Tumour_1",
        "family": base["family"],
        "base": base["name"],
        "task": "segmentation",
        "pipeline": "own",
        "summary": "Tumours.",
        "parent": {"name": base["name"], "files": {}},
        "config": {},
        "parts": {"": {"file": "weights.h5", "sha256": digest(folder / "weights.h5")}},
        "classes": [{"index": 0, "name": "background", "value": 0}],
        "input": base["input"],
        "output": base["output"],
        "licence": base["licence"],
        "citation": base["citation"],
        "use": base["intended_use"],
    }
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def test_a_saved_model_is_added_where_it_lies(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "tumour")
    with pytest.raises(InvalidOption, match="'Tumour_1' is not allowed"):
        hub.add(folder)
    card = hub.add(folder, name="tumour-1")
    assert registry.get("tumour-1") == card and card.family == "nobrainer"
    assert hub.folder_of(card) == folder.resolve()
    assert ensure(card.files[0], offline=True) == folder.resolve() / "weights.h5"
    assert hub.folder_of(registry.get("deepbet")) is None
    card_file = folder / "card.json"
    card_file.write_text(card_file.read_text() + " ")
    with pytest.raises(WeightsCorrupt, match=r"has changed since tumour-1 was added; .*--replace"):
        hub.folder_of(card)
    shutil.rmtree(folder)
    with pytest.raises(ModelNotFound, match="holds no saved model any more"):
        hub.folder_of(card)


def test_a_saved_model_with_other_weights_is_refused(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "tumour")
    with (folder / "weights.h5").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(WeightsCorrupt):
        hub.add(folder, name="tumour-1")
