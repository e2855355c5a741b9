"""Remember which licences the user has been shown, so that each is told once."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import date

from kerasneuro.fetching.cache import cache_directory, mark, write_whole
from kerasneuro.registry import Licence

FILE_NAME = "licences.json"


def is_new(name: str, licence: Licence) -> bool:
    """Say whether a model's (or sample's) licence has not been shown yet, or has changed since; note it.

    Where the cache cannot be written, the licence counts as new again next time.

    Parameters
    ----------
    name : str
        Registry name of the model or sample.
    licence : Licence
        The licence of its files.
    """
    record = {"name": licence.name, "grant": licence.grant, "read": licence.read}
    shown = _read()
    known = shown.get(name)
    if isinstance(known, dict) and record.items() <= known.items():
        return False
    # Two processes at once may lose one of two entries: that licence is then shown once more.
    shown[name] = {**record, "shown": date.today().isoformat()}
    with suppress(OSError):
        text = json.dumps(shown, indent=2, sort_keys=True, ensure_ascii=False)
        write_whole(mark() / FILE_NAME, text + "\n")
    return True


def _read() -> dict[str, object]:
    try:
        shown = json.loads((cache_directory() / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return shown if isinstance(shown, dict) else {}
