"""Matrices in FreeSurfer's LTA text files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidTransform
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.transform import Affine

VOXEL, WORLD, SURFACE = 0, 1, 3
HEADINGS = {"src volume info": "source", "dst volume info": "target"}
DIRECTIONS = ("xras", "yras", "zras")


def write_lta(affine: Affine) -> str:
    """Write a matrix as the text of an LTA file, in the space that it is in.

    Raises
    ------
    InvalidTransform
        If one of the two grids is unknown.
    """
    if affine.source is None or affine.target is None:
        raise InvalidTransform("an LTA file holds the geometry of both images, found a matrix without it")
    kind = "1 # LINEAR_RAS_TO_RAS" if affine.space == "world" else "0 # LINEAR_VOX_TO_VOX"
    lines = [f"type      = {kind}", "nxforms   = 1", "mean      = 0.0000 0.0000 0.0000"]
    lines += ["sigma     = 1.0000", "1 4 4", *(_numbers(row) for row in affine.matrix)]
    lines += ["src volume info", *_geometry_lines(affine.source)]
    lines += ["dst volume info", *_geometry_lines(affine.target)]
    return "\n".join(lines) + "\n"


def _geometry_lines(geometry: Geometry) -> list[str]:
    sizes, directions, centre = geometry.without_shear()
    return [
        "valid = 1",
        "filename = none",
        f"volume = {' '.join(map(str, geometry.shape))}",
        f"voxelsize = {_numbers(sizes)}",
        *(f"{name}   = {_numbers(column)}" for name, column in zip(DIRECTIONS, directions.T, strict=True)),
        f"cras   = {_numbers(centre)}",
    ]


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value + 0.0:.15e}" for value in values)  # + 0.0 turns -0 into 0.


def read_lta(text: str, name: str) -> Affine:
    """Read the text of an LTA file that holds one matrix; surface coordinates become world coordinates.

    Raises
    ------
    InvalidTransform
        If it is damaged, holds no geometry, several matrices, or a type that is not known.
    """
    sections, rows = _divide(text)
    head = sections["head"]
    kind = _integer(head, "type", name)
    if kind not in (VOXEL, WORLD, SURFACE):
        raise InvalidTransform(
            f"{name}: expected an LTA of type 0 (voxel), 1 (world) or 3 (surface), found {kind}"
        )
    count = _integer(head, "nxforms", name)
    if count != 1:
        raise InvalidTransform(f"{name}: expected an LTA of one matrix, found {count}")
    matrix = _matrix(rows, name)
    source, target = (_geometry(sections, side, name) for side in ("source", "target"))
    if kind == SURFACE:
        to_world = target.vox2world @ np.linalg.inv(target.vox2surface)
        matrix = to_world @ matrix @ source.vox2surface @ source.world2vox
    try:
        return Affine(matrix, source, target, "voxel" if kind == VOXEL else "world")
    except InvalidTransform as error:
        raise InvalidTransform(f"{name}: {error}") from error


def _divide(text: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Sort ``key = value`` lines by section, and collect the lines that follow ``1 4 4``."""
    sections: dict[str, dict[str, str]] = {"head": {}}
    section, rows, in_matrix = "head", [], False
    for line in text.splitlines():
        content = line.partition("#")[0].strip()
        if content in HEADINGS:
            section, in_matrix = HEADINGS[content], False
            sections[section] = {}
        elif content.split() == ["1", "4", "4"]:
            in_matrix = True
        elif "=" in content:
            key, _, value = content.partition("=")
            sections[section][key.strip()] = value.strip()
        elif content and in_matrix:
            rows.append(content)
    return sections, rows


def _integer(section: Mapping[str, str], key: str, name: str) -> int:
    try:
        return int(section[key])
    except (KeyError, ValueError):
        found = section.get(key, "no such line")
        raise InvalidTransform(f"{name}: expected a line '{key} = NUMBER', found {found}") from None


def _matrix(rows: list[str], name: str) -> np.ndarray:
    try:
        matrix = np.array([[float(number) for number in row.split()] for row in rows])
    except ValueError:
        matrix = np.empty(0)
    if matrix.shape != (4, 4):
        raise InvalidTransform(
            f"{name}: expected four rows of four numbers in the LTA, found {len(rows)} rows; "
            "the file is damaged or truncated"
        )
    return matrix


def _geometry(sections: Mapping[str, Mapping[str, str]], side: str, name: str) -> Geometry:
    section = sections.get(side, {})
    if section.get("valid", "0").split() != ["1"]:
        raise InvalidTransform(
            f"{name}: the LTA holds no valid geometry of the {side} image; "
            "write it again with both images named"
        )
    try:
        shape = [int(length) for length in section["volume"].split()]
        sizes, *columns, centre = (
            np.array([float(number) for number in section[key].split()])
            for key in ("voxelsize", *DIRECTIONS, "cras")
        )
        return Geometry.of_parts(shape, sizes, np.stack(columns, axis=1), centre)
    except (KeyError, ValueError, InvalidImage) as error:
        raise InvalidTransform(
            f"{name}: the geometry of the {side} image in the LTA is damaged or truncated ({error})"
        ) from error
