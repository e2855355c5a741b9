"""The base of every task: a model card, its networks, and the way from a scan to a result."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from kerasneuro.__about__ import __version__
from kerasneuro.errors import InvalidOption
from kerasneuro.inference.settings import Settings
from kerasneuro.tasks.result import RESEARCH_USE, Result

if TYPE_CHECKING:
    import keras

    from kerasneuro.inference.engine import Engine
    from kerasneuro.registry import ModelCard
    from kerasneuro.volume import Volume

__all__ = ["Result", "Task"]


class Task:
    """Run one model of the zoo from a scan to a result.

    Subclasses implement ``__call__(image, *, <options>, **prediction)``; every keyword-only parameter of it
    is an option of the command line, described by its entry in the docstring.

    Parameters
    ----------
    card : ModelCard
        The registry entry.
    models : mapping of str to keras.Model
        Part name -> network; a task with one network names its part ``""``.
    provenance : mapping, optional
        Where the weights came from: part -> path, digest, registered name.
    needs : mapping of str to callable, optional
        Role -> function that loads another task, for what the card says it needs; called when it is used.

    Attributes
    ----------
    roles : tuple of str
        Names of the input images, in order; one role is positional on the command line.
    optional_roles : tuple of str
        Roles that may be left out on the command line; the task says what it misses.
    bids_suffixes : mapping of str to str
        Role -> BIDS suffix, for a task that finds its images in folders.
    explainable : bool
        The result holds what `kerasneuro.explain.explain_result` needs.
    outputs : mapping of str to str
        Fields of the result that ``Result.save`` writes into a folder, with their file suffix.
    main_output : str
        The field that is written when one file is asked for.
    option_names : mapping of str to tuple of str
        Further option names of the original tool (long and short) for a keyword of ``__call__``.
    subject_image : str or None
        Name of the scan in a subject's folder; a task that has one takes a list of such folders on the
        command line.
    defaults : Settings
        Prediction settings where the caller says nothing.
    training_grid : tuple of int or None
        Shape of the scans that the pipeline gives to the network as they are; a network of other classes can
        then be trained on such scans, and run by the same pipeline.
    training_scale : str
        How the pipeline scales intensities: a rule of `kerasneuro.tasks.blocks.normalise`.
    saved : mapping or None
        Content of the card, of a task that was fine-tuned or loaded from the folder of a saved model.
    """

    roles: ClassVar[tuple[str, ...]] = ("image",)
    optional_roles: ClassVar[tuple[str, ...]] = ()
    bids_suffixes: ClassVar[Mapping[str, str]] = MappingProxyType({})
    explainable: ClassVar[bool] = False
    outputs: ClassVar[Mapping[str, str]] = MappingProxyType({})
    main_output: ClassVar[str] = "mask"
    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    subject_image: ClassVar[str | None] = None
    defaults: ClassVar[Settings] = Settings()
    training_grid: ClassVar[tuple[int, int, int] | None] = None
    training_scale: ClassVar[str] = "zscore"
    saved: Mapping[str, Any] | None = None

    def __init__(
        self,
        card: ModelCard,
        models: Mapping[str, keras.Model],
        provenance: Mapping[str, Any] | None = None,
        needs: Mapping[str, Callable[[], Task]] | None = None,
    ) -> None:
        self.card = card
        self.models = MappingProxyType(dict(models))
        self.provenance = MappingProxyType(dict(provenance or {}))
        self.needs = MappingProxyType(dict(needs or {}))
        self._engines: dict[tuple[str, str, str, str | None], Engine] = {}

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name or 'model'}: {model.count_params():,}" for name, model in self.models.items()
        )
        return f"<{type(self).__name__} {self.card.name} ({parts} parameters)>"

    def __call__(self, *images: Any, **options: Any) -> Result:
        """Run the whole pipeline on one scan (or one set of scans)."""
        raise NotImplementedError(f"{type(self).__name__} defines no pipeline")

    @property
    def model(self) -> keras.Model:
        """The network of a task with one part."""
        if len(self.models) != 1:
            raise AttributeError(
                f"{self.card.name} has {len(self.models)} networks, "
                f"one each for {', '.join(self.models)}: use .models[part]"
            )
        return next(iter(self.models.values()))

    def settings(self, prediction: Mapping[str, Any]) -> Settings:
        """Merge the caller's prediction options into the task's defaults."""
        return self.defaults.updated(**prediction)

    def engine(self, part: str, settings: Settings) -> Engine:
        """Return the engine of one network; it is kept, so that a second scan compiles nothing."""
        from kerasneuro.inference.engine import Engine

        key = (part, settings.engine, settings.precision, settings.device)
        if key not in self._engines:
            self._engines[key] = Engine(
                self.models[part],
                engine=settings.engine,
                precision=settings.precision,
                device=settings.device,
            )
        return self._engines[key]

    def record(
        self, inputs: Mapping[str, Volume], options: Mapping[str, Any], **facts: Any
    ) -> dict[str, Any]:
        """Describe a run: model, weights, inputs, options, versions; goes beside every result."""
        import keras

        return {
            "model": self.card.name,
            "weights": {part or "model": dict(entry) for part, entry in self.provenance.items()},
            "inputs": {role: describe(volume) for role, volume in inputs.items()},
            "options": {key: plain(value) for key, value in options.items() if key != "progress"},
            **{key: plain(value) for key, value in facts.items()},
            "licence": self.card.licence.name,
            "citation": self.card.citation,
            "backend": keras.backend.backend(),
            "versions": {
                "kerasneuro": __version__,
                "keras": keras.__version__,
                "python": platform.python_version(),
            },
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "use": RESEARCH_USE,
        }


def refuse(settings: Settings, model: str, *fields: str) -> None:
    """Refuse prediction settings that a model cannot follow."""
    for field in fields:
        if getattr(settings, field) != getattr(Settings(), field):
            raise InvalidOption(
                f"{model} sees the whole scan at once and has no option {field!r}; leave it out"
            )


def describe(volume: Volume) -> dict[str, Any]:
    """State the file, shape, voxel size and orientation of an input."""
    return {
        "path": str(volume.path) if volume.path else None,
        "shape": list(volume.shape),
        "zooms_mm": [round(float(zoom), 6) for zoom in volume.zooms],
        "orientation": "".join(volume.axcodes),
    }


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)
