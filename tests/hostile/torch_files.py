"""Pickles, zip archives and legacy PyTorch files that a reader of weights must refuse; see make.py."""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Builder = Callable[[Path, Path], None]
BUILDERS: dict[str, Builder] = {}
ROOT = "archive"
FOUR = np.arange(4, dtype="<f4").tobytes()


def register(builder: Builder) -> Builder:
    BUILDERS[builder.__name__] = builder
    return builder


# An assembler of pickles: each function returns instructions that leave one value on the stack.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    return (
        b"J" + struct.pack("<i", value) if abs(value) < 1 << 31 else b"\x8a\x09" + value.to_bytes(9, "little")
    )


def mention(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def gather(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return mention(module, name) + gather(*arguments) + b"R"


def dictionary(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(length: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return gather(text("storage"), mention("torch", kind), text(key), text("cpu"), integer(length)) + b"Q"


def tensor(stored: bytes, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    numbers = [gather(*(integer(number) for number in group)) for group in (shape, strides)]
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", stored, integer(offset), *numbers, b"\x89", hooks)


def good() -> bytes:
    """A state dict of one tensor of four elements."""
    return dictionary(weight=tensor(storage(4), (4,), (1,)))


# Containers around a pickle.


def write_zip(path: Path, value: bytes, storages: dict[str, bytes] | None = None, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{ROOT}/data.pkl", b"\x80\x02" + value + b".")
        for key, data in ({"0": FOUR} if storages is None else storages).items():
            archive.writestr(f"{ROOT}/data/{key}", data)
        for name, data in members.items():
            archive.writestr(name, data)


def write_legacy(path: Path, value: bytes, keys: tuple[str, ...] = ("0",), tail: bytes | None = None) -> None:
    magic = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
    listed = b"](" + b"".join(text(key) for key in keys) + b"e"
    pickles = [magic, integer(1001), dictionary(little_endian=b"\x88"), value, listed]
    data = b"".join(b"\x80\x02" + item + b"." for item in pickles)
    path.write_bytes(data + (struct.pack("<q", 4) + FOUR if tail is None else tail))


def add_pickle(name: str, make: Callable[[Path], bytes], *, zip_only: bool = False) -> None:
    """Register the pickle in both containers, or in zip alone where the other fails earlier."""
    BUILDERS[f"{name}_zip"] = lambda path, canary: write_zip(path, make(canary))
    if not zip_only:
        BUILDERS[f"{name}_legacy"] = lambda path, canary: write_legacy(path, make(canary))


def touch(canary: Path) -> bytes:
    return text(f"touch '{canary}'")


def python(canary: Path) -> bytes:
    return text(f"open({str(canary)!r}, 'w').close()")


add_pickle("os_system", lambda canary: call("os", "system", touch(canary)))
add_pickle("posix_system", lambda canary: call("posix", "system", touch(canary)))
add_pickle("subprocess", lambda canary: call("subprocess", "getoutput", touch(canary)))
add_pickle("eval", lambda canary: call("builtins", "eval", python(canary)))
add_pickle("eval_python2", lambda canary: call("__builtin__", "eval", python(canary)))
add_pickle(
    "exec_inside", lambda canary: dictionary(model=good(), epoch=call("builtins", "exec", python(canary)))
)
add_pickle(
    "stack_global", lambda canary: text("os") + text("system") + b"\x93" + gather(touch(canary)) + b"R"
)
add_pickle("inst", lambda canary: b"(" + touch(canary) + b"ios\nsystem\n")
add_pickle("obj", lambda canary: b"(" + mention("os", "system") + touch(canary) + b"o")
add_pickle("dotted_name", lambda canary: call("torch", "_utils.os.system", touch(canary)))
add_pickle("load_from_bytes", lambda canary: call("torch.storage", "_load_from_bytes", touch(canary)))
add_pickle("torch_hub", lambda canary: call("torch.hub", "load", touch(canary)))
add_pickle(
    "getattr",
    lambda canary: call("builtins", "getattr", mention("torch", "Size"), text("__class__")),
)
add_pickle("record_called", lambda canary: call("argparse", "Namespace") + gather(touch(canary)) + b"R")
add_pickle("text_called", lambda canary: text("os.system") + gather(touch(canary)) + b"R")
add_pickle("extension", lambda canary: b"\x82\x01")
add_pickle("strides_beyond", lambda canary: dictionary(weight=tensor(storage(4), (2, 2), (3, 1))))
add_pickle("stride_negative", lambda canary: dictionary(weight=tensor(storage(4), (4,), (-1,), 3)))
add_pickle("offset_negative", lambda canary: dictionary(weight=tensor(storage(4), (4,), (1,), -4)))
add_pickle("offset_beyond", lambda canary: dictionary(weight=tensor(storage(4), (4,), (1,), 1)))
add_pickle("expanded_bomb", lambda canary: dictionary(weight=tensor(storage(4), (1 << 30, 1 << 30), (0, 0))))
add_pickle("size_overflow", lambda canary: dictionary(weight=tensor(storage(4), (1 << 63, 4), (1, 1))))
add_pickle("rank_differs", lambda canary: dictionary(weight=tensor(storage(4), (2, 2), (1,))))
add_pickle("count_too_large", lambda canary: dictionary(weight=tensor(storage(1 << 40), (1 << 40,), (1,))))
add_pickle("count_too_small", lambda canary: dictionary(weight=tensor(storage(2), (2,), (1,))))
add_pickle(
    "storage_missing",
    zip_only=True,
    make=lambda canary: dictionary(weight=tensor(storage(4, "7"), (4,), (1,))),
)
add_pickle(
    "storage_kind", lambda canary: dictionary(weight=tensor(storage(4, kind="EvilStorage"), (4,), (1,)))
)
add_pickle("storage_is_text", lambda canary: dictionary(weight=tensor(text("0"), (4,), (1,))))
add_pickle("cycle", zip_only=True, make=lambda canary: b"]q\x00h\x00a")
add_pickle("laughs", zip_only=True, make=lambda canary: b")" + b"q\x00h\x00\x86" * 60)
add_pickle("deep_key", zip_only=True, make=lambda canary: b"}" + b")" + b"q\x00h\x00\x86" * 60 + b"Ns")
add_pickle("deep", zip_only=True, make=lambda canary: b")" + b"\x85" * 100_000)
add_pickle("stack_empty", lambda canary: b"R")
add_pickle("mark_missing", lambda canary: b"t")
add_pickle("memory_missing", lambda canary: b"h\x09")
add_pickle("double_name", lambda canary: b"}(" + text("a.b") + tensor_four() + text("a") + nested() + b"u")


def tensor_four() -> bytes:
    return tensor(storage(4), (4,), (1,))


def nested() -> bytes:
    return dictionary(b=tensor_four())


@register
def pickle_cut(path: Path, canary: Path) -> None:
    path.write_bytes(b"\x80\x02X\xff\xff\xff\x7fabc")


@register
def pickle_plain(path: Path, canary: Path) -> None:
    path.write_bytes(b"\x80\x04" + call("os", "system", touch(canary)) + b".")


@register
def legacy_cut(path: Path, canary: Path) -> None:
    write_legacy(path, good(), tail=struct.pack("<q", 4) + FOUR[:-1])


@register
def legacy_count_negative(path: Path, canary: Path) -> None:
    write_legacy(path, good(), tail=struct.pack("<q", -4) + FOUR)


@register
def legacy_storage_unlisted(path: Path, canary: Path) -> None:
    write_legacy(path, good(), keys=(), tail=b"")


@register
def legacy_storage_twice(path: Path, canary: Path) -> None:
    write_legacy(path, good(), keys=("0", "0"), tail=(struct.pack("<q", 4) + FOUR) * 2)


@register
def legacy_tail(path: Path, canary: Path) -> None:
    write_legacy(path, good(), tail=struct.pack("<q", 4) + FOUR + b"more")


@register
def zip_cut(path: Path, canary: Path) -> None:
    write_zip(path, good())
    path.write_bytes(path.read_bytes()[:-40])


@register
def zip_cut_front(path: Path, canary: Path) -> None:
    write_zip(path, good())
    path.write_bytes(b"PK\3\4" + path.read_bytes()[60:])


@register
def zip_traversal(path: Path, canary: Path) -> None:
    write_zip(path, good(), **{f"{ROOT}/../../canary": b"x"})


@register
def zip_absolute(path: Path, canary: Path) -> None:
    write_zip(path, good(), **{str(canary): b"x"})


@register
def zip_backslash(path: Path, canary: Path) -> None:
    write_zip(path, good(), **{"..\\canary": b"x"})


@register
def zip_double(path: Path, canary: Path) -> None:
    write_zip(path, good())
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(f"{ROOT}/data/0", FOUR[::-1])


@register
def zip_two_roots(path: Path, canary: Path) -> None:
    write_zip(path, good(), **{"other/data.pkl": b"\x80\x02" + good() + b"."})


@register
def zip_overlap(path: Path, canary: Path) -> None:
    """Two names of the directory lead to the same bytes."""
    write_zip(path, good())
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"rewrite the directory"
        again = zipfile.ZipInfo(f"{ROOT}/data/1")
        first = archive.getinfo(f"{ROOT}/data/0")
        again.header_offset, again.CRC = first.header_offset, first.CRC
        again.file_size = again.compress_size = first.file_size
        archive.filelist.append(again)


@register
def zip_bomb(path: Path, canary: Path) -> None:
    write_zip(path, good())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{ROOT}/code/bomb.py", bytes(64 << 20))


@register
def zip_storage_packed(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{ROOT}/data.pkl", b"\x80\x02" + good() + b".")
        archive.writestr(f"{ROOT}/data/0", FOUR)


@register
def zip_byte_order(path: Path, canary: Path) -> None:
    write_zip(path, good(), **{f"{ROOT}/byteorder": b"middle"})


@register
def keras_archive(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")


@register
def numpy_archive(path: Path, canary: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, weight=np.zeros(3))
