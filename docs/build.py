"""Write the documents that follow from data: model cards and the tables of the README.

``python docs/build.py`` writes them; ``--check`` changes nothing and exits with 1 if one is out of date.
The README's tables stand between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kerasneuro import registry  # noqa: E402  (the checkout comes first, installed or not)
from kerasneuro.registry import ModelCard, WeightFile  # noqa: E402

STATUS = {
    "ready": "ready",
    "planned": "planned: registered, not loadable yet",
    "bring-your-weights": "bring your own weights",
}


def cell(text: object) -> str:
    """Make text fit a Markdown table cell."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def model_table() -> str:
    """Return the table of all models."""
    lines = ["| name | task | parameters | status | weights' licence |", "|---|---|---:|---|---|"]
    for card in registry.published().values():
        parameters = "" if card.parameters is None else f"{card.parameters:,}"
        lines.append(
            f"| [{card.name}](docs/models/{card.name}.md) | {card.task} | {parameters} "
            f"| {card.status} | {cell(card.licence.name)} |"
        )
    ready = sum(card.status == "ready" for card in registry.published().values())
    return "\n".join([*lines, "", f"{ready} of {len(registry.published().values())} models are ready."])


def timing_table() -> str:
    """Return the short form of the last benchmark."""
    path = ROOT / "docs" / "benchmarks.json"
    if not path.exists():
        return "Not measured yet: `make bench` fills this table."
    record = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| job | tool | backend | end to end, s | x original | peak memory, GB |",
        "|---|---|---|---:|---:|---:|",
    ]
    for case in record["cases"]:
        for row in case["rows"]:
            if row["end_to_end_s"] is None or row["peak_bytes"] is None:
                continue  # docs/benchmarks.md names what failed
            ratio = "" if row["end_to_end_ratio"] is None else f"{row['end_to_end_ratio']:.2f}"
            lines.append(
                f"| {case['title']} | {row['tool']} | {row['backend']} "
                f"| {row['end_to_end_s']:.1f} | {ratio} | {row['peak_bytes'] / 1e9:.1f} |"
            )
    machine = record["machine"]
    place = f"{record['date']}, {machine['processor']}, {machine['threads_used']} threads"
    if record["size"] != "full":
        place += ", quick run on smaller sizes"
    return "\n".join([*lines, "", f"{place}. How it was measured: [docs/benchmarks.md](docs/benchmarks.md)."])


def file_lines(file: WeightFile) -> list[str]:
    """Describe one weight file: size, digest, and where it is published."""
    lines = [f"- `{cell(file)}`" + (f": {file.note}" if file.note else "")]
    for source in file.sources:
        facts = (source.dataset, source.package, source.version, source.repository, source.commit)
        place = " ".join(fact for fact in facts if fact) or source.url or ""
        inside = source.path or source.member
        lines.append(f"  - {source.kind}: {place}" + (f", `{inside}`" if place and inside else ""))
    return lines


def contract_lines(contract: Mapping[str, Any]) -> list[str]:
    """Describe what goes in or comes out."""
    plain = {
        key: ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for key, value in contract.items()
    }
    return [f"- {key}: {value}" for key, value in plain.items()]


def agreement_lines(card: ModelCard) -> list[str]:
    """Return how far each backend is from the original package, from the last `make parity`."""
    path = ROOT / "docs" / "parity.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = [row for row in rows if row["model"] == card.name]
    if not rows:
        return []
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    lines = [f"| case | {' | '.join(backends)} |", f"|---|{'---:|' * len(backends)}"]
    for title in dict.fromkeys(row["title"] for row in rows):
        cells = {row["backend"]: row for row in rows if row["title"] == title}
        shown = [difference(cells[backend]) if backend in cells else "-" for backend in backends]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return [*lines, "", "Written by `make parity`: see [parity](../parity.md)."]


def difference(row: Mapping[str, Any]) -> str:
    """Show one difference: voxels of a mask, or the largest difference of a probability."""
    if row["kind"] == "pipeline":
        return f"{row['difference']:.0f} of {row['size']:,} voxels"
    return f"{row['difference']:.1e}"


def section(title: str, lines: list[str]) -> list[str]:
    """Return a section, or nothing where there is nothing to say."""
    return [f"## {title}", "", *lines, ""] if lines else []


def model_card(card: ModelCard) -> str:
    """Return the page of one model, with the family's own notes at the end where it has some."""
    licence = (
        f"{card.licence.name} ({card.licence.grant}; read {card.licence.read}). {card.licence.note}".strip()
    )
    parameters = [f"{card.parameters:,} parameters."] if card.parameters is not None else []
    notes = ROOT / "kerasneuro" / "models" / card.family / "card.md"
    doi = [f"https://doi.org/{card.doi}"] if card.doi else []
    lines = [
        f"# {card.name}",
        "",
        card.summary,
        "",
        f"Status: {STATUS.get(card.status, card.status)}. Task: {card.task}. {' '.join(parameters)}".strip(),
        "",
        *section("Intended use", [card.intended_use]),
        *section("Limits", [f"- {limit}" for limit in card.limits]),
        *section("Input", contract_lines(card.input)),
        *section("Output", contract_lines(card.output)),
        *section("Training data", [card.training_data] if card.training_data else []),
        *section("Reference results", [f"- {result}" for result in card.reference]),
        *section("Agreement with the original, by backend", agreement_lines(card)),
        *section("Weights", [line for file in card.files for line in file_lines(file)]),
        *section("Licence of the weights", [licence]),
        *section("Please cite", [card.citation, *doi]),
        *section("Notes", notes.read_text(encoding="utf-8").strip().splitlines() if notes.exists() else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between a pair of markers."""
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(
            f"README.md has no markers for {name!r}: <!-- begin {name} --> ... <!-- end {name} -->"
        )
    return pattern.sub(lambda match: f"{match.group(1)}{content}\n{match.group(2)}", text)


def documents() -> dict[Path, str]:
    """Return every generated document: path -> text."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = fill(fill(readme, "models", model_table()), "timings", timing_table())
    cards = {
        ROOT / "docs" / "models" / f"{card.name}.md": model_card(card)
        for card in registry.published().values()
    }
    return {ROOT / "README.md": readme, **cards}


def main() -> int:
    """Write the documents, or with --check only compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 if something is stale"
    )
    check = parser.parse_args().check
    wanted = documents()
    stale = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    left_over = [path for path in (ROOT / "docs" / "models").glob("*.md") if path not in wanted]
    for path in [*stale, *left_over]:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}")
    if check:
        return 1 if stale or left_over else 0
    for path in left_over:
        path.unlink()
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
