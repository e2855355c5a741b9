"""Models of third parties, and of your own, under names of their own."""

from __future__ import annotations

from kerasneuro.hub.catalogue import add, added, as_table, folder_of, remove, task_of

__all__ = ["add", "added", "as_table", "folder_of", "remove", "task_of"]
