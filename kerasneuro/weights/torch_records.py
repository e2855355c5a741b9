"""The only names that a PyTorch pickle may mention, and the inert records that they become.

Nothing here is the named thing itself: a class or function of a file is looked up here, not imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kerasneuro.errors import WeightsCorrupt

MOST_AXES = 32


@dataclass(frozen=True)
class Name:
    """A class or function that the file mentions, as text."""

    text: str


@dataclass(eq=False)
class Record:
    """An object of a class that is known to be harmless and is not rebuilt: only its parts are kept."""

    kind: str
    args: tuple[Any, ...] = ()
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True)
class Storage:
    """A run of numbers of one type that lies elsewhere in the file: all `total` of it, or a part."""

    key: str
    dtype: str
    total: int
    start: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# torch.<name>Storage -> NumPy type; bfloat16, which NumPy lacks, keeps its name.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
DTYPES = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    **{name: name for name in set(STORAGES.values()) | {"uint16", "uint32", "uint64"}},
}
BUILTINS = (
    "dict",
    "list",
    "tuple",
    "set",
    "frozenset",
    "int",
    "float",
    "complex",
    "str",
    "bool",
    "bytes",
    "object",
)
# Containers and numbers that training programs put beside the weights: settings, metrics, file names.
INERT = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "_codecs.encode",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "yacs.config.CfgNode",
    "typing.Any",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.PurePosixPath",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "collections.Counter",
    "collections.deque",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    *(f"builtins.{name}" for name in BUILTINS),
    *(f"torch.{name}" for name in DTYPES),
}
INERT_PREFIXES = (
    "__torch__.",
    "numpy.dtypes.",
    "omegaconf.",
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
)
REBUILDERS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
CONTAINERS = {"collections.OrderedDict", "collections.defaultdict"}
# TorchScript tags its lists; the tag is dropped.
TAGS = {
    f"torch.jit._pickle.{name}"
    for name in (
        "build_intlist",
        "build_doublelist",
        "build_boollist",
        "build_tensorlist",
        "restore_type_tag",
    )
}


def mention(module: str, name: str) -> Name:
    """Return the record of a class or function that the pickle mentions.

    Raises
    ------
    WeightsCorrupt
        If it is not in the lists above.
    """
    text = f"{'builtins' if module == '__builtin__' else module}.{name}"
    known = text in INERT | REBUILDERS | CONTAINERS | TAGS or text.startswith(INERT_PREFIXES)
    if not known and storage_dtype(text) is None:
        raise WeightsCorrupt(
            f"mentions {text[:200]!r}, which no file of weights needs; it was not run: "
            "save the state dict alone, or do not trust the file"
        )
    return Name(text)


def storage_dtype(text: str) -> str | None:
    """Return the element type of ``torch.FloatStorage`` and its like; None for other names."""
    module, _, name = text.rpartition(".")
    return STORAGES.get(name) if module in ("torch", "torch.cuda", "torch.storage") else None


def call(function: Any, args: Any) -> Any:
    """Do what a REDUCE of the pickle asks for, with records in place of the real objects.

    Raises
    ------
    WeightsCorrupt
        If the function is no record, or its arguments are not those that PyTorch writes.
    """
    if not isinstance(function, Name) or not isinstance(args, tuple):
        raise WeightsCorrupt("calls something that is not a known function")
    if function.text in CONTAINERS:
        return {}  # its items follow, one by one
    if function.text in TAGS:
        return args[0]
    if function.text.startswith("torch._utils._rebuild_parameter"):
        return args[0]
    if function.text in REBUILDERS:
        return rebuild_tensor(args)
    return Record(function.text, args)


def rebuild_tensor(args: tuple[Any, ...]) -> Tensor:
    """Check a tensor against its storage.

    Parameters
    ----------
    args : tuple
        Storage, offset, shape, strides, then what inference does not need; the type follows in ``_v3``.

    Raises
    ------
    WeightsCorrupt
        If the tensor would reach outside its storage or claims more elements than that holds.
    """
    storage, offset, shape, strides = args[:4]
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise WeightsCorrupt("builds a tensor from something that is not a storage")
    dtype, length = storage.dtype, storage.length
    if len(args) > 6 and isinstance(args[6], Name):
        dtype = DTYPES.get(args[6].text.rpartition(".")[2], "")
        if not dtype:
            raise WeightsCorrupt(f"holds a tensor of the unknown type {args[6].text!r}")
        length = length * itemsize(storage.dtype) // itemsize(dtype)
    numbers = (offset, *shape, *strides)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise WeightsCorrupt("holds a tensor with a negative or missing size, stride or offset")
    if len(shape) != len(strides) or len(shape) > MOST_AXES:
        raise WeightsCorrupt("holds a tensor whose strides do not belong to its shape")
    count = int(np.prod(shape, dtype=object))
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and (count > length or last >= length):
        raise WeightsCorrupt(
            f"holds a tensor of shape {shape} that reaches outside its storage of {length} elements"
        )
    return Tensor(storage, dtype, offset, shape, strides)


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def check_key(key: Any) -> Any:
    """Return a dictionary key; refuse those whose hash could be made to take forever.

    Raises
    ------
    WeightsCorrupt
        If it is not a text, a number, a record, or a flat tuple of these.
    """
    plain = (str, bytes, int, float, Name, Record, type(None))
    if isinstance(key, plain) or (isinstance(key, tuple) and all(isinstance(part, plain) for part in key)):
        return key
    raise WeightsCorrupt(f"uses a {type(key).__name__} as the key of a dictionary")
