"""Prepared scans with their class indices, kept as long as they are of use: in memory, or on disk."""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.training.classifier.prepare import save_array
from kerasneuro.training.description import describe
from kerasneuro.training.scans.class_table import ClassTable
from kerasneuro.training.scans.labelled_scan import LabelledScan, Prepare, read_scan
from kerasneuro.training.scans.pairs import Pair
from kerasneuro.volume.image import open_image

Cache = Literal["memory"] | None | str | os.PathLike[str]
KEPT = 8  # volumes in memory where no cache is asked for
MOST_OF_MEMORY = 0.5


class ScanStore:
    """Read, prepare and keep labelled scans; safe to be used by several threads.

    Parameters
    ----------
    pairs : sequence of Pair
        With label maps.
    classes : ClassTable
        Meaning of the label values.
    prepare : callable, optional
        From the `Volume` of a channel to the one that the network takes: another intensity scale, or another
        grid. The label map follows to the new grid by nearest neighbour.
    cache : None, "memory" or path
        Keep the last few scans, keep all of them, or keep all in a folder, from which only the voxels needed
        are read. On disk, a scan is known by the content of its files, the classes and the preparation: its
        attribute ``key`` or its code, so that nothing stale is used.

    Raises
    ------
    InvalidOption
        If a pair has no label map, or the scans do not fit into the memory.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: ClassTable,
        prepare: Prepare | None = None,
        cache: Cache = None,
        *,
        kept: int = KEPT,
    ) -> None:
        self.pairs, self.classes, self.prepare, self.cache = list(pairs), classes, prepare, cache
        unlabelled = [pair.subject for pair in self.pairs if pair.labels is None]
        if not self.pairs or unlabelled:
            raise InvalidOption(
                f"expected labelled scans, found {len(self.pairs)}, of which {len(unlabelled)} have no label "
                f"map {', '.join(unlabelled[:3])}"
            )
        self._folder = Path(cache) if cache is not None and cache != "memory" else None
        self._preparation = describe(prepare) if self._folder else ""
        self._room = len(self.pairs) if cache == "memory" else kept
        self._scans: OrderedDict[int, LabelledScan] = OrderedDict()
        self._lock = threading.Lock()
        self._busy = [threading.Lock() for _ in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the locks and what is kept behind; a worker process reads for itself."""
        state = dict(self.__dict__)
        del state["_lock"], state["_busy"], state["_scans"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._scans, self._lock = OrderedDict(), threading.Lock()
        self._busy = [threading.Lock() for _ in self.pairs]

    def __getitem__(self, number: int) -> LabelledScan:
        """Return a scan, read once if it is still kept.

        Raises
        ------
        InvalidImage
            If a file cannot be used, or has labels of no class.
        """
        with self._busy[number]:
            with self._lock:
                if number in self._scans:
                    self._scans.move_to_end(number)
                    return self._scans[number]
            scan = self._find(self.pairs[number])
            with self._lock:
                if not self._scans and self.cache == "memory":
                    self._check_memory(scan)
                self._scans[number] = scan
                while len(self._scans) > self._room:
                    self._scans.popitem(last=False)
            return scan

    def shape(self, number: int) -> tuple[int, ...]:
        """Return the shape of a prepared scan; it is read for that only where it is prepared."""
        if self.prepare is None:
            return tuple(open_image(self.pairs[number].images[0])[0].shape[:3])
        return self[number].classes.shape

    def _check_memory(self, scan: LabelledScan) -> None:
        import psutil

        needed = len(self.pairs) * (scan.image.nbytes + scan.classes.nbytes)
        free = psutil.virtual_memory().available
        if needed > MOST_OF_MEMORY * free:
            raise InvalidOption(
                f"{len(self.pairs)} prepared scans take about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
                "of memory are free; give cache a folder, or None"
            )

    def _find(self, pair: Pair) -> LabelledScan:
        """Take a scan from the folder, or prepare it and put it there."""
        if self._folder is None:
            return read_scan(pair, self.classes, self.prepare)
        start = self._folder / self._key(pair)
        files = [start.with_suffix(f".{part}.npy") for part in ("image", "classes", "places")]
        if not all(file.is_file() for file in files):
            scan = read_scan(pair, self.classes, self.prepare)
            for file, array in zip(files, (scan.image, scan.classes, _join(scan.places)), strict=True):
                save_array(file, array)
        try:
            image, classes = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files[:2])
            places = np.load(files[2], allow_pickle=False)
        except (OSError, ValueError) as error:
            raise OutputError(
                f"the cache {self._folder} holds a damaged file ({error}); delete the folder, it is made anew"
            ) from error
        return LabelledScan(image, classes, _split(places))

    def _key(self, pair: Pair) -> str:
        digest = sha256(f"2|{self.classes}|{self._preparation}".encode())
        for path in (*pair.images, pair.labels):
            digest.update(_content(str(path), *_state(path)).encode())
        return digest.hexdigest()[:40]


def _join(places: Sequence[np.ndarray]) -> np.ndarray:
    """Write lists of places as one array: the number of lists, their lengths, their content."""
    return np.concatenate([[len(places)], [len(each) for each in places], *places]).astype(np.int64)


def _split(joined: np.ndarray) -> tuple[np.ndarray, ...]:
    count = int(joined[0])
    return tuple(np.split(joined[1 + count :], np.cumsum(joined[1:count])))


def _state(path: Path | None) -> tuple[int, int]:
    assert path is not None
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=4096)
def _content(path: str, size: int, modified: int) -> str:
    """Return the digest of a file; computed once for each state of it."""
    with open(path, "rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
