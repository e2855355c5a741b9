"""What a training run does at the end of each epoch: log, keep the best weights, save, and stop in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.tasks.result import table_text, write_text
from kerasneuro.training.checkpoint import restore_checkpoint, save_checkpoint

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")


def columns_of(measure: str) -> tuple[str, ...]:
    """Name the numbers of an epoch for a metric such as "accuracy"."""
    return tuple(name.replace("accuracy", measure) for name in COLUMNS)


class Progress(keras.callbacks.Callback):
    """Follow a run, so that it can be ended at any moment and resumed at the last whole epoch.

    The best epoch is the one with the highest validation accuracy; among equals, the one with the lowest
    validation loss. Training stops when the accuracy has not risen for `patience` epochs. Without validation
    the last epoch is the best, and nothing stops it.

    Parameters
    ----------
    checkpoint, history : Path
        The file to resume from, and the CSV log.
    save_best : callable
        Called, without arguments, at the end of a better epoch; writes the weights.
    patience : int
        Epochs without a higher validation accuracy.
    seed : int
        Of the dropout, where the backend keeps no state of it.
    say : callable, optional
        Called with a line for each epoch.
    measure : str
        Metric of the network that stands for the accuracy: the higher, the better.

    Attributes
    ----------
    rows : list of dict
        One for each epoch: the numbers of `columns_of`.
    best_epoch : int
        Counted from 1; 0 before the first.
    finished : bool
        Training has stopped early.
    """

    def __init__(
        self,
        checkpoint: Path,
        history: Path,
        save_best: Callable[[], None],
        patience: int,
        seed: int = 0,
        say: Callable[[str], None] | None = None,
        measure: str = "accuracy",
    ) -> None:
        super().__init__()
        self.measure, self.columns = measure, columns_of(measure)
        self.checkpoint, self.history_path, self.save_best = checkpoint, history, save_best
        self.patience, self.seed, self.say = patience, seed, say
        self.rows: list[dict[str, float]] = []
        self.best_epoch, self.finished = 0, False

    def resume(self, model: keras.Model) -> int:
        """Put the last saved state into a compiled network; return the number of epochs that are done."""
        state, history = restore_checkpoint(self.checkpoint, model)
        self.rows = [dict(zip(self.columns, map(float, row), strict=True)) for row in history]
        self.best_epoch, self.finished = int(state["best_epoch"]), bool(state["finished"])
        self._write_history()
        return len(self.rows)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Seed the epoch where dropout draws from a generator of the process, which no checkpoint holds."""
        if keras.backend.backend() == "torch":
            seed = np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]
            keras.utils.set_random_seed(int(seed))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log an epoch, write what must not be lost, and stop where nothing improves."""
        values = {name: float((logs or {}).get(name, math.nan)) for name in self.columns[1:-1]}
        if not math.isfinite(values["loss"]):
            raise InvalidOption(
                f"the loss of epoch {epoch + 1} is not a finite number; lower fit.learning_rate, set "
                "fit.clip_norm, or train with model.precision float32"
            )
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.rows.append({"epoch": float(epoch + 1), **values, "learning_rate": rate})
        if self._is_best():
            self.best_epoch = epoch + 1
            self.save_best()
        self.finished = epoch + 1 - self._last_rise() >= self.patience
        state = {"best_epoch": self.best_epoch, "finished": self.finished}
        table = np.array([[row[name] for name in self.columns] for row in self.rows])
        save_checkpoint(self.checkpoint, self.model, state, table)
        self._write_history()
        if self.say is not None:
            self.say(self._line())
        if self.finished:
            self.model.stop_training = True

    def _is_best(self) -> bool:
        """Say whether the last epoch is better than the best before it."""
        if not self.best_epoch or math.isnan(self.rows[-1]["val_loss"]):
            return True
        one, other = self.rows[-1], self.rows[self.best_epoch - 1]
        return (self._measured(one), -one["val_loss"]) > (self._measured(other), -other["val_loss"])

    def _last_rise(self) -> int:
        """Return the first epoch, counted from 1, with the highest validation accuracy so far."""
        if math.isnan(self.rows[-1]["val_loss"]):
            return len(self.rows)
        found = [self._measured(row) for row in self.rows]
        return found.index(max(found)) + 1

    def _measured(self, row: dict[str, float]) -> float:
        """Return the measure of an epoch; one that is not defined is below all others."""
        value = row[f"val_{self.measure}"]
        return -math.inf if math.isnan(value) else value

    def _write_history(self) -> None:
        rows = [{**row, "epoch": int(row["epoch"])} for row in self.rows]
        write_text(self.history_path, table_text(rows))

    def _line(self) -> str:
        row = self.rows[-1]
        line = f"epoch {int(row['epoch'])}: loss {row['loss']:.4f}, {self.measure} {row[self.measure]:.3f}"
        if math.isnan(row["val_loss"]):
            return line
        held_out = f"{row['val_loss']:.4f}, {row[f'val_{self.measure}']:.3f}"
        return f"{line}, validation {held_out} (best epoch {self.best_epoch})"
