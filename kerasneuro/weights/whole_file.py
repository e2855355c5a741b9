"""Write a file whole or not at all."""

from __future__ import annotations

import glob
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from kerasneuro.errors import KerasNeuroError, OutputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Lend a hidden name in the folder of `path`; what was written there takes its place at the end.

    Parameters
    ----------
    path : Path
        Target; an existing file is replaced once the new one is complete.

    Yields
    ------
    Path
        Where to write. After an error the target is as it was before, and this file is gone.

    Raises
    ------
    OutputError
        If the file can not be written.
    """
    start = f".{path.name}.{re.sub('[^A-Za-z0-9]', '_', platform.node())}-"
    partial = path.with_name(f"{start}{os.getpid()}-{uuid4().hex[:8]}.part")
    _remove_leftovers(path.parent, start)
    try:
        yield partial
        os.replace(partial, path)
    except KerasNeuroError:
        raise
    except OSError as error:
        raise OutputError(f"{path} can not be written: {error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _remove_leftovers(folder: Path, start: str) -> None:
    """Delete what processes of this computer left behind that were killed while writing."""
    import psutil

    for left in folder.glob(f"{glob.escape(start)}*.part"):
        process = left.name.removeprefix(start).split("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            with suppress(OSError):
                left.unlink()
