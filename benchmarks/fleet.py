"""Start the workers of several tools, keep them alive, and let them take turns."""

from __future__ import annotations

import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUR_PYTHON = Path(sys.executable)
PATIENCE_S = 600
SLOW_S = 20.0
SLOW_CALLS = 2
PAUSE_S = 0.05
"""Between two tools: idle threads of the one before may spin for a moment."""


@dataclass(frozen=True)
class Contender:
    """One way to do a job: the tool, its form or backend, its Python and its worker script."""

    tool: str
    backend: str
    python: Path
    script: str
    options: tuple[str, ...] = ()
    is_reference: bool = False
    device: str = "cpu"


class WorkerFailed(Exception):
    """A worker answered with an error, died, or took too long."""


class Worker:
    """One live process that answers one command at a time."""

    def __init__(self, contender: Contender, threads: int, extra: Sequence[str] = ()) -> None:
        command = [str(contender.python), str(HERE / contender.script), "--threads", str(threads)]
        command += ["--device", contender.device, *contender.options, *extra]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self.process = subprocess.Popen(
            command,
            env=environment(contender),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.versions: dict[str, str] = {}

    def wait_until_ready(self) -> None:
        """Wait for the imports."""
        self.versions = self._read()["versions"]

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Send a command and return the answer.

        Raises
        ------
        WorkerFailed
            If the answer is an error, or none comes.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._last_words()) from None
        reply = self._read()
        if "error" in reply:
            raise WorkerFailed(reply["error"].strip())
        return reply

    def _read(self) -> dict[str, Any]:
        stream = self.process.stdout
        assert stream is not None
        # A worker writes one line per command, so the wait and the reader's buffer cannot disagree.
        if not select.select([stream], [], [], PATIENCE_S)[0]:
            self.process.kill()
            raise WorkerFailed(f"no answer within {PATIENCE_S} s")
        line = stream.readline()
        if not line:
            raise WorkerFailed(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        self.process.wait()
        self.errors.seek(0)
        return f"ended with code {self.process.returncode}: {self.errors.read()[-3000:].strip()}"

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


def environment(contender: Contender) -> dict[str, str]:
    """Return the environment of a worker; on the processor it sees no GPU."""
    keras_backend = contender.backend if contender.tool == "kerasneuro" else "torch"
    quiet = {**os.environ, "KERAS_BACKEND": keras_backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if contender.device == "cpu":
        return {**quiet, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return {**quiet, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


@dataclass
class Series:
    """What one contender measured in one case."""

    load: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    following: list[float] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    peak: int = 0
    failure: str = ""

    def enough(self, seconds: Sequence[float]) -> bool:
        """Tell whether calls are so slow that a few must do."""
        return len(seconds) >= SLOW_CALLS and statistics.median(seconds) > SLOW_S


class Fleet:
    """The live workers of a case, with the matrix product among them."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        threads: int,
        deadline: float,
        extra: Callable[[Contender], Sequence[str]] = lambda contender: (),
    ) -> None:
        self.deadline = deadline
        device = contenders[0].device
        yardstick = Contender("matrix product", "numpy", OUR_PYTHON, "matrix_product.py", device=device)
        self.matrix = Worker(yardstick, threads)
        # All start at once: imports are not timed.
        self.workers = {each: Worker(each, threads, extra(each)) for each in contenders}
        self.failures: dict[Contender, str] = {}

    def __enter__(self) -> Fleet:
        try:
            self.matrix.wait_until_ready()
            for contender, worker in list(self.workers.items()):
                with self.noting_failure(contender):
                    worker.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process."""
        for worker in (self.matrix, *self.workers.values()):
            worker.close()

    @contextlib.contextmanager
    def noting_failure(self, contender: Contender, series: Series | None = None) -> Iterator[None]:
        """Note a failure and go on with the other tools."""
        try:
            yield
        except WorkerFailed as error:
            text = str(error)
            print(f"FAILED {contender.tool} {contender.backend}: {text}", flush=True)
            if series is None or self.workers[contender].process.poll() is not None:
                self.failures[contender] = text
            if series is not None:
                series.failure = text

    def take_turns(
        self,
        rounds: int,
        *,
        starts: int,
        load: dict[str, Any],
        run: dict[str, Any],
        prepare: dict[str, Any] | None = None,
    ) -> tuple[dict[Contender, Series], list[float]]:
        """Let every tool work once in each round; the first `starts` rounds load anew and have a first call.

        Returns the series of each tool, and the GFLOP/s of the matrix product in each round. Rounds end early
        at the deadline, and for tools that take more than 20 s per call.
        """
        series = {each: Series(failure=self.failures.get(each, "")) for each in self.workers}
        rates: list[float] = []
        for number in range(rounds):
            if number and time.monotonic() > self.deadline:
                break
            rates.append(self.matrix.ask("run")["gflops"])
            for contender, worker in self.workers.items():
                found = series[contender]
                if found.failure:
                    continue
                with self.noting_failure(contender, found):
                    if number == 0:
                        worker.ask("forget_peak")
                        if prepare is not None:
                            worker.ask("prepare", **prepare)
                    self._one_round(worker, found, number < starts, load, run)
                time.sleep(PAUSE_S)
        return series, rates

    def _one_round(
        self, worker: Worker, found: Series, start: bool, load: dict[str, Any], run: dict[str, Any]
    ) -> None:
        if start and not found.enough(found.first):
            found.load.append(worker.ask("load", **load)["seconds"])
            found.first.append(worker.ask("run", **run)["seconds"])
        elif not found.first:
            # Nothing to load (a point of a curve): the first call of a new size may compile.
            found.first.append(worker.ask("run", **run)["seconds"])
        if not found.enough(found.following):
            found.last = worker.ask("run", **run)
            found.following.append(found.last["seconds"])
            # The peak after one loading and two calls: what a user's process sees.
            found.peak = found.peak or found.last["peak_bytes"]
