"""Interpret the pickles of PyTorch files without Python's unpickler: no import and no call can happen.

`pickletools` splits the stream into instructions; the few that PyTorch writes are carried out here on plain
lists, dictionaries and the inert records of `torch_records`. Every other instruction is refused.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights.torch_records import (
    Name,
    Record,
    Storage,
    Tensor,
    call,
    check_key,
    mention,
    storage_dtype,
)

MOST_BYTES = 64 << 20
MOST_INSTRUCTIONS = 20_000_000
MOST_ELEMENTS = 1 << 40

# Instructions that put their argument on the stack.
VALUES = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
GATHER: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": list,
    "DICT": lambda items: dict(_pairs(items)),
}


@dataclass(frozen=True)
class Pickle:
    """One interpreted pickle.

    Attributes
    ----------
    value : object
        Texts, numbers, lists, tuples, dictionaries and records.
    length : int
        Bytes that the pickle takes.
    storages : tuple of Storage
        Every storage that it mentions, in order.
    """

    value: Any
    length: int
    storages: tuple[Storage, ...]


def load(data: bytes) -> Pickle:
    """Interpret one pickle.

    Parameters
    ----------
    data : bytes
        Starts with the pickle; may go on after it.

    Returns
    -------
    Pickle
        Its value, length and storages.

    Raises
    ------
    WeightsCorrupt
        If it is damaged, too long, or asks for anything that a file of weights does not need.
    """
    stream = io.BytesIO(data[:MOST_BYTES])
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_INSTRUCTIONS:
                raise WeightsCorrupt("has too many pickle instructions for a file of weights")
            machine.step(opcode.name, argument)
        return Pickle(machine.stack.pop(), stream.tell(), tuple(machine.storages))
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        if isinstance(error, WeightsCorrupt):
            raise
        raise WeightsCorrupt(f"has a damaged pickle ({type(error).__name__}: {str(error)[:200]})") from error


class _Machine:
    """The stack, marks and memory of a pickle in progress."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, Any] = {}
        self.storages: list[Storage] = []

    def step(self, name: str, argument: Any) -> None:
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in TUPLES:
            self.stack.append(tuple(self.take(TUPLES[name])))
        elif name in GATHER:
            self.stack.append(GATHER[name](self.take_marked()))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memory[len(self.memory) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[argument])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name not in ("PROTO", "FRAME", "STOP"):
            self.build(name, argument)

    def build(self, name: str, argument: Any) -> None:
        """Carry out the instructions that fill or make objects."""
        if name == "GLOBAL":
            self.stack.append(mention(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            self.stack.append(mention(*self.take(2)))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self.take(2)
            self.stack.append(call(function, arguments))
        elif name == "BINPERSID":
            self.storages.append(_storage(self.stack.pop()))
            self.stack.append(self.storages[-1])
        elif name == "BUILD":
            _set_state(*self.take(2, keep=1))
        elif name in ("SETITEM", "SETITEMS"):
            items = self.take(2) if name == "SETITEM" else self.take_marked()
            _set_items(self.stack[-1], items)
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = self.take(1) if name == "APPEND" else self.take_marked()
            _extend(self.stack[-1], items)
        else:
            raise WeightsCorrupt(f"has the pickle instruction {name}, which no file of weights needs")

    def take(self, count: int, keep: int = 0) -> list[Any]:
        """Remove the last values of the stack, all but the first `keep` of them, and return them."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise WeightsCorrupt("has a damaged pickle (its stack is empty)")
        values = self.stack[start:]
        del self.stack[start + keep :]
        return values

    def take_marked(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise WeightsCorrupt("has a damaged pickle (a key without a value)")
    return [(check_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]


def _set_items(target: Any, items: list[Any]) -> None:
    mapping = target.items if isinstance(target, Record) else target
    if not isinstance(mapping, dict):
        raise WeightsCorrupt("sets items of something that is not a dictionary")
    mapping.update(_pairs(items))


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, Record):
        target.items.update(enumerate(items, start=len(target.items)))
    elif isinstance(target, list):
        target.extend(items)
    else:
        raise WeightsCorrupt("extends something that is not a list")


def _set_state(target: Any, state: Any) -> None:
    """Keep the attributes of a record; those of dictionaries and tensors (versions, hooks) are not needed."""
    if isinstance(target, Record):
        target.state = state
    elif not isinstance(target, dict | Tensor):
        raise WeightsCorrupt("sets the state of something that is not an object")


def _storage(identity: Any) -> Storage:
    """Read ``("storage", type, key, location, length[, view])``; the location does not matter."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise WeightsCorrupt("refers to something that is not a storage")
    _, kind, key, _, length = identity[:5]
    dtype = storage_dtype(kind.text) if isinstance(kind, Name) else None
    if (
        dtype is None
        or not isinstance(key, str)
        or type(length) is not int
        or not 0 <= length <= MOST_ELEMENTS
    ):
        raise WeightsCorrupt("refers to a storage without type, name or size")
    view = identity[5] if len(identity) == 6 else None
    if view is None:
        return Storage(key, dtype, length, 0, length)
    _, start, size = view
    if type(start) is not int or type(size) is not int or start < 0 or size < 0 or start + size > length:
        raise WeightsCorrupt("refers to a part outside a storage")
    return Storage(key, dtype, length, start, size)
