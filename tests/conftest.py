"""What every test shares: the reference files, a cache of its own, and the rules of the backends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

# Read before the tests put the user's settings aside.
FOLDERS = os.environ.get("KERASNEURO_WEIGHTS", "")

# Tests that can not run under OpenVINO, which computes but does not train: start of the node id -> reason.
OPENVINO_SKIPS: dict[str, str] = {}

# Tests that touch no Keras, by folder and by file: one backend's run is enough for them.
BACKEND_FREE_FOLDERS = ("fetching", "volume", "report", "tools", "hostile")
BACKEND_FREE_FILES = (
    "test_registry.py",
    "test_repository.py",
    "test_build_dataset.py",
    "cli/test_backend.py",
    "cli/test_options.py",
    "cli/test_show.py",
    "inference/test_grid.py",
    "onnx_models/test_bad_input.py",
    "weights/test_flat_h5.py",
    "weights/test_hostile.py",
    "weights/test_keras_h5.py",
    "weights/test_read.py",
    "weights/test_savedmodel.py",
    "weights/test_torch_file.py",
    "weights/test_torch_writer.py",
)

FAULT_TABLE = Path(__file__).parent.parent / "docs" / "faults.md"
FAULT_HEADER = """# What happens when a source fails

Measured by the tests (`pytest tests/fetching tests/weights/test_kill.py --write-fault-table`), which
compare this table with what they find. In every case no wrong byte is handed out; where a second source
is registered, it is asked next.

| fault | source | outcome |
|---|---|---|
"""

FAULTS = pytest.StashKey[set[tuple[str, str, str]]]()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the reference files, one folder per family (``KERASNEURO_FIXTURES``, default tests/data)."""
    folder = Path(os.environ.get("KERASNEURO_FIXTURES") or Path(__file__).parent / "data")
    if not folder.is_dir():
        pytest.exit(f"the reference files are missing: {folder} is not a folder (KERASNEURO_FIXTURES)", 2)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache, search folders and settings out of the tests, and the tests out of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        names = ("WEIGHTS", "SOURCE", "OFFLINE", "DATALAD_SOURCE")
        for name in (*(f"KERASNEURO_{name}" for name in names), "FREESURFER_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("KERASNEURO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def deepbet_weights(own_environment: None) -> dict[str, Path]:
    """Part -> path of deepbet's two weight files; without them a test is skipped, but never in CI."""
    from kerasneuro import registry
    from kerasneuro.errors import FetchFailed, WeightsNotFound
    from kerasneuro.fetching import ensure

    with pytest.MonkeyPatch.context() as patch:
        if FOLDERS:
            patch.setenv("KERASNEURO_WEIGHTS", FOLDERS)
        try:
            return {file.part: ensure(file) for file in registry.get("deepbet").files}
        except (FetchFailed, WeightsNotFound) as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(
                f"the package index cannot be reached, and KERASNEURO_WEIGHTS has no deepbet: {error}"
            )


@pytest.fixture(scope="session")
def whole() -> Callable[[Any], Callable[[Any], list[np.ndarray]]]:
    """Make a function of a model's inputs, compiled as one where the backend would compile every operation.

    It computes in float32 with the weights that the model has now, and returns a list of all outputs.
    """

    def make(model: Any) -> Callable[[Any], list[np.ndarray]]:
        import keras

        def plain(inputs: Any) -> list[Any]:
            return keras.tree.flatten(model(inputs, training=False))

        special = {"jax": jax_function, "openvino": openvino_function}.get(keras.backend.backend())
        function = special(plain) if special else plain
        return lambda inputs: [np.asarray(keras.ops.convert_to_numpy(found)) for found in function(inputs)]

    return make


def jax_function(plain: Callable[[Any], list[Any]]) -> Callable[[Any], list[Any]]:
    """Compile a function of arrays under JAX."""
    import jax
    import keras

    def stateless(inputs: Any) -> list[Any]:
        with keras.StatelessScope():
            return plain(inputs)

    return jax.jit(stateless)


def openvino_function(plain: Callable[[Any], list[Any]]) -> Callable[[Any], list[Any]]:
    """Compile a function of arrays under OpenVINO, for each list of shapes once."""
    networks: dict[tuple[tuple[int, ...], ...], Any] = {}

    def function(inputs: Any) -> list[Any]:
        import openvino
        from keras.src.backend.openvino.core import OpenVINOKerasTensor

        arrays = inputs if isinstance(inputs, list) else [inputs]
        shapes = tuple(array.shape for array in arrays)
        if shapes not in networks:
            kind = openvino.Type.f32
            entries = [openvino.opset16.parameter(list(shape), dtype=kind) for shape in shapes]
            tensors = [OpenVINOKerasTensor(entry.output(0)) for entry in entries]
            found = plain(tensors if isinstance(inputs, list) else tensors[0])
            # Two outputs may be one tensor.
            results = [openvino.opset16.result(tensor.output) for tensor in found]
            graph = openvino.Model(results, entries)
            precise = {"INFERENCE_PRECISION_HINT": "f32"}
            networks[shapes] = openvino.compile_model(graph, "CPU", precise), len(found)
        network, count = networks[shapes]
        computed = network(arrays)
        return [np.array(computed[index]) for index in range(count)]

    return function


@pytest.fixture
def single_step() -> dict[str, bool]:
    """Return how to ``compile`` a network for one training step: as it takes the backend the least time.

    JAX compiles a whole step in less time than its operations one by one; TensorFlow traces for ten times
    as long as the step takes.
    """
    import keras

    name = keras.backend.backend()
    return {"jit_compile": name == "jax", "run_eagerly": name == "tensorflow"}


@pytest.fixture
def fault_table(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """Collect a row of the fault table: what went wrong, where, and how it ended (proven by the test)."""

    def add(fault: str, source: str, outcome: str) -> None:
        row = (fault, source, outcome)
        request.config.stash[FAULTS].add(row)
        if not request.config.getoption("--write-fault-table"):
            assert fault_line(row) in FAULT_TABLE.read_text(encoding="utf-8").splitlines()

    return add


def fault_line(row: tuple[str, str, str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def backend() -> str:
    """Name the backend of this run without importing Keras."""
    return os.environ.get("KERAS_BACKEND") or "keras.json or Keras's default"


def pytest_report_header() -> str:
    return f"backend: {backend()}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-fault-table", action="store_true", help=f"write {FAULT_TABLE.name} in docs/")


def pytest_configure(config: pytest.Config) -> None:
    # A busy machine is no error of the code.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    config.stash[FAULTS] = set()
    # Before the tests are collected, since many of them are made from the registry.
    os.environ["KERASNEURO_HUB"] = str(Path(__file__).parent / "no-added-models")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the fault table of a run that passed, if asked."""
    rows = sorted(session.config.stash[FAULTS])
    if session.config.getoption("--write-fault-table") and exitstatus == 0 and rows:
        FAULT_TABLE.write_text(FAULT_HEADER + "\n".join(map(fault_line, rows)) + "\n", encoding="utf-8")


@pytest.hookimpl(tryfirst=True)  # Before -m selects.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what no backend changes; skip, with its reason, what an inference-only backend can not run."""
    for item in items:
        inside = item.path.relative_to(Path(__file__).parent).parts
        if inside[0] in BACKEND_FREE_FOLDERS or "/".join(inside) in BACKEND_FREE_FILES:
            item.add_marker(pytest.mark.backend_free)
    if backend() != "openvino":
        return
    for item in items:
        reason = next((why for start, why in OPENVINO_SKIPS.items() if item.nodeid.startswith(start)), None)
        if item.get_closest_marker("training"):
            reason = "OpenVINO computes but does not train"
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the optional tests that had nothing to run on, so that a green run hides nothing."""
    skipped = terminalreporter.stats.get("skipped", ())
    left_out = sum("optional" in report.keywords for report in skipped)
    if left_out:
        terminalreporter.write_line(f"OPTIONAL: {left_out} tests had no program or file to run on")
    from kerasneuro import registry

    planned = [card.name for card in registry.cards() if card.status == "planned"]
    terminalreporter.write_line(f"PLANNED: {len(planned)} models are not tested yet: {', '.join(planned)}")
