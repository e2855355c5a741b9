"""The published networks of neuroimaging as Keras 3 graphs, with original weights and whole pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kerasneuro.__about__ import __version__
from kerasneuro.load import build, fetch, info, list_models, load

if TYPE_CHECKING:
    from kerasneuro import explain
    from kerasneuro.converting import convert_weights
    from kerasneuro.finetuning.finetune import finetune
    from kerasneuro.inference import predict_blocks
    from kerasneuro.onnx_models import convert
    from kerasneuro.saved.write import save_model
    from kerasneuro.tasks import Result, Task

__all__ = [
    "Result",
    "Task",
    "__version__",
    "build",
    "convert",
    "convert_weights",
    "explain",
    "fetch",
    "finetune",
    "info",
    "list_models",
    "load",
    "predict_blocks",
    "save_model",
]

# Names whose modules need NumPy or Keras are imported when first used: `import kerasneuro` stays quick.
_LAZY = {
    "Result": "kerasneuro.tasks",
    "Task": "kerasneuro.tasks",
    "convert": "kerasneuro.onnx_models",
    "convert_weights": "kerasneuro.converting",
    "finetune": "kerasneuro.finetuning.finetune",
    "predict_blocks": "kerasneuro.inference",
    "save_model": "kerasneuro.saved.write",
}
_LAZY_ROOMS = ("explain",)


def __getattr__(name: str) -> Any:
    if name not in _LAZY and name not in _LAZY_ROOMS:
        raise AttributeError(f"module 'kerasneuro' has no attribute {name!r}")
    from importlib import import_module

    if name in _LAZY_ROOMS:
        return import_module(f"{__name__}.{name}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
