"""The folder of the fine-tuning of a segmentation network: what lies in it, under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.training.config import differences, read_config, to_yaml
from kerasneuro.training.segmentation.config import SegmentationConfig

# What may change between the start of a run and its continuation.
FREE_TO_CHANGE = ("fit.patience", "fit.samples", "fit.tensorboard", "data.cache")


@dataclass(frozen=True)
class TrainingFiles:
    """The files of a training run.

    Attributes
    ----------
    path : Path
        Folder of the run.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Settings with all defaults."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """State of the last epoch, to resume from."""
        return self.path / "checkpoint.h5"

    @property
    def best(self) -> Path:
        """Weights of the best epoch."""
        return self.path / "best.h5"

    @property
    def split(self) -> Path:
        """Every scan with its subset."""
        return self.path / "split.csv"

    @property
    def history(self) -> Path:
        """Numbers of the epochs."""
        return self.path / "history.csv"

    @property
    def model(self) -> Path:
        """Folder of the saved model."""
        return self.path / "model"

    @property
    def cache(self) -> Path:
        """Prepared scans."""
        return self.path / "cache"

    @property
    def samples(self) -> Path:
        """Pictures after each epoch."""
        return self.path / "samples"

    def forget(self) -> None:
        """Delete what an earlier run has left, its prepared scans and its model apart."""
        for path in (self.checkpoint, self.best, self.history):
            path.unlink(missing_ok=True)

    def start(
        self, config: SegmentationConfig, rows: Sequence[Mapping[str, str]], *, resume: bool, overwrite: bool
    ) -> None:
        """Prepare the folder, or make sure that a run in it goes on as it was started.

        Parameters
        ----------
        config : SegmentationConfig
            Settings, kept as YAML.
        rows : sequence of mapping
            Subject, subset and files of each scan.
        resume : bool
            Go on with a run in the folder; where there is none, start it.
        overwrite : bool
            Forget a run in the folder.

        Raises
        ------
        OutputError
            If the folder cannot be used, or holds a run and neither is given.
        InvalidOption
            If a run is resumed with other settings or scans.
        """
        from kerasneuro.tasks.result import prepare_folder, table_text, write_text

        begun = self.checkpoint.exists() or self.model.exists()
        if begun and not resume and not overwrite:
            raise OutputError(
                f"{self.path} holds a training run already; resume it, allow overwriting, or choose another "
                "folder"
            )
        if begun and resume:
            self._same(config, rows)
        prepare_folder(self.path)
        if not resume:
            self.forget()
        write_text(self.config, to_yaml(config))
        write_text(self.split, table_text(rows))

    def _same(self, config: SegmentationConfig, rows: Sequence[Mapping[str, str]]) -> None:
        from kerasneuro.tasks.result import table_text

        free = FREE_TO_CHANGE + (("fit.epochs",) if config.fit.schedule == "constant" else ())
        changed = differences(read_config(self.config, SegmentationConfig), config, ignore=free)
        if changed:
            raise InvalidOption(
                f"the run in {self.path} was started with another {', '.join(changed)}; resume with the "
                f"configuration in {self.config.name}, or choose another folder"
            )
        try:
            same = self.split.read_text(encoding="utf-8") == table_text(rows)
        except OSError:
            same = False
        if not same:
            raise InvalidOption(
                f"the scans are not those that the run in {self.path} was started with ({self.split.name}); "
                "put them back, or choose another folder"
            )
