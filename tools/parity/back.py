"""Worker: kerasneuro converts the originals' weight files to its own format, and back to theirs."""

from __future__ import annotations

import sys
from pathlib import Path

from cases import read_cases, write_returned

from kerasneuro import convert_weights


def main(folders: list[Path]) -> None:
    """Write one file per network case that the original can be given back."""
    for folder in folders:
        returned = {}
        for number, case in enumerate(read_cases(folder)[0]):
            if case.kind != "network":
                continue
            source = folder / case.weights[case.part]
            part = case.part or None
            ours = convert_weights(source, case.model, folder / f"ours{number}.h5", part=part)
            suffix = ".h5" if source.suffix == ".h5" else ".pth"
            theirs = folder / f"returned{number}{suffix}"
            convert_weights(ours, case.model, theirs, part=part, to_original=True)
            returned[case.title] = theirs.name
        write_returned(folder, returned)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
