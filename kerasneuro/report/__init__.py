"""A page to look at after a run: slices with outlines, volumes, doubts, and where everything came from."""

from __future__ import annotations

from kerasneuro.report.page import report_paths, require_report, write_quality_page

__all__ = ["report_paths", "require_report", "write_quality_page"]
