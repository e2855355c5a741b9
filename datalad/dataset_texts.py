"""The texts of the weights dataset: its README, and README and licence of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerasneuro.registry import ModelCard

PROJECT_LICENCE = Path(__file__).resolve().parent.parent / "LICENSE"  # The Apache License 2.0.

MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def licence_texts() -> dict[str, str]:
    """Return the full texts of the licences that the models name, as far as they are standard texts."""
    return {
        "LICENSES/Apache-2.0.txt": PROJECT_LICENCE.read_text(encoding="utf-8"),
        "LICENSES/MIT.txt": f"MIT License\n\nThe copyright notice is that of each model's authors.\n\n{MIT}",
    }


def licence_text(card: ModelCard) -> str:
    """Say under which licence the weights of a model are, and where that is written."""
    licence = card.licence
    full = [name for name in ("Apache-2.0", "MIT") if name in licence.name]
    lines = [
        f"# Licence of the weights of {card.name}",
        "",
        f"{licence.name}",
        "",
        f"Written at: {licence.grant} (read {licence.read})",
    ]
    lines += ["", licence.note] if licence.note else []
    lines += [f"\nFull text: [LICENSES/{name}.txt](../LICENSES/{name}.txt)" for name in full]
    return "\n".join(lines) + "\n"


def model_readme(card: ModelCard, files: Sequence[Mapping[str, Any]]) -> str:
    """Describe a model and its files."""
    lines = [f"# {card.name}", "", card.summary, "", f"Intended use: {card.intended_use}", ""]
    lines += [f"Status in kerasneuro: {card.status}. Task: {card.task}. Licence: {card.licence.name}.", ""]
    lines += ["## Files", ""]
    lines += _table(files) if files else ["No public weight file is registered."]
    lines += ["", "## Source", "", card.citation]
    lines += [f"https://doi.org/{card.doi}"] if card.doi else []
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card.limits)] if card.limits else []
    return "\n".join(lines) + "\n"


def dataset_readme(cards: Sequence[ModelCard], files: Sequence[Mapping[str, Any]]) -> str:
    """Describe the dataset."""
    annexed = [item for item in files if item["path"]]
    example = annexed[0]["path"] if annexed else "PATH"
    lines = [
        "# kerasneuro-weights",
        "",
        "Published weights of neuroimaging networks, as pointers to where their authors publish them. No",
        "content is in this repository. For research only, never for diagnosis.",
        "",
        f"    datalad get {example}",
        "",
        "Each model has a folder with its files, a README.md and a LICENCE.md: the licence is that of the",
        "authors of the weights. weights.json lists every file, with its digest and all places where it is",
        "published; files without a path there cannot be fetched through git-annex, and the reason is given.",
        "",
        "| model | files | licence |",
        "|---|---:|---|",
    ]
    for card in cards:
        count = sum(item["model"] == card.name for item in annexed)
        lines.append(f"| [{card.name}]({card.name}/README.md) | {count} | {card.licence.name} |")
    return "\n".join(lines) + "\n"


def _table(files: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| file | bytes | digest | from |", "|---|---:|---|---|"]
    for item in files:
        digest = item["digest"]
        where = "<br>".join(item["urls"]) or item["reason"]
        size = "not published" if item["bytes"] is None else f"{item['bytes']:,}"
        shown = f"{digest['algorithm']} `{digest['value']}`" if digest else "not published"
        lines.append(f"| {item['name']} | {size} | {shown} | {where} |")
    return lines
