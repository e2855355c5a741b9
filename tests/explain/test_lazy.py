"""The room is reached as an attribute, and importing the package brings neither NumPy nor Keras."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.backend_free

PROGRAM = """
import sys
import kerasneuro
assert "explain" in dir(kerasneuro)
assert not {"numpy", "keras", "kerasneuro.explain"} & set(sys.modules)
print(kerasneuro.explain.grad_cam.__name__)
assert not {"keras", "matplotlib"} & set(sys.modules)
"""


def test_explain_is_imported_when_it_is_used_and_needs_no_keras_for_that() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("grad_cam\n", 0), done.stderr
