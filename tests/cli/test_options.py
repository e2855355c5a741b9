"""The keywords of a task become options, with their help and the original tool's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest

from kerasneuro import registry
from kerasneuro.cli.options import (
    Kind,
    given,
    parameter_texts,
    prediction_options,
    read_annotation,
    task_options,
)
from kerasneuro.cli.run import collect_scans, parse_outputs, parse_weights, role_options
from kerasneuro.errors import InvalidOption
from kerasneuro.inference.settings import Settings
from kerasneuro.tasks import Task


class Example(Task):
    roles = ("moving", "fixed")
    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "n_dilate": ("-d", "--n_dilate"),
        "block_shape": ("-b",),
        "moving": ("-m",),
        "clean": ("-o",),  # taken by the output: left out
    }

    def __call__(
        self,
        image: Any,
        *,
        n_dilate: int = 0,
        clean: bool = True,
        resize: tuple[int, int, int] | None = (8, 8, 8),
        seed: int | None = None,
        space: str = "conformed",
        **prediction: Any,
    ) -> Any:
        """Do nothing.

        Parameters
        ----------
        image : path
            The scan.
        n_dilate : int
            Grow the mask
            by `n_dilate` voxels.
        clean, seed : bool or int
            Shared text.

        Returns
        -------
        resize : no parameter
            Not a help text.
        """


def parse(*arguments: str) -> dict[str, Any]:
    taken = {"-o"}
    options = [
        *task_options(Example, taken),
        *role_options(Example, taken),
        *prediction_options(Example, taken),
    ]
    command = click.Command("run", params=[click.Argument(["images"], nargs=-1), *options])
    return command.make_context("run", list(arguments)).params


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("int", Kind("int", 1, False)),
        ("float | None", Kind("float", 1, True)),
        ("None | str", Kind("str", 1, True)),
        ("tuple[int, int, int] | None", Kind("int", 3, True)),
        (tuple[float, float], Kind("float", 2, False)),
        (bool, Kind("bool", 1, False)),
    ],
)
def test_annotations(annotation: Any, expected: Kind) -> None:
    assert read_annotation(annotation) == expected


def test_help_texts_come_from_the_parameters_section_alone() -> None:
    texts = parameter_texts(Example)
    assert texts["n_dilate"] == "Grow the mask by n_dilate voxels."
    assert texts["clean"] == texts["seed"] == "Shared text."
    assert "resize" not in texts


def test_nothing_given_leaves_every_default_to_the_task() -> None:
    assert given(parse(), Example) == ({}, {})


@pytest.mark.parametrize(
    ("arguments", "keywords", "prediction"),
    [
        (["--n-dilate", "-2"], {"n_dilate": -2}, {}),
        (["--n_dilate", "3"], {"n_dilate": 3}, {}),
        (["-d", "3", "--no-clean"], {"n_dilate": 3, "clean": False}, {}),
        (["--clean"], {"clean": True}, {}),
        (["--resize", "1", "2", "3"], {"resize": (1, 2, 3)}, {}),
        (["--no-resize"], {"resize": None}, {}),
        (["--space", "native"], {"space": "native"}, {}),
        (["--block", "16", "16", "8"], {}, {"block_shape": (16, 16, 8)}),
        (["-b", "16", "16", "8"], {}, {"block_shape": (16, 16, 8)}),
        (["--overlap", "0.5", "--merge", "hann"], {}, {"overlap": 0.5, "merge": "hann"}),
        (["--batch-size", "4", "--max-memory", "2GB"], {}, {"batch_size": 4, "max_memory": "2GB"}),
        (["--engine", "eager", "--device", "cpu"], {}, {"engine": "eager", "device": "cpu"}),
        (["--precision", "bfloat16", "--flips"], {}, {"precision": "bfloat16", "flips": True}),
    ],
)
def test_options_reach_the_call(
    arguments: list[str], keywords: dict[str, Any], prediction: dict[str, Any]
) -> None:
    assert given(parse(*arguments), Example) == (keywords, prediction)
    Settings().updated(**prediction)


def test_images_by_role_or_by_order(tmp_path: Path) -> None:
    one, two = Path("a.nii"), Path("b.nii")

    def scans(*arguments: str) -> list[dict[str, Path]]:
        values = parse(*arguments)
        return collect_scans(Example, tuple(map(Path, values.pop("images"))), values)

    expected = [{"moving": one, "fixed": two}]
    assert scans("a.nii", "b.nii") == expected
    assert scans("--fixed", "b.nii", "a.nii") == expected
    assert scans("--fixed", "b.nii", "--moving", "a.nii") == expected
    assert scans("-m", "a.nii", "b.nii") == expected
    for wrong in (["a.nii"], ["a.nii", "b.nii", "c.nii"], ["--fixed", "b.nii"], []):
        with pytest.raises(click.UsageError, match="moving, fixed"):
            scans(*wrong)


def test_weights_by_part_and_by_order() -> None:
    card = registry.get("deepbet")
    assert parse_weights((), card) is None
    assert parse_weights(("x=1.pt",), card) == Path("x=1.pt")  # no part of this name: it is a path
    assert parse_weights(("a.pt", "b.pt"), card) == [Path("a.pt"), Path("b.pt")]
    assert parse_weights(("brain=b.pt", "bbox=a.pt"), card) == {"brain": Path("b.pt"), "bbox": Path("a.pt")}
    with pytest.raises(InvalidOption, match="PART=PATH"):
        parse_weights(("brain=b.pt", "a.pt"), card)
    with pytest.raises(InvalidOption, match="twice"):
        parse_weights(("brain=b.pt", "brain=a.pt"), card)


def test_output_names() -> None:
    assert parse_outputs(None) is None
    assert parse_outputs("mask, table,") == ("mask", "table")
    with pytest.raises(InvalidOption):
        parse_outputs(" , ")


@pytest.mark.parametrize("name", [card.name for card in registry.cards() if card.status != "planned"])
def test_every_keyword_of_every_ready_model_is_in_its_help(name: str, call: Any) -> None:
    import inspect

    from kerasneuro.networks import task_class

    task = task_class(registry.get(name))
    outcome = call("run", name, "--help")
    assert outcome.code == 0
    words = set(outcome.out.replace(",", " ").split())
    for parameter in inspect.signature(task.__call__).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert f"--{parameter.name.replace('_', '-')}" in words
            assert parameter_texts(task)[parameter.name], "the docstring describes every option"
    for common in ("--weights", "--block", "--report", "--overwrite", "--json", "--verbose", "--device"):
        assert common in words
