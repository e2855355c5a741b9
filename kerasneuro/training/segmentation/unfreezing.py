"""Fine-tuning that opens a network block by block."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras

from kerasneuro.errors import InvalidOption


def of_block(name: str, blocks: Collection[str]) -> bool:
    """Say whether a layer belongs to a block: it has its name, or one that begins with it and "_"."""
    return any(name == block or name.startswith(f"{block}_") for block in blocks)


def set_trainable(model: keras.Model, blocks: Collection[str]) -> None:
    """Let only the layers of some blocks be trained; an optimiser keeps its moments of what stays trainable.

    Keras binds an optimiser to the variables that it was built with, so a new one of the same settings takes
    over. Call it between epochs, or before the training.

    Parameters
    ----------
    model : keras.Model
        Compiled or not.
    blocks : collection of str
        Names of layers, or what they begin with before an underscore.

    Raises
    ------
    InvalidOption
        If a block has no layer.
    """
    names = [layer.name for layer in model.layers]
    absent = [block for block in blocks if not any(of_block(name, (block,)) for name in names)]
    if absent:
        raise InvalidOption(
            f"{model.name} has no layers of {', '.join(absent)}; blocks are begins of layer names"
        )
    for layer in model.layers:
        layer.trainable = of_block(layer.name, blocks)
    old = getattr(model, "optimizer", None)
    if old is None:
        return
    new = type(old).from_config(old.get_config())
    new.build(model.trainable_variables)
    known = {variable.path: variable for variable in old.variables}
    for variable in new.variables:
        if variable.path in known:
            variable.assign(known[variable.path])
    model.optimizer = new
    model.make_train_function(force=True)


class StagedUnfreezing(keras.callbacks.Callback):
    """Open one more block of a network every few epochs, as HSF fine-tunes.

    At the start of epoch e (from 0), if e is at least `frequency` and leaves 1 when divided by it, the first
    ``e // frequency`` blocks are opened, but no more than ``depth + 1``. So nothing opens before epoch
    ``frequency + 1``, and a frequency of 1 opens nothing ever. The epoch alone decides: training that resumes
    goes on alike.

    Source: clementpoiret/hsf_train@127435f.

    Parameters
    ----------
    blocks : sequence of str
        Begins of layer names (see `set_trainable`), in the order in which they are opened.
    frequency : int
        Epochs between two blocks.
    depth : int
        Index of the last block that is opened; -1 for all.
    always : sequence of str
        What is trained from the start: the head.

    Raises
    ------
    InvalidOption
        If `frequency` or `depth` is too small.
    """

    def __init__(
        self, blocks: Sequence[str], frequency: int, depth: int = -1, always: Sequence[str] = ("final_conv",)
    ) -> None:
        super().__init__()
        if frequency < 1 or depth < -1:
            raise InvalidOption(
                f"frequency is at least 1 and depth at least -1 (all blocks), found {frequency} and {depth}"
            )
        self.blocks, self.always = tuple(blocks), tuple(always)
        self.frequency, self.depth = frequency, depth
        self._open: tuple[str, ...] | None = None

    def blocks_at(self, epoch: int) -> tuple[str, ...]:
        """Return the blocks that are trained in an epoch, the head first."""
        opened = max(epoch - 1, 0) // self.frequency if self.frequency > 1 else 0
        most = len(self.blocks) if self.depth == -1 else self.depth + 1
        return (*self.always, *self.blocks[: min(opened, most)])

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the state of an earlier training."""
        self._open = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Open what the epoch opens."""
        wanted = self.blocks_at(epoch)
        if wanted != self._open:
            set_trainable(self.model, wanted)
            self._open = wanted
