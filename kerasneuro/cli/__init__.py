"""The command line: arguments in, one call, files out."""

from __future__ import annotations

from kerasneuro.cli.app import main

__all__ = ["main"]
