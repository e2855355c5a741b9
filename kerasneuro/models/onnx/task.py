"""Segment scans block by block with a network of a third party."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerasneuro.tasks.blocks import BlockTask, block_task

if TYPE_CHECKING:
    from kerasneuro.registry import ModelCard

TASK = BlockTask


def task_of(card: ModelCard) -> type[BlockTask]:
    """Return the task of one model, with its images and its outputs."""
    return block_task(card)
