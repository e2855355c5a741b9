"""The description of a third party's model: read from YAML or JSON, and turned into a card entry."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kerasneuro.errors import InvalidOption, MissingDependency
from kerasneuro.hub.contract import check_keys, input_of, is_whole, output_of, read_contract
from kerasneuro.registry import bag_parts

MOST_BYTES = 1 << 20
FAMILIES = ("hsf", "onnx")
SUFFIX = ".onnx"
SOUND_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
NAME_RULE = "lowercase letters, digits and single hyphens between them"
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
DIGESTS = {"sha256": 64, "xxh3_64": 16, "md5": 32}  # hexadecimal digits, the strongest first
REQUIRED = ("name", "family", "summary", "files", "labels", "licence", "citation")
OPTIONAL = ("classes", "contract", "doi", "training_data")
FILE_KEYS = ("name", "url", "path", "bytes", *DIGESTS)
DOI = re.compile(r"10\.[0-9]{4,9}/\S+")
USE = "Research. Never for diagnosis or for decisions about the care of a person."
LIMITS = ("Added by the user: not examined by the authors of kerasneuro",)


def read_description(path: Path) -> dict[str, Any]:
    """Read a description; YAML by its safe loader, so that nothing in it is run.

    Raises
    ------
    InvalidOption
        If the file cannot be read, or is no mapping.
    MissingDependency
        If it is YAML, and PyYAML is not installed.
    """
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise InvalidOption(
            f"expected a description (.yaml, .yml or .json) or the folder of a saved model, found {path}"
        )
    try:
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise InvalidOption(f"{path} is larger than a description can be ({MOST_BYTES:,} bytes)")
        text = raw.decode("utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else _parse_yaml(text, path)
    except OSError as error:
        raise InvalidOption(f"the description {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidOption):
            raise
        raise InvalidOption(f"the description {path} is damaged: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidOption(f"{path} must hold keys and their values ({', '.join(REQUIRED)}), found none")
    return content


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependency(
            "a description in YAML needs PyYAML; install it with: pip install pyyaml, or write it as JSON"
        ) from error
    try:
        # An alias repeats a part of the text, and a few of them can fill the memory.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InvalidOption(
                f"{path} has aliases (*name), which a description does without; write them out"
            )
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        place = f" in line {where.line + 1}" if where else ""
        raise InvalidOption(f"{path} is not YAML{place}: {getattr(error, 'problem', error)}") from error


def describe(content: Mapping[str, Any], path: Path, today: str) -> dict[str, Any]:
    """Turn a description into an entry as the registry has them.

    Parameters
    ----------
    content : mapping
        From `read_description`.
    path : Path
        Where it was read; files on this computer lie in its folder or below.
    today : str
        Date, ISO 8601.

    Raises
    ------
    InvalidOption
        With the first thing that is missing, unknown or not allowed.
    """
    check_keys(content, (*REQUIRED, *OPTIONAL), REQUIRED, str(path))
    name, family = _text(content, "name", path), _text(content, "family", path)
    if not SOUND_NAME.fullmatch(name):
        raise InvalidOption(f"{path}: the name {name!r} is not allowed: {NAME_RULE}")
    if family not in FAMILIES:
        raise InvalidOption(f"{path}: family is one of {', '.join(FAMILIES)}, found {family!r}")
    labels = _labels(content, path)
    files = _files(content["files"], path)
    if family == "onnx" and len(files) > 1:
        raise InvalidOption(
            f"{path}: family onnx takes one file, found {len(files)}; networks that vote are of hsf"
        )
    parts = bag_parts(len(files)) if len(files) > 1 else ()
    for part, file in zip(parts or ("",), files, strict=True):
        file["part"] = part
    doi = content.get("doi")
    if doi is not None and not (isinstance(doi, str) and DOI.fullmatch(doi)):
        raise InvalidOption(f"{path}: doi has the form 10.1234/abc, found {doi!r}")
    contract = read_contract(content.get("contract") or {}, family, f"{path}: contract")
    return {
        "name": name,
        "family": family,
        "status": "ready",
        "task": "segmentation",
        "summary": _text(content, "summary", path),
        "licence": _licence(content["licence"], path, today),
        "citation": _text(content, "citation", path),
        "doi": doi,
        "training_data": _text(content, "training_data", path, "Not stated."),
        "parameters": None,
        "intended_use": USE,
        "parts": list(parts),
        "files": files,
        "limits": list(LIMITS),
        "needs": {"localisation": "synthmorph-affine"} if family == "hsf" else {},
        "input": input_of(contract, family),
        "output": output_of(contract, family, labels),
        "third_party": {"added": today, "described_by": path.name},
    }


def _text(content: Mapping[str, Any], key: str, path: Path, default: str = "") -> str:
    value = content.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise InvalidOption(f"{path}: {key} must be a text (in quotes), found {value!r}")
    return value.strip()


def _labels(content: Mapping[str, Any], path: Path) -> list[str]:
    labels = content["labels"]
    sound = isinstance(labels, list) and all(isinstance(label, str) and label.strip() for label in labels)
    if not sound or len(labels) < 2 or len(set(labels)) < len(labels):
        raise InvalidOption(
            f"{path}: labels lists two different names at least, the background first, found {labels!r}"
        )
    if content.get("classes", len(labels)) != len(labels):
        raise InvalidOption(f"{path}: classes is {content['classes']!r}, but {len(labels)} labels are listed")
    return [label.strip() for label in labels]


def _licence(value: Any, path: Path, today: str) -> dict[str, str]:
    if isinstance(value, str):
        value = {"name": value}
    check_keys(value, ("name", "url"), ("name",), f"{path}: licence")
    name, url = _text(value, "name", path), _text(value, "url", path, "as stated in the description")
    return {"name": name, "grant": url, "read": today}


def _files(entries: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(entries, list):
        raise InvalidOption(
            f"{path}: files is a list, one item for each weight file, found {str(entries)[:60]!r}"
        )
    files = [_file(entry, path, f"{path}: file {number}") for number, entry in enumerate(entries, start=1)]
    names = [file["name"] for file in files]
    if len(set(names)) < len(names):
        raise InvalidOption(f"{path}: every file needs a name of its own, found {', '.join(names)}")
    return files


def _file(entry: Any, path: Path, where: str) -> dict[str, Any]:
    check_keys(entry, FILE_KEYS, (), where)
    if ("url" in entry) == ("path" in entry):
        raise InvalidOption(f"{where} needs either url or path")
    local = _inside(entry["path"], path, where) if "path" in entry else None
    if local is None:
        place = _sound_url(entry["url"], where)
        source = {"kind": "https", "url": entry["url"]}
    else:
        place, source = local.name, {"kind": "file", "path": str(local)}
    name = entry.get("name", place)
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise InvalidOption(
            f"{where}: {name!r} cannot be the name of a file (letters, digits, '.', '_', '-')"
        )
    if not name.lower().endswith(SUFFIX):
        raise InvalidOption(
            f"{where}: a weight file is an ONNX graph ({SUFFIX}), which holds no code; {name} is not taken"
        )
    size = entry.get("bytes", local.stat().st_size if local else None)
    if size is not None and not is_whole(size, 1):
        raise InvalidOption(f"{where}: bytes is a whole number of at least 1, found {size!r}")
    digest = _digest(entry, where)
    return {"name": name, "part": "", "format": "onnx", "bytes": size, "digest": digest, "sources": [source]}


def _digest(entry: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return the strongest digest; one is required."""
    for algorithm, length in DIGESTS.items():
        value = entry.get(algorithm)
        if value is None:
            continue
        if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", value):
            raise InvalidOption(
                f"{where}: {algorithm} is a text (in quotes) of {length} hexadecimal digits, found {value!r}"
            )
        return {"algorithm": algorithm, "value": value.lower()}
    raise InvalidOption(
        f"{where} has no digest; give its sha256, xxh3_64 or md5, so that the bytes can be verified"
    )


def _sound_url(url: Any, where: str) -> str:
    """Return the file name that an address ends with."""
    parts = urlsplit(url) if isinstance(url, str) and re.fullmatch(r"[\x21-\x7e]{1,2000}", url) else None
    if parts is None or parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
        raise InvalidOption(f"{where}: url is an https address without a password, found {str(url)[:200]!r}")
    return unquote(parts.path).rsplit("/", 1)[-1]


def _inside(value: Any, path: Path, where: str) -> Path:
    """Return the absolute path of a file that lies in the folder of the description, or below."""
    folder = path.resolve().parent
    found = (folder / value).resolve() if isinstance(value, str) and value else None
    if found is None or not found.is_relative_to(folder):
        raise InvalidOption(
            f"{where}: path leads to a file in the folder of {path.name} or below, found {value!r}"
        )
    if not found.is_file():
        raise InvalidOption(f"{where}: {found} does not exist")
    return found
