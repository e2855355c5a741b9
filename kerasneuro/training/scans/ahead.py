"""Make the next batches while the current one is trained on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Batch = tuple[Any, ...]


class Ahead:
    """Compute batches in one thread, before they are asked for in their order.

    Parameters
    ----------
    make : callable
        From epoch and index to the batch; it depends on nothing else.
    batches : int
        In an epoch; the first one of the next epoch follows the last.
    depth : int
        Batches that wait at most; 0 computes each when it is asked for.
    """

    def __init__(self, make: Callable[[int, int], Batch], batches: int, depth: int) -> None:
        self.make, self.batches, self.depth = make, batches, depth
        self._lock = threading.Lock()
        self._waiting: dict[tuple[int, int], Future[Batch]] = {}
        self._thread: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave thread and batches behind."""
        return {"make": self.make, "batches": self.batches, "depth": self.depth}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch, and have the next ones made."""
        if not self.depth:
            return self.make(epoch, index)
        with self._lock:
            future = self._waiting.pop((epoch, index), None)
            self._order(epoch, index)
        return self.make(epoch, index) if future is None else future.result()

    def _order(self, epoch: int, index: int) -> None:
        """Order the batches that follow, and drop the others."""
        ahead = [
            divmod(epoch * self.batches + index + step, self.batches) for step in range(1, self.depth + 1)
        ]
        for stale in self._waiting.keys() - set(ahead):
            self._waiting.pop(stale).cancel()
        for key in ahead:
            if key not in self._waiting:
                if self._thread is None:
                    self._thread = ThreadPoolExecutor(1, thread_name_prefix="kerasneuro-data")
                self._waiting[key] = self._thread.submit(self.make, *key)
