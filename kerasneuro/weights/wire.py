"""Read the fields of protocol-buffer messages, without their definitions and without running anything."""

from __future__ import annotations

from collections.abc import Iterator

from kerasneuro.errors import WeightsCorrupt

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10
WIDTHS = {FIXED64: 8, FIXED32: 4}


def read_varint(data: memoryview | bytes, start: int) -> tuple[int, int]:
    """Return the number that starts at `start`, and where the next thing starts.

    Raises
    ------
    WeightsCorrupt
        If it reaches past the end, or is longer than 64 bits.
    """
    value = 0
    for place, byte in enumerate(data[start : start + LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, start + place + 1
    raise WeightsCorrupt("is damaged: a number reaches past its end or is too large")


def fields(message: memoryview | bytes) -> Iterator[tuple[int, int | memoryview]]:
    """Go through the fields of a message in their order.

    Parameters
    ----------
    message : bytes
        The serialised message.

    Yields
    ------
    number : int
        Of the field.
    value : int or memoryview
        Variable-length numbers as int (not negative), everything else as its bytes.

    Raises
    ------
    WeightsCorrupt
        If a field reaches past the end, or is of a kind that is not in use any more.
    """
    view, position = memoryview(message), 0
    while position < len(view):
        tag, position = read_varint(view, position)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, position = read_varint(view, position)
            yield number, value
            continue
        if kind == BYTES:
            length, position = read_varint(view, position)
        elif kind in WIDTHS:
            length = WIDTHS[kind]
        else:
            raise WeightsCorrupt(f"is damaged: a field of the unknown kind {kind}")
        if length > len(view) - position:
            raise WeightsCorrupt("is damaged: a field reaches past the end of its message")
        yield number, view[position : position + length]
        position += length


def number(value: int | memoryview) -> int:
    """Return a field that must be a number.

    Raises
    ------
    WeightsCorrupt
        If it is not.
    """
    if not isinstance(value, int):
        raise WeightsCorrupt("is damaged: a text where a number should be")
    return value


def content(value: int | memoryview) -> memoryview:
    """Return a field that must be bytes: a text or another message.

    Raises
    ------
    WeightsCorrupt
        If it is not.
    """
    if isinstance(value, int):
        raise WeightsCorrupt("is damaged: a number where a text should be")
    return value


def text(value: int | memoryview) -> str:
    """Return a field that must be a text.

    Raises
    ------
    WeightsCorrupt
        If it is not UTF-8.
    """
    try:
        return bytes(content(value)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise WeightsCorrupt("is damaged: a name is not a text") from error
