"""The registry: its schema, its names, and the records made from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kerasneuro import registry
from kerasneuro.errors import ModelNotFound
from kerasneuro.registry import Digest, ModelCard, Source

jsonschema = pytest.importorskip("jsonschema")

TOP = Path(__file__).resolve().parents[1]
HSF = [f"hsf-{kind}-{speed}" for kind in ("bagging", "single") for speed in ("accurate", "fast")]
NAMES = [
    "deepbet",
    "nobrainer-brainy",
    "nobrainer-ams",
    "nobrainer-unet",
    "kwyk-bwn",
    "kwyk-bwn-multi",
    "kwyk-bvwn-multi-prior",
    "synthmorph-deform",
    "synthmorph-affine",
    "synthmorph-rigid",
    "synthmorph-joint",
    "synthmorph-brains",
    "synthmorph-shapes",
    "voxelmorph-t1",
    "fastsurfer-cnn",
    *HSF,
    *(f"{name}-prev" for name in HSF),
    "fcd-mobilenet",
]


@pytest.fixture(scope="module")
def content() -> dict:
    return json.loads((TOP / "weights_registry.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads((TOP / "weights_registry.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_registry_follows_its_schema(validator, content):
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.update(colour="blue"),
        lambda model: model.pop("licence"),
        lambda model: model.update(status="done"),
        lambda model: model["files"][0]["digest"].update(value="123"),
        lambda model: model["files"][0]["sources"][0].update(url="http://example.org/f"),
        lambda model: model["files"][0].update(name="../evil"),
        lambda model: model["files"][0]["sources"][0].update(member="/etc/passwd"),
    ],
)
def test_schema_refuses(validator, content, damage):
    broken = json.loads(json.dumps(content))
    damage(broken["models"][0])
    assert not validator.is_valid(broken)


def test_every_name_is_there():
    assert registry.names() == NAMES


def test_names_match_a_pattern():
    assert registry.names("kwyk-*") == ["kwyk-bwn", "kwyk-bwn-multi", "kwyk-bvwn-multi-prior"]
    assert registry.names("nothing*") == []


def test_ready_are_the_implemented_ones():
    ready = [card.name for card in registry.cards() if card.status == "ready"]
    assert ready == NAMES[:-1]


@pytest.mark.parametrize("card", registry.cards(), ids=lambda card: card.name)
def test_card_is_consistent(card: ModelCard):
    assert {file.part for file in card.files} <= set(card.parts or ("",))
    assert len({file.name for file in card.files}) == len(card.files)
    assert set(card.needs.values()) <= set(registry.names())
    assert card.name not in card.needs.values()
    assert all(file.digest is not None and file.sources for file in card.files)
    if card.files:
        assert {file.part for file in card.files} == set(card.parts or ("",))


@pytest.mark.parametrize("card", registry.cards(), ids=lambda card: card.name)
def test_card_survives_a_round_trip_through_json(card: ModelCard):
    plain = json.loads(json.dumps(registry.as_dict(card)))
    assert registry.card_from_dict(plain) == card


def test_registry_content_is_what_the_cards_say(content):
    assert [registry.as_dict(registry.card_from_dict(entry)) for entry in content["models"]] == [
        registry.as_dict(card) for card in registry.cards()
    ]


def test_cards_cannot_be_changed():
    card = registry.get("nobrainer-brainy")
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        card.config["filters"] = 8  # type: ignore[index]
    assert isinstance(card.input["images"], tuple)
    assert hash(card) == hash(registry.card_from_dict(registry.as_dict(card)))


def test_the_same_card_is_returned_every_time():
    assert registry.get("deepbet") is registry.get("deepbet")


def test_unknown_name_lists_the_nearest():
    with pytest.raises(ModelNotFound, match=r"'nobrainer-brainy'.*kerasneuro list"):
        registry.get("nobrainer-brany")
    with pytest.raises(ModelNotFound, match="kerasneuro list"):
        registry.get("")


def test_deepbet_files():
    card = registry.get("deepbet")
    assert card.parts == ("bbox", "brain")
    brain = card.files[1]
    assert (brain.name, brain.part, brain.bytes) == ("model.pt", "brain", 8_698_000)
    assert brain.digest == Digest(
        "sha256", "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd"
    )
    assert [source.kind for source in brain.sources] == ["wheel", "git-blob"]
    assert brain.sources[0].member == "data/models/model.pt"
    assert str(brain) == f"model.pt (8,698,000 bytes, sha256 {brain.digest.value})"


def test_graph_only_model_has_no_files():
    card = registry.get("nobrainer-unet")
    assert card.files == () and "graph only" in card.summary
    assert dict(card.config) == {"filters": 16, "n_classes": 1, "batchnorm": False}


def test_dataset_sources_name_where_to_clone_from():
    source = registry.get("nobrainer-brainy").files[0].sources[0]
    assert source == Source(
        kind="datalad",
        dataset="neuronets/trained-models",
        url="https://github.com/neuronets/trained-models",
        commit="33877bb5d87de0d2c8223861ef978a704f23255e",
        path="neuronets/brainy/0.1.0/weights/brain-extraction-unet-128iso-model.h5",
    )


def test_no_model_is_meant_for_diagnosis():
    assert all("never" in card.intended_use.lower() for card in registry.cards())


def test_sample_image():
    sample = registry.samples()["t1-group-average"]
    assert sample.file.format == "image" and sample.file.bytes == 8_178_557
    assert sample.file.sources[0].wheel == "pydeface-2.1.0-py3-none-any.whl"
    with pytest.raises(TypeError):
        registry.samples()["other"] = sample  # type: ignore[index]


def test_importing_the_registry_loads_no_heavy_package():
    import subprocess
    import sys

    code = (
        "import sys, kerasneuro.registry as r; r.cards();"
        "print({'numpy', 'keras', 'jsonschema', 'requests'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
