"""Training on several devices: the same as on one, where the backend can; one sentence where it can not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.training.distribute import data_parallel

BACKEND = keras.backend.backend()
SPLITS = BACKEND in ("jax", "tensorflow")


@pytest.mark.training
@pytest.mark.skipif(not SPLITS, reason="Keras splits no batches under this backend")
def test_two_devices_train_as_one_does() -> None:
    answer = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("two_devices.py"))],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["devices"] == found["holders"] == 2
    assert found["shares"] == ([0, 1] if BACKEND == "tensorflow" else [])
    assert found["together"] == pytest.approx(found["alone"], rel=1e-6)
    assert found["alone"][1] < found["alone"][0] - 0.01
    assert found["weights"] < 1e-6


@pytest.mark.skipif(SPLITS, reason="Keras splits batches under this backend")
def test_other_backends_say_what_to_do() -> None:
    instead = {"torch": "torchrun", "openvino": "KERAS_BACKEND=jax or tensorflow"}[BACKEND]
    with pytest.raises(InvalidOption, match=instead), data_parallel():
        pass


@pytest.mark.skipif(not SPLITS, reason="Keras splits no batches under this backend")
@pytest.mark.parametrize("devices", [["gpu:7"], ["cpu:0", "cpu:0"], []])
def test_devices_that_are_not_there_are_refused(devices: list[str]) -> None:
    with pytest.raises(InvalidOption, match="cpu:0"), data_parallel(devices):
        pass
