"""Build files that a reader of weights must refuse: code in them, links that lead elsewhere, sizes that lie.

``BUILDERS`` maps a name to a function ``(path, canary)``; the file, if its content were ever run, would
create the file `canary`. ``python tests/hostile/make.py FOLDER`` writes them all.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
TORCH = runpy.run_path(str(HERE / "torch_files.py"))
HDF5 = runpy.run_path(str(HERE / "hdf5_files.py"))
ONNX = runpy.run_path(str(HERE / "onnx_files.py"))
KERAS = runpy.run_path(str(HERE / "keras_files.py"))
BUILDERS = {name: build for kind in (TORCH, HDF5, ONNX, KERAS) for name, build in kind["BUILDERS"].items()}


def main(folder: Path) -> None:
    """Write every file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, builder in BUILDERS.items():
        builder(folder / name, folder / "canary")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
