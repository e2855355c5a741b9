"""Names and colours of labels: as FreeSurfer's text file, and as the table inside an MGH file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

Colour = tuple[int, int, int]
TAG_OLD_COLORTABLE = 1
VERSION = -2
MGH_TRAILER = "kerasneuro_mgh_trailer"
"""Key of nibabel's `extra`: bytes that `save_image` writes at the end of an MGH file."""


@dataclass(frozen=True)
class ColourTable:
    """Map each label to its name and its colour.

    Attributes
    ----------
    entries : mapping of int to (str, (int, int, int))
        Red, green and blue from 0 to 255.
    """

    entries: Mapping[int, tuple[str, Colour]]

    def hexadecimal(self, label: int) -> str:
        """Return a colour as ``#rrggbb``."""
        red, green, blue = self.entries[label][1]
        return f"#{red:02x}{green:02x}{blue:02x}"

    def text(self) -> str:
        """Write the table in the form of ``FreeSurferColorLUT.txt``; the last column is transparency."""
        lines = ["#No. Label Name:                            R   G   B   A"]
        for label, (name, (red, green, blue)) in sorted(self.entries.items()):
            lines.append(f"{label:<5}{name:<40}{red:<4}{green:<4}{blue:<4}0")
        return "\n".join(lines) + "\n"

    def mgh_trailer(self) -> bytes:
        """Write the table as an MGH file holds it at its end, as a tag.

        Big-endian: tag 1, version -2, one past the largest label, length of a file name (none), number of
        entries; then of each the label, the length of its name with the closing zero, the name, red, green,
        blue, transparency.
        """
        head = (TAG_OLD_COLORTABLE, VERSION, max(self.entries) + 1, 0, len(self.entries))
        parts = [struct.pack(">5i", *head)]
        for label, (name, colour) in sorted(self.entries.items()):
            text = name.encode("ascii") + b"\0"
            parts.append(struct.pack(">2i", label, len(text)) + text + struct.pack(">4i", *colour, 0))
        return b"".join(parts)
