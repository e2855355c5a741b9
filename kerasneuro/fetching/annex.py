"""Drive git-annex or DataLad as programs: clone a dataset, get one file, follow the progress."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from kerasneuro.fetching.annex_reasons import one_sentence
from kerasneuro.fetching.receive import Progress, SourceFailed

SILENT_SECONDS = 600.0
CLONE_SECONDS = 1800.0
# Stands between us and a program and ends it when we are gone, which closes our end of the pipe: git-annex
# whose caller was killed would hang and keep its transfer lock.
SUPERVISOR = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL) if hasattr(os, "killpg") else child.kill()
threading.Thread(target=end, daemon=True).start()
code = child.wait()
os._exit(code if code >= 0 else 1)
"""
SUPERVISED = (sys.executable, "-I", "-S", "-c", SUPERVISOR)
# The worker finds the packages that this process finds; PYTHONPATH would also reach programs that it starts.
WORKER = (
    "import sys; sys.path[:] = {paths!r}; "
    "from kerasneuro.fetching.datalad_worker import main; sys.exit(main())"
)


class DataladUnusable(Exception):
    """DataLad is installed but does not import; git-annex alone is used."""


class Tool(Protocol):
    """Clone a dataset and get one file of a clone; failures are ``SourceFailed``."""

    def clone(self, origin: str, target: Path) -> None:
        """Clone a dataset, without any content."""

    def get(self, clone: Path, path: str, progress: Progress | None) -> None:
        """Get the content of one file."""


class Program:
    """A running program that is spoken with in lines; it is ended when it is silent for too long."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            list(command), env=dict(environment), cwd=folder, text=True, encoding="utf-8", errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, start_new_session=True,
        )  # fmt: skip
        self.was_silent = False
        self._spoke = time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            assert stream is not None
            with suppress(OSError):
                stream.close()

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one line of JSON."""
        assert self.process.stdin is not None
        self._spoke = time.monotonic()
        with suppress(OSError):  # If it has ended, reading says so.
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield each line of output that is a JSON object."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._spoke = time.monotonic()
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record

    def error_text(self) -> str:
        """Return what the program wrote to its error output, or that it was ended."""
        if self.was_silent:
            return f"was silent for {SILENT_SECONDS:g} s and was ended"
        self.process.wait()
        self.errors.seek(0)
        return self.errors.read()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            if time.monotonic() - self._spoke > SILENT_SECONDS:
                self.was_silent = True
                self._kill()
                return

    def _kill(self) -> None:
        """End the program and what it has started."""
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()


class GitAnnex:
    """git and git-annex without DataLad."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def clone(self, origin: str, target: Path) -> None:
        """Clone a dataset, without any content and without announcing the clone to anybody."""
        if origin.startswith(("ria+", "osf://", "//")):
            raise SourceFailed("this clone source needs DataLad (pip install 'kerasneuro[datalad]')")
        run_git(["clone", "-q", "--", origin, str(target)], self.environment, target.parent)
        run_git(["config", "annex.private", "true"], self.environment, target)
        run_git(["annex", "init"], self.environment, target)

    def get(self, clone: Path, path: str, progress: Progress | None) -> None:
        """Get the content of one file from the remotes in git-annex's order."""
        options = ["--json", "--json-progress", "--json-error-messages", "-c", "annex.retry=3"]
        command = [*SUPERVISED, "git", "annex", "get", *options, "--", path]
        with Program(command, self.environment, clone) as program:
            last: dict[str, Any] = {}
            for record in program.records():
                if "byte-progress" not in record:
                    last = record
                elif progress is not None:
                    total = record.get("total-size")
                    progress(int(record["byte-progress"]), None if total is None else int(total))
            if last.get("success"):
                return
            messages = [*last.get("error-messages", ()), str(last.get("note", ""))]
            if last.get("wanted"):  # Places that are known to hold it, none of which is a remote here.
                messages.append("Try making some of these repositories available")
            raise SourceFailed(one_sentence("\n".join([program.error_text(), *messages])))


class Datalad:
    """DataLad in a process of its own, so that nothing of it reaches the user's process."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._program = Program([sys.executable, "-c", WORKER.format(paths=sys.path)], environment, folder)

    def __enter__(self) -> Datalad:
        self._program.__enter__()
        try:
            self._answer(None)
        except SourceFailed as error:
            self._program.__exit__()
            raise DataladUnusable(str(error)) from error
        return self

    def __exit__(self, *error: object) -> None:
        self._program.__exit__(*error)

    def clone(self, origin: str, target: Path) -> None:
        """Clone a dataset, without any content."""
        self._program.send({"do": "clone", "origin": origin, "clone": str(target)})
        self._answer(None)

    def get(self, clone: Path, path: str, progress: Progress | None) -> None:
        """Get the content of one file, never of the dataset."""
        self._program.send({"do": "get", "clone": str(clone), "path": path})
        self._answer(progress)

    def _answer(self, progress: Progress | None) -> None:
        for record in self._program.records():
            if "done" in record:
                if progress is not None:
                    progress(int(record["done"]), None if record["total"] is None else int(record["total"]))
            elif record.get("ok"):
                return
            else:
                raise SourceFailed(one_sentence(str(record.get("error", ""))))
        raise SourceFailed(f"DataLad ended: {one_sentence(self._program.error_text())}")


def run_git(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    """Run git to its end and return its output.

    Raises
    ------
    SourceFailed
        If it fails, with the reason in one sentence.
    """
    beginning, end = os.pipe()  # Never written to; closing it ends the program.
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        os.close(end)

    timer = threading.Timer(CLONE_SECONDS, expire)
    timer.start()
    try:
        result = subprocess.run(
            [*SUPERVISED, "git", *arguments], env=dict(environment), cwd=folder, check=False, text=True,
            capture_output=True, encoding="utf-8", errors="replace", stdin=beginning, start_new_session=True,
        )  # fmt: skip
    finally:
        timer.cancel()
        os.close(beginning)
        if not expired.is_set():
            os.close(end)
    if expired.is_set():
        raise SourceFailed(f"git did not finish within {CLONE_SECONDS:g} s")
    if result.returncode != 0:
        raise SourceFailed(one_sentence(f"{result.stdout}\n{result.stderr}"))
    return result.stdout.strip()
