"""ONNX files that a reader of weights must refuse; see make.py."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

Builder = Callable[[Path, Path], None]
BUILDERS: dict[str, Builder] = {}
FOUR = struct.pack("<4f", 0, 1, 2, 3)
FLOAT, STRING = 1, 8


def register(builder: Builder) -> Builder:
    BUILDERS[builder.__name__] = builder
    return builder


# An assembler of protocol-buffer messages.


def varint(value: int) -> bytes:
    """Encode a number, a negative one as its 64-bit complement."""
    value &= (1 << 64) - 1
    parts = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes(part | 0x80 for part in parts[:-1]) + bytes(parts[-1:])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(
    *shape: int, dtype: int = FLOAT, name: str = "weight", values: bytes = part(9, FOUR), more: bytes = b""
) -> bytes:
    """A TensorProto; `values` is a complete field, by default four floats as raw bytes."""
    return b"".join(number(1, size) for size in shape) + number(2, dtype) + part(8, name) + values + more


def external(location: str, *, offset: str | None = "0", length: str | None = "16") -> bytes:
    """The fields that place the values of a tensor in another file."""
    pairs = {"location": location, "offset": offset, "length": length}
    entries = (part(13, part(1, key) + part(2, value)) for key, value in pairs.items() if value is not None)
    return b"".join(entries) + number(14, 1)


def model(*tensors: bytes, graph: bytes = b"", more: bytes = b"") -> bytes:
    """A ModelProto whose graph holds these initialisers."""
    inside = b"".join(part(5, item) for item in tensors) + graph
    head = number(1, 8) + part(2, "maker") + part(3, "1.0")
    return head + part(7, inside) + part(8, number(2, 17)) + more


def add(name: str, *tensors: bytes, **options: bytes) -> None:
    BUILDERS[f"onnx_{name}"] = lambda path, canary: path.write_bytes(model(*tensors, **options)) and None


def add_external(name: str, location: str, **options: str | None) -> None:
    """Register a tensor of four floats in another file: four.bin beside it, or one outside the folder."""

    def build(path: Path, canary: Path) -> None:
        outside = path.parent.parent / "onnx.outside"
        for place in (outside, path.with_name("four.bin")):
            place.write_bytes(FOUR)
        link = path.with_name("link.bin")
        if not link.is_symlink():
            link.symlink_to(outside)
        target = location.format(folder=path.parent, outside=outside)
        path.write_bytes(model(tensor(4, values=external(target, **options))))

    BUILDERS[f"onnx_external_{name}"] = build


add("dims_overflow", tensor(1 << 32, 1 << 32))
add("dims_overflow_to_four", tensor((1 << 62) + 1, 4))
add("dims_negative", tensor(-4))
add("dims_negative_pair", tensor(-2, -2))
add("dims_huge", tensor(1 << 40))
add("dims_huge_beside_none", tensor(0, 1 << 62, values=b""))
add("dims_many", tensor(*[1] * 500, values=part(9, FOUR[:4])))
add("raw_short", tensor(5))
add("raw_long", tensor(3))
add("raw_twice", tensor(4, values=part(9, FOUR) * 2))
add("raw_and_typed", tensor(4, more=part(4, FOUR)))
add("raw_missing", tensor(4, values=b""))
add("floats_short", tensor(5, values=part(4, FOUR)))
add("floats_of_integers", tensor(4, dtype=7, values=part(4, FOUR)))
add("integers_short", tensor(5, dtype=7, values=part(7, b"\1\2\3\4")))
add("integers_cut", tensor(4, dtype=7, values=part(7, b"\1\2\3\x84")))
add("integers_as_one_number", tensor(1, dtype=7, values=number(7, 3)))
add("type_unknown", tensor(4, dtype=99))
add("type_missing", tensor(4, dtype=0))
add("type_text", tensor(1, dtype=STRING, values=part(6, "text")))
add("segment", tensor(4, more=part(3, number(1, 0) + number(2, 4))))
add("place_unknown", tensor(4, more=number(14, 2)))
add("place_both", tensor(4, more=external("four.bin")))
add("name_missing", tensor(4, name=""))
add("name_twice", tensor(4), tensor(4))
add("name_is_not_text", number(1, 4) + number(2, 1) + part(8, b"\xff\xfe") + part(9, FOUR))
add("sparse", graph=part(15, part(1, tensor(4))))
add("two_graphs", tensor(4), more=part(7, part(5, tensor(4, name="other"))))
add("graph_is_number", more=number(7, 3))
add("initialiser_is_number", graph=number(5, 3))
add("group", more=varint(30 << 3 | 3))
add("length_beyond", more=varint(30 << 3 | 2) + varint(1 << 62))

add_external("parent", "../onnx.outside")
add_external("parent_inside", "four.bin/../../onnx.outside")
add_external("absolute", "{outside}")
add_external("absolute_in_folder", "{folder}/four.bin")
add_external("windows", "..\\onnx.outside")
add_external("drive", "C:/four.bin")
add_external("nothing", "")
add_external("zero_byte", "four.bin\0.txt")
add_external("folder", ".")
add_external("link", "link.bin")
add_external("beyond", "four.bin", offset="4")
add_external("beyond_all", "four.bin", offset=str((1 << 63) - 16))
add_external("offset_negative", "four.bin", offset="-16")
add_external("offset_text", "four.bin", offset="0x10")
add_external("length_short", "four.bin", length="12")
add_external("length_huge", "four.bin", length="9" * 30)


@register
def onnx_no_graph(path: Path, canary: Path) -> None:
    path.write_bytes(number(1, 8) + part(8, number(2, 17)))


@register
def onnx_cut(path: Path, canary: Path) -> None:
    path.write_bytes(model(tensor(4))[:-30])


@register
def onnx_endless_number(path: Path, canary: Path) -> None:
    path.write_bytes(number(1, 8) + b"\xff" * 64)


# Harmless to this reader, which never enters a node: a reader that follows the graph may fall.


def nested(depth: int) -> bytes:
    """A chain of nodes, each with a graph inside, in linear size of text and hundreds of levels."""
    message = b""
    for _ in range(depth):
        node = part(5, part(1, "body") + part(6, message)) + part(4, "If")
        message = part(1, node)
    return message


def write_nested(path: Path) -> None:
    path.write_bytes(model(tensor(4), graph=nested(2000)))
