"""What computes: one callable from NumPy blocks to NumPy blocks for whichever backend Keras runs on."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.graph import functional_of
from kerasneuro.inference.settings import ENGINES, PRECISIONS, check_choice

Compute = Callable[[np.ndarray], np.ndarray]
# Compiled functions outlive an Engine but not its model, so a second volume is not compiled for again.
_COMPILED: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Compute]] = weakref.WeakKeyDictionary()


class Engine:
    """Compute a model on NumPy arrays.

    Parameters
    ----------
    model : keras.Model
        One input, one output, channels-last.
    engine : {"auto", "eager", "compiled", "xla"}
        ``eager`` calls the layers one by one. ``compiled`` is ``tf.function`` on TensorFlow, ``jax.jit`` with
        CPU rewrites of the 3-D convolutions on JAX, the copy-free graph of `torch_graph` on PyTorch, and a
        model compiled in true float32 on OpenVINO (its own ``predict`` may silently use bfloat16). ``xla`` is
        ``jit_compile=True`` on TensorFlow and plain ``jax.jit`` on JAX. ``auto`` is the fastest one measured:
        ``compiled`` on CPUs and on TensorFlow, ``xla`` on JAX and ``eager`` on PyTorch with an accelerator.
        JAX keeps compiled code between processes if ``JAX_COMPILATION_CACHE_DIR`` is set.
    precision : {"float32", "bfloat16", "float16"}
        The reduced ones run on PyTorch (autocast) and OpenVINO only.
    device : str, optional
        Keras device name such as ``"cpu"`` or ``"gpu:0"``; None leaves the choice to the backend.
    training : bool
        Call the layers in training mode (Monte-Carlo dropout).

    Raises
    ------
    InvalidOption
        If the backend does not have the engine or the precision.
    """

    def __init__(
        self,
        model: Any,
        *,
        engine: str = "auto",
        precision: str = "float32",
        device: str | None = None,
        training: bool = False,
    ) -> None:
        import keras

        check_choice("engine", engine, ENGINES)
        check_choice("precision", precision, PRECISIONS)
        if training:
            _refuse_batch_statistics(model)
        self.model, self.precision, self.device, self.training = model, precision, device, training
        self.backend = keras.backend.backend()
        self.engine = _resolve(engine, self.backend, device, model, training)
        if precision != "float32" and self.backend not in ("torch", "openvino"):
            raise InvalidOption(
                f"precision {precision!r} is offered on the torch and openvino backends; on {self.backend} "
                "build the model under a mixed-precision policy instead."
            )
        key = (self.engine, precision, device, training)
        cached = _COMPILED.setdefault(model, {})
        if key not in cached:
            cached[key] = _BUILDERS[self.backend](self)
        self._compute = cached[key]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Compute ``(B, ..., C)`` float32 blocks; returns ``(B, ..., K)`` float32."""
        import keras

        scope = keras.device(_device_name(self.device)) if self.device else contextlib.nullcontext()
        with scope:
            return np.asarray(self._compute(batch), dtype=np.float32)


def _device_name(device: str | None) -> str:
    name = (device or "cpu").lower()
    return name if ":" in name else f"{name}:0"


def _resolve(engine: str, backend: str, device: str | None, model: Any, training: bool) -> str:
    """Turn ``auto`` into the measured best and refuse what the backend lacks."""
    if engine == "xla" and backend not in ("tensorflow", "jax"):
        raise InvalidOption(f"engine 'xla' needs the tensorflow or jax backend; this is {backend}.")
    if engine == "auto":
        on_device = accelerated(backend, device)
        engine = {"jax": "xla", "torch": "eager"}.get(backend, "compiled") if on_device else "compiled"
    if backend == "openvino" and (training or _draws(model)):
        return "eager"  # a compiled OpenVINO model would repeat one draw for ever
    walkable = functional_of(model) is not None and not training
    if engine == "compiled" and not walkable and backend in ("jax", "torch"):
        return {"jax": "xla", "torch": "eager"}[backend]
    return engine


def accelerated(backend: str, device: str | None) -> bool:
    """Tell whether the backend computes on something faster than the CPU."""
    if device is not None:
        return not device.lower().startswith("cpu")
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if backend == "torch":
        import torch

        return torch.cuda.is_available() or torch.backends.mps.is_available()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return False


def _seeds(model: Any) -> list[Any]:
    """Return the states of random generators among the variables of a model."""
    return [v for v in model.variables if "seed_generator_state" in v.path]


def _draws(model: Any) -> bool:
    """Tell whether some layer is random outside training; the layers of Keras itself are not."""
    import keras

    known = (keras.layers.Dropout,)  # and what is derived from it
    foreign = [
        layer
        for layer in model._flatten_layers()
        if not (type(layer).__module__.startswith("keras.") or isinstance(layer, known))
    ]
    return any("seed_generator_state" in variable.path for layer in foreign for variable in layer.variables)


def _refuse_batch_statistics(model: Any) -> None:
    import keras

    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            raise InvalidOption(
                f"training=True would change the moving statistics of layer {layer.name!r}; set its "
                "trainable to False first."
            )


def _reference(engine: Engine) -> Callable[[], Any]:
    """Refer to the model without keeping it alive: the Engine does that."""
    return weakref.ref(engine.model)


def _eager(engine: Engine) -> Compute:
    import keras

    model, training = _reference(engine), engine.training
    return lambda batch: keras.ops.convert_to_numpy(model()(batch, training=training))


def _tensorflow(engine: Engine) -> Compute:
    import tensorflow as tf

    if engine.engine == "eager":
        return _eager(engine)
    model, training = _reference(engine), engine.training
    function = tf.function(
        lambda tensor: model()(tensor, training=training),
        jit_compile=True if engine.engine == "xla" else None,
        autograph=False,
    )
    return lambda batch: function(tf.constant(batch)).numpy()


def _jax(engine: Engine) -> Compute:
    import jax
    import keras

    from kerasneuro.inference.jax_graph import JaxGraph

    if engine.engine == "eager":
        return _eager(engine)
    model, training = _reference(engine), engine.training
    graph = JaxGraph(engine.model) if engine.engine == "compiled" else None

    def stateless(values: list[Any], tensor: Any) -> tuple[Any, list[Any]]:
        pairs = zip(model().variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)) as scope:
            result = graph(tensor) if graph else model()(tensor, training=training)
        return result, [scope.get_current_value(seed) for seed in _seeds(model())]

    function = jax.jit(stateless)

    def compute(batch: np.ndarray) -> np.ndarray:
        # Variables are arguments, not constants: changed weights need no new compilation.
        result, states = function([v.value for v in model().variables], batch)
        for seed, state in zip(_seeds(model()), states, strict=True):
            seed.assign(state)
        return np.asarray(result)

    return compute


def _torch(engine: Engine) -> Compute:
    import torch

    from kerasneuro.inference.torch_graph import TorchGraph

    model, training, device = _reference(engine), engine.training, engine.device
    graph = TorchGraph(engine.model) if engine.engine == "compiled" else None
    reduced = None if engine.precision == "float32" else getattr(torch, engine.precision)

    def place() -> torch.device:
        if device is not None:
            return torch.device(device.lower().replace("gpu", "cuda"))
        variables = model().variables
        return variables[0].value.device if variables else torch.device("cpu")

    def compute(batch: np.ndarray) -> np.ndarray:
        where = place()
        cast = torch.autocast(where.type, reduced) if reduced else contextlib.nullcontext()
        with torch.inference_mode(), cast:
            tensor = torch.from_numpy(np.ascontiguousarray(batch)).to(where)
            result = graph(tensor) if graph else model()(tensor, training=training)
            return result.float().cpu().numpy()

    return compute


def _openvino(engine: Engine) -> Compute:
    import openvino
    from keras.src.backend.openvino.core import OpenVINOKerasTensor

    if engine.engine == "eager":
        return _eager(engine)
    model = _reference(engine)
    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[engine.precision]
    target = (engine.device or "CPU").upper().split(":")[0]
    compiled: dict[tuple[int, ...], Any] = {}
    baked: list[Any] = []

    def build(shape: tuple[int, ...]) -> Any:
        entry = openvino.opset16.parameter(shape=list(shape), dtype=openvino.Type.f32)
        exit_ = openvino.opset16.result(model()(OpenVINOKerasTensor(entry.output(0)), training=False).output)
        graph = openvino.Model(results=[exit_], parameters=[entry])
        return openvino.compile_model(graph, target, {"INFERENCE_PRECISION_HINT": hint})

    def compute(batch: np.ndarray) -> np.ndarray:
        weights = [variable.value for variable in model().variables]
        changed = len(baked) != len(weights) or any(a is not b for a, b in zip(baked, weights, strict=True))
        if changed or batch.shape not in compiled:
            baked[:] = weights  # weights are constants of the compiled model
            compiled.clear()
            compiled[batch.shape] = build(batch.shape)
        return compiled[batch.shape]([np.ascontiguousarray(batch)])[0]

    return compute


_BUILDERS: dict[str, Callable[[Engine], Compute]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
    "openvino": _openvino,
}
