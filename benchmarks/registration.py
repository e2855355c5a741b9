"""Time the spatial part of a registration: integrate a velocity, upsample it, warp an image.

    python benchmarks/registration.py [--size 128] [--rounds 3] [--threads 2] [--backends jax,torch]

Each backend takes turns with bare PyTorch (`grid_sample` and `interpolate`, in normalised coordinates) in one
process; the ratio is that of the medians. `memory` is the peak of the integration in excess of what was there
before, over the size of the field.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import common

BACKENDS = ("tensorflow", "jax", "torch", "openvino")
Job = Callable[[], Any]


def smooth_velocity(size: int, amplitude: float) -> Any:
    """Return a velocity (1, size, size, size, 3) of a few waves, in voxels."""
    import numpy as np

    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(0, 2 * np.pi, size, dtype=np.float32)] * 3, indexing="ij")
    waves = [
        np.sin(sum(rng.integers(1, 4) * axis for axis in axes) + rng.uniform(0, 6)).astype(np.float32)
        for _ in range(3)
    ]
    return (amplitude * np.stack(waves, axis=-1))[None]


def native(velocity: Any, image: Any, steps: int) -> tuple[Job, Job]:
    """Return the whole job and the integration alone in bare PyTorch; what is fixed is prepared before."""
    import torch
    from torch.nn.functional import grid_sample, interpolate

    def base(size: int) -> Any:
        axis = torch.linspace(-1, 1, size)
        # PyTorch counts the axes of a place from the last.
        return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], dim=-1)[None]

    size, large = velocity.shape[1], image.shape[1]
    coarse, fine = base(size), base(large)
    flow = torch.from_numpy(velocity).flip(-1).movedim(-1, 1).contiguous() * (2 / (size - 1))
    volume = torch.from_numpy(image).movedim(-1, 1).contiguous()
    rescale = (large / size) * (size - 1) / (large - 1)
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}

    @torch.inference_mode()
    def integrate() -> Any:
        field = flow / 2**steps
        for _ in range(steps):
            field = field + grid_sample(field, coarse + field.movedim(1, -1), **options)
        return field

    @torch.inference_mode()
    def run() -> Any:
        field = interpolate(integrate() * rescale, size=(large,) * 3, mode="trilinear", align_corners=True)
        return grid_sample(volume, fine + field.movedim(1, -1), **options).movedim(1, -1).numpy()

    return run, integrate


def compiled(function: Callable[..., Any], *arrays: Any) -> Job:
    """Compile a function of tensors as `kerasneuro.inference.Engine` does, for these arrays."""
    import keras

    backend = keras.backend.backend()
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    if backend == "tensorflow":
        import tensorflow as tf

        traced = tf.function(function, autograph=False)
        return lambda: traced(*tensors).numpy()
    if backend == "jax":
        import jax

        jitted = jax.jit(function)
        return lambda: jitted(*tensors).block_until_ready()
    if backend == "torch":
        import torch

        def run() -> Any:
            with torch.inference_mode():
                return function(*tensors).numpy()

        return run
    return compiled_openvino(function, arrays)


def compiled_openvino(function: Callable[..., Any], arrays: tuple[Any, ...]) -> Job:
    """Compile a function of tensors in true float32."""
    import openvino
    from keras.src.backend.openvino.core import OpenVINOKerasTensor

    entries = [openvino.opset16.parameter(list(a.shape), dtype=openvino.Type.f32) for a in arrays]
    result = function(*[OpenVINOKerasTensor(entry.output(0)) for entry in entries])
    model = openvino.Model([openvino.opset16.result(result.output)], entries)
    ready = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda: ready(list(arrays))[0]


def return_memory() -> None:
    """Give freed memory back to the system, so that what comes next is seen (glibc)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def seconds(job: Job) -> float:
    """Time one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> None:
    """Compare the backend of this process with bare PyTorch, taking turns, and print one row."""
    common.limit_threads(options.threads)
    import keras
    import numpy as np
    import torch

    from kerasneuro.nn import spatial

    torch.set_num_threads(options.threads)
    velocity = smooth_velocity(options.size, amplitude=options.size / 40)
    image = np.random.default_rng(1).uniform(size=(1, *(2 * options.size,) * 3, 1)).astype(np.float32)

    def integrate(velocity: Any) -> Any:
        return spatial.integrate(velocity, options.steps)

    def register(velocity: Any, image: Any) -> Any:
        return spatial.warp(image, spatial.rescale(integrate(velocity), 2.0))

    bare, _ = native(velocity, image, options.steps)
    ours, ours_integral = compiled(register, velocity, image), compiled(integrate, velocity)
    expected = bare()
    difference = np.abs(np.asarray(ours()) - expected).mean()
    times = [(seconds(bare), seconds(ours)) for _ in range(options.rounds)]
    bare_time, our_time = (statistics.median(column) for column in zip(*times, strict=True))
    ours_integral()
    return_memory()
    common.forget_peak()
    before = common.peak_bytes()
    ours_integral()
    memory = (common.peak_bytes() - before) / velocity.nbytes
    print(
        f"{keras.backend.backend():12} {our_time:8.2f} s {bare_time:8.2f} s {our_time / bare_time:6.2f} "
        f"{memory:8.1f} {difference:12.1e}",
        flush=True,
    )


def main() -> None:
    """Run each backend in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="voxels of the velocity along each axis")
    parser.add_argument("--steps", type=int, default=7, help="squarings")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        measure(options)
        return
    print(
        f"{'backend':12} {'ours':>10} {'PyTorch':>10} {'ratio':>6} {'memory':>8} {'difference':>12}",
        flush=True,
    )
    for backend in options.backends.split(","):
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([sys.executable, *sys.argv, "--worker"], env=environment, check=True)


if __name__ == "__main__":
    main()
