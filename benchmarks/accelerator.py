"""The networks alone on a GPU, where PyTorch, JAX or TensorFlow of this environment sees one."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from fleet import OUR_PYTHON, Fleet
from networks import Networks, forward_cases, graphs, twins
from plan import Plan

PROBES = {
    "torch": "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')",
    "jax": "import jax; print(jax.devices()[0].device_kind if jax.default_backend() == 'gpu' else '')",
    "tensorflow": "import tensorflow; print('GPU' if tensorflow.config.list_physical_devices('GPU') else '')",
}
NONE_FOUND = "No GPU was visible to PyTorch, JAX or TensorFlow, so nothing was measured on one."


def visible() -> dict[str, str]:
    """Return backend -> name of the GPU it sees, asking each in a process of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    found = {}
    for backend, code in PROBES.items():
        answer = subprocess.run(
            [str(OUR_PYTHON), "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        name = answer.stdout.strip().splitlines()
        if answer.returncode == 0 and name and name[-1]:
            found[backend] = name[-1]
    return found


def measure_gpu(plan: Plan) -> dict[str, Any]:
    """Measure the networks on the GPU; returns a line instead where there is none."""
    devices = visible()
    backends = [name for name in plan.backends if name in devices]
    if not backends:
        print(NONE_FOUND, flush=True)
        return {"device": None, "line": NONE_FOUND, "forward": []}
    contenders = (twins("gpu") if "torch" in devices else []) + graphs(backends, "gpu")
    with Fleet(contenders, plan.threads, plan.deadline) as fleet:
        forward = forward_cases(Networks(fleet, plan))
    line = f"{devices[backends[0]]}, seen by {', '.join(devices)}."
    return {"device": devices, "line": line, "forward": forward}
