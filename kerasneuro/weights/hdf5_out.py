"""Let HDF5 write a new file without ever seeing the disk fail.

HDF5 can not close a file that it failed to write: the process may crash (seen with HDF5 1.14 on a full disk).
So its bytes go through a file object that remembers the first failure, lets HDF5 finish, and raises it then.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class SteadyFile(io.FileIO):
    """A file on disk whose failures are kept for later; after the first one, bytes go nowhere.

    Attributes
    ----------
    error : OSError or None
        The first failure.
    """

    error: OSError | None = None

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; what was lost reads as zeros."""
        view = memoryview(buffer).cast("B")
        found = super().readinto(view) or 0
        view[found:] = bytes(len(view) - found)
        return len(view)

    def write(self, data: Any) -> int:
        """Write all of a buffer, or remember why not."""
        view = memoryview(data).cast("B")
        count = len(view)
        try:
            while len(view) and self.error is None:
                view = view[super().write(view) :]
        except OSError as error:
            self.error = error
        return count

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file, or remember why not."""
        try:
            return super().truncate(size) if self.error is None else 0
        except OSError as error:
            self.error = error
            return 0


@contextmanager
def new_hdf5(path: Path) -> Iterator[Any]:
    """Create an HDF5 file.

    Parameters
    ----------
    path : Path
        Where to write; an existing file is emptied.

    Yields
    ------
    h5py.File
        To be filled.

    Raises
    ------
    OSError
        If the disk failed at any time. The file is incomplete then.
    """
    import h5py

    with SteadyFile(path, "w+") as steady:
        with h5py.File(steady, "w") as file:
            yield file
        if steady.error is not None:
            raise steady.error
