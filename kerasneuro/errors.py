"""The errors a user can meet: each says what was expected, what was found, and what to do."""

from __future__ import annotations


class KerasNeuroError(Exception):
    """Base of every error that kerasneuro raises on purpose."""


class ModelNotFound(KerasNeuroError, LookupError):
    """The name is not in the registry; the nearest names are listed."""


class ModelNotReady(KerasNeuroError):
    """The registry knows the model, but it cannot be loaded yet (status ``planned``)."""


class WeightsNotFound(KerasNeuroError, FileNotFoundError):
    """A weight file is neither given, nor cached, nor published."""


class WeightsCorrupt(KerasNeuroError, ValueError):
    """A weight file is damaged, truncated, hostile, or not the registered bytes."""


class WeightsMismatch(KerasNeuroError, ValueError):
    """The arrays of a weight file do not fit the variables of the graph one to one."""


class UnsupportedGraph(KerasNeuroError, ValueError):
    """An ONNX graph uses an operator, or a way to use one, that cannot become a Keras graph."""


class FetchFailed(KerasNeuroError, OSError):
    """No source delivered the registered bytes of a file."""


class InvalidImage(KerasNeuroError, ValueError):
    """An image cannot be used: not an image, wrong dimensions, damaged, empty or not finite."""


class InvalidTransform(KerasNeuroError, ValueError):
    """A spatial transform cannot be used: damaged, foreign, without geometry, or made for another image."""


class InvalidOption(KerasNeuroError, ValueError):
    """An option of a call has a value outside what is allowed."""


class HubDamaged(KerasNeuroError, ValueError):
    """The list of added models cannot be read."""


class OutputError(KerasNeuroError, OSError):
    """A result cannot be written: the target exists, is an input, or its folder cannot be used."""


class OutOfMemory(KerasNeuroError, MemoryError):
    """The smallest block that the network allows does not fit into the memory granted."""


class MissingDependency(KerasNeuroError, ImportError):
    """An optional package is not installed; the extra that brings it is named."""
