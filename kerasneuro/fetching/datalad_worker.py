"""Run DataLad for another process: one command per line of JSON comes in, records go out likewise.

Answers are ``{"ok": true}``,
``{"error": text}`` and, during a transfer, ``{"done": bytes, "total": bytes or null}``.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
from collections.abc import Iterable, Mapping
from typing import IO, Any

FAILED = ("error", "impossible")
QUIET = {"result_renderer": "disabled", "on_failure": "ignore"}


class TransferProgress(logging.Handler):
    """Turn DataLad's progress log records of single files into lines of JSON."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(logging.DEBUG)
        self._stream = stream
        self._totals: dict[str, float | None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line if the record belongs to the bar of a file, which counts bytes."""
        bar = getattr(record, "dlm_progress", None)
        label = getattr(record, "dlm_progress_label", "")
        if bar is None or label == "Total":
            return
        if getattr(record, "dlm_progress_unit", "").strip() == "Bytes":
            self._totals[bar] = getattr(record, "dlm_progress_total", None)
        done = getattr(record, "dlm_progress_update", None)
        if bar in self._totals and done is not None and not hasattr(record, "dlm_progress_increment"):
            say(self._stream, {"done": int(done), "total": self._totals[bar]})


def say(stream: IO[str], record: Mapping[str, Any]) -> None:
    """Write one line of JSON at once."""
    stream.write(json.dumps(record) + "\n")
    stream.flush()


def failure(results: Iterable[Mapping[str, Any]]) -> str | None:
    """Return what DataLad's result records say about failures, or None if there is none."""
    texts = []
    for result in results:
        if result.get("status") in FAILED:
            message = result.get("error_message") or result.get("message") or result.get("status")
            if isinstance(message, tuple) and message:  # A format and its arguments.
                message = str(message[0]) % message[1:]
            texts.append(str(message))
    return "\n".join(texts) if texts else None


def execute(api: Any, command: Mapping[str, str]) -> str | None:
    """Execute one command with the module ``datalad.api``; return the reason of a failure."""
    try:
        if command["do"] == "clone":
            source, path = command["origin"], command["clone"]
            results = api.clone(source=source, path=path, return_type="list", result_xfm=None, **QUIET)
        else:
            path = os.path.join(command["clone"], command["path"])
            results = api.get(path=path, dataset=command["clone"], return_type="list", **QUIET)
        return failure(results)
    except Exception as error:  # DataLad raises many kinds; each is the end of this command only.
        failed = getattr(error, "failed", None)
        return (failure(failed) if failed else None) or f"{type(error).__name__}: {error}"


def read_commands(stream: IO[str], commands: queue.Queue[str]) -> None:
    """Pass on the lines of the input; at its end, end this process and all that DataLad has started.

    The input also ends when the caller was killed. A transfer must not go on then: git-annex would hang
    when it reports to nobody, and keep its transfer lock.
    """
    for line in stream:
        commands.put(line)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def main() -> int:
    """Answer commands until the input ends, which ends the process; return 1 if DataLad does not import."""
    # Whatever DataLad starts must neither read the commands nor print between the records.
    given, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    commands: queue.Queue[str] = queue.Queue()
    threading.Thread(target=read_commands, args=(given, commands), daemon=True).start()
    try:
        from datalad import api
    except Exception as error:
        say(answers, {"error": f"DataLad does not import: {error}"})
        return 1
    logging.getLogger("datalad").addHandler(TransferProgress(answers))
    say(answers, {"ok": True})
    while True:
        reason = execute(api, json.loads(commands.get()))
        say(answers, {"ok": True} if reason is None else {"error": reason})
