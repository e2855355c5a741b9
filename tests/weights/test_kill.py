"""kill -9 while a file is written: afterwards it is whole or absent, and what was left is cleaned up."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from kerasneuro import networks, registry
from kerasneuro.weights import read, write_flat

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]
KILLS, CONVERSIONS = 50, 20  # a whole conversion takes longer than its writing alone
WHOLE = "the old file or the new one, whole; the next write removes what was left"
Row = Callable[[str, str, str], None]
ROOT = Path(__file__).resolve().parents[2]

# One warm process that is quick to start others: each writes, and is killed after a part of the time (read
# from a line) that a whole write takes.
DRIVER = """
import os, signal, sys, time
{setup}

def begin(generation):
    child = os.fork()
    if child == 0:
        try:
            write(generation)
        finally:
            os._exit(0)
    return child

write(0)
start = time.perf_counter()
os.waitpid(begin(0), 0)
whole = time.perf_counter() - start
for generation, line in enumerate(sys.stdin, start=1):
    child, end = begin(generation), time.perf_counter() + float(line) * whole
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.perf_counter() < end:
        time.sleep(whole / 200)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(generation, flush=True)
"""

FLAT = """
import numpy as np
import h5py, psutil
from kerasneuro.weights import write_flat

def write(generation):
    arrays = ((f"layer_{{number}}", np.full((16, 1000), generation, "f4")) for number in range(20))
    write_flat({path!r}, arrays, {{"generation": str(generation)}})
"""


@contextmanager
def killer(setup: str) -> Iterator[Callable[[], int]]:
    """Run the driver; the object it lends kills one write and returns its number."""
    random.seed(9)
    patience = cycle([1, 1, 1, 1, 8])
    command = [sys.executable, "-c", DRIVER.format(setup=setup)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as driver:
        assert driver.stdin and driver.stdout

        def kill() -> int:
            # Some writes end in time, however busy the computer is.
            driver.stdin.write(f"{next(patience) * random.uniform(0.0, 1.2)}\n")
            driver.stdin.flush()
            return int(driver.stdout.readline())

        yield kill
        driver.stdin.close()


def attempts(least: int, outcomes: Collection[bool]) -> Iterator[int]:
    """Count to `least`, and on until both outcomes have been seen: a busy machine shifts the moments."""
    for attempt in range(3 * least):
        if attempt >= least and len(outcomes) == 2:
            return
        yield attempt


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_write_flat_killed_at_random_moments(tmp_path: Path, fault_table: Row) -> None:
    path = tmp_path / "out.h5"
    last, left = 0, 0
    replaced: set[bool] = set()
    with killer(FLAT.format(path=str(path))) as kill:
        for _ in attempts(KILLS, replaced):
            attempt = kill()
            with read(path) as store:
                found = int(store.attributes["generation"])
                assert len(store) == 20
                assert all((array.read() == found).all() for array in store.values())
            assert found in (last, attempt)
            replaced.add(found == attempt)
            left, last = left + bool(leftovers(tmp_path)), found
            assert len(leftovers(tmp_path)) <= 1, "the next write removes what the last one left"
    assert len(replaced) == 2 and left, (replaced, left)
    write_flat(path, {"last": np.ones(2)}, {})
    assert [item.name for item in tmp_path.iterdir()] == ["out.h5"]
    fault_table("kill -9, 50 times at random moments", "file of our own format", WHOLE)


def test_a_file_that_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        write_flat(path, {"inner": np.ones(2)}, {})
        yield "outer", np.zeros(2)

    write_flat(path, arrays(), {})
    with read(path) as store:
        assert list(store) == ["outer"]


# --- the cache of converted files ----------------------------------------------------------------------

CONVERTED = """
from pathlib import Path
import h5py, psutil
import numpy as np
from kerasneuro.networks import keep_converted
from kerasneuro.weights import read

class Variable(np.ndarray):  # what keep_converted needs of one, without a backend's threads to fork
    path = ""

class Model:
    variables = []

with read({copy!r}) as store:
    config = store.attributes["config"]
    for name, array in store.items():
        Model.variables.append(array.read().view(Variable))
        Model.variables[-1].path = name
import json, keras

def write(generation):
    Path({copy!r}).unlink(missing_ok=True)
    keep_converted(Model, Path({copy!r}), json.loads(config), {sha256!r})
"""


def test_converted_cache_killed_at_random_moments(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_table: Row
) -> None:
    from kerasneuro.models.nobrainer import graph, weights

    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path))
    monkeypatch.setattr(networks, "NATIVE_FORMATS", ())  # as if the file came from another framework
    source = fixtures / "nobrainer" / "unet_b1_full.h5"
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    card = registry.get("nobrainer-brainy")

    def load() -> dict[str, np.ndarray]:
        from keras import ops

        model = networks.load_part(card, graph, weights, "", source, {}, sha256)
        return {item.path: np.array(ops.convert_to_numpy(item)) for item in networks.weights_of(model)}

    expected = load()
    (copy,) = (tmp_path / "converted").rglob("*.h5")
    whole: set[bool] = set()
    with killer(CONVERTED.format(copy=str(copy), sha256=sha256)) as kill:
        for attempt in attempts(KILLS, whole):
            kill()
            assert {path for path in copy.parent.iterdir() if path.suffix == ".h5"} <= {copy}
            whole.add(copy.exists())
            if copy.exists():
                with read(copy) as store:
                    assert json.loads(store.attributes["config"])
                    assert store.keys() == expected.keys()
                    for name, values in expected.items():
                        np.testing.assert_array_equal(store[name].read(), values)
            if attempt % 20 == 0:
                found = load()
                assert all(np.array_equal(found[name], values) for name, values in expected.items())
    assert len(whole) == 2, whole
    copy.unlink(missing_ok=True)
    load()
    assert list(copy.parent.iterdir()) == [copy]
    fault_table("kill -9, 50 times at random moments", "cache of converted files", WHOLE)


# --- kerasneuro convert --------------------------------------------------------------------------------

CONVERT = """
import h5py, psutil, keras
from kerasneuro.converting import convert_weights

def write(generation):
    convert_weights({source!r}, "nobrainer-brainy", {target!r}, overwrite=True)
"""


def test_convert_killed_at_random_moments(fixtures: Path, tmp_path: Path, fault_table: Row) -> None:
    source, target = fixtures / "nobrainer" / "unet_b1_full.h5", tmp_path / "out.h5"
    whole: set[bool] = set()
    with killer(CONVERT.format(source=str(source), target=str(target))) as kill:
        kill()
        with read(target) as store:
            expected = {name: array.read() for name, array in store.items()}
        for _ in attempts(CONVERSIONS, whole):
            before = target.stat().st_mtime_ns if target.exists() else 0
            target.unlink(missing_ok=True)
            kill()
            whole.add(target.exists())
            if target.exists():
                assert target.stat().st_mtime_ns > before
                with read(target) as store:
                    assert store.keys() == expected.keys()
                    for name, values in expected.items():
                        np.testing.assert_array_equal(store[name].read(), values)
    assert len(whole) == 2, whole
    write_flat(target, expected, {})
    assert list(tmp_path.iterdir()) == [target]
    fault_table("kill -9, 20 times at random moments", "kerasneuro convert", WHOLE)
