"""Block-wise prediction for any Keras model: where blocks lie, how they are put back, what computes them."""

from __future__ import annotations

from kerasneuro.inference.augment import flip, flip_axes
from kerasneuro.inference.blend import BlendWeights, profile
from kerasneuro.inference.engine import Engine
from kerasneuro.inference.grid import Block, Grid, make_grid
from kerasneuro.inference.memory import estimate_memory, network_multiple
from kerasneuro.inference.predict import BlockPrediction, predict_blocks
from kerasneuro.inference.settings import Settings, parse_memory
from kerasneuro.inference.uncertainty import StreamingMoments

__all__ = [
    "BlendWeights",
    "Block",
    "BlockPrediction",
    "Engine",
    "Grid",
    "Settings",
    "StreamingMoments",
    "estimate_memory",
    "flip",
    "flip_axes",
    "make_grid",
    "network_multiple",
    "parse_memory",
    "predict_blocks",
    "profile",
]
