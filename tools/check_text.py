"""Refuse text that belongs to one machine: absolute home or work paths, and addresses of package registries.

The project must install from whatever index a user has configured, so no file names one.
``python tools/check_text.py [FOLDER]`` prints hits as ``file:line: what``; exit code 1 if there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Written in pieces, so that this file does not name them either.
FORBIDDEN = {
    "path of one machine": re.compile(
        r"(?<![\w.])/(work|root|Users/\w+|home/\w+)/(?=\w)" + "|/opt/" + "(pypi|wheels)"
    ),
    "address of a package registry": re.compile(
        r"(pypi\.)"
        + r"org|pythonhosted\.|"
        + r"download\.pytorch\.|"
        + r"registry\.npmjs|"
        + r"deb\.debian\.",
    ),
}
BINARY = {".gz", ".npz", ".h5", ".mgz", ".onnx", ".pth", ".pkl", ".ckpt", ".png", ".npy", ".pb"}


def project_files(root: Path) -> list[Path]:
    """List the files that are, or would be, under version control."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [root / name for name in sorted(set(names)) if name and (root / name).is_file()]


def find_forbidden(paths: list[Path]) -> Iterator[tuple[Path, int, str]]:
    """Yield (file, line number, what) for every forbidden text in the given files."""
    for path in paths:
        if path.suffix in BINARY:
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, start=1):
            for what, pattern in FORBIDDEN.items():
                if match := pattern.search(line):
                    yield path, number, f"{what}: {match.group(0)}"


def main() -> int:
    """Check the project around this file, or the folder given."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    hits = list(find_forbidden(project_files(root)))
    for path, number, what in hits:
        print(f"{path.relative_to(root)}:{number}: {what}")
    return 1 if hits else 0


if __name__ == "__main__":
    raise SystemExit(main())
