"""What data sets share whose draws depend on the epoch."""

from __future__ import annotations

from typing import Any

import keras


class EpochDataset(keras.utils.PyDataset):
    """Keep the epoch that random draws depend on.

    Parameters
    ----------
    epoch : int
        First epoch.
    **kwargs
        Workers, as `keras.utils.PyDataset` takes them.
    """

    def __init__(self, epoch: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epoch = epoch

    def follow(self) -> keras.callbacks.Callback:
        """Return a callback that keeps the epoch of the draws the same as that of the training."""

        def set_epoch(epoch: int, logs: object = None) -> None:
            self.epoch = epoch

        return keras.callbacks.LambdaCallback(on_epoch_begin=set_epoch)
