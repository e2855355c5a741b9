"""Do one job with ANTs; run by the Python that has it, which need not have kerasneuro.

Usage: ``python ants_worker.py FOLDER``. The folder holds ``request.json``, ``image.nii``, and as the job
wants ``mask.nii`` or ``moving.nii``; ``answer.json`` (and ``moved.nii``) are written into it.
"""

import json
import sys
from pathlib import Path
from typing import Any


def locate(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return the boxes that ROILoc finds, ``{side: [x0, y0, z0, x1, y1, z1]}``, or an error."""
    import ants
    from roiloc.locator import RoiLocator

    image = ants.image_read(str(folder / "image.nii"), pixeltype="float", reorient="LPI")
    if (folder / "mask.nii").is_file():
        options["mask"] = ants.image_read(str(folder / "mask.nii"), pixeltype="unsigned int", reorient="LPI")
    locator = RoiLocator(roi="hippocampus", **options)
    try:
        locator.fit(image)
    except (AssertionError, ValueError, RuntimeError) as error:
        # ROILoc takes the smallest index of an empty array where the warped atlas misses the image.
        return {"error": str(error) or type(error).__name__}
    return {"boxes": {side: [int(n) for n in box] for side, box in locator.get_coords().items()}}


def register(folder: Path) -> dict[str, Any]:
    """Write the moving image on the grid of the image, after an affine registration."""
    import ants

    image, moving = (
        ants.image_read(str(folder / name), pixeltype="float") for name in ("image.nii", "moving.nii")
    )
    found = ants.registration(fixed=image, moving=moving, type_of_transform="Affine")
    ants.image_write(found["warpedmovout"], str(folder / "moved.nii"))
    return {}


def main(folder: Path) -> None:
    """Read the request and write the answer."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    answer = register(folder) if request["job"] == "register" else locate(folder, request["options"])
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
