"""HDF5 files that a reader of weights must refuse; see make.py."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

Builder = Callable[[Path, Path], None]
BUILDERS: dict[str, Builder] = {}
FOUR = np.arange(4, dtype="<f4").tobytes()


def register(builder: Builder) -> Builder:
    BUILDERS[builder.__name__] = builder
    return builder


# `keras_file` writes a good file whose only layer holds what `fill` puts in.


def keras_file(
    path: Path, fill: Callable[[h5py.Group], object], *, names: tuple[str, ...] = ("kernel:0",)
) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"dense"])
        layer = file.create_group("dense")
        layer.attrs["weight_names"] = np.array([name.encode() for name in names])
        fill(layer)


def add_dataset(name: str, *arguments: object, **options: object) -> None:
    """Register a file whose dataset is made with these options of h5py."""
    BUILDERS[name] = lambda path, canary: keras_file(
        path, lambda layer: layer.create_dataset("kernel:0", *arguments, **options)
    )


add_dataset("h5_bomb_chunks", shape=(1 << 40,), dtype="f4", chunks=(1 << 20,), compression="gzip")
add_dataset("h5_bomb_unfiltered", shape=(1 << 30,), dtype="f4", chunks=(1 << 20,))
add_dataset("h5_bomb_contiguous", shape=(1 << 36,), dtype="f4")
add_dataset("h5_large_chunks", data=np.ones(4, "f4"), chunks=(1 << 23,), maxshape=(None,), compression="gzip")
add_dataset("h5_foreign_filter", data=np.arange(64), chunks=(64,), scaleoffset=0)
add_dataset("h5_text_values", data=np.array([b"a", b"b"]))
add_dataset("h5_compound_values", data=np.zeros(3, [("a", "f4"), ("b", "i4")]))
add_dataset("h5_object_values", data=np.array(["a", "b"], dtype=object), dtype=h5py.string_dtype())
add_dataset("h5_empty_values", data=h5py.Empty("f4"))
add_dataset("h5_reference_values", data=np.array([None, None]), dtype=h5py.ref_dtype)


def secret(path: Path) -> Path:
    """Write the file beside `path` that a link of the hostile file would disclose."""
    beside = path.with_name(f"{path.name}.secret.h5")
    with h5py.File(beside, "w") as file:
        file["secret"] = np.full(4, 42, "f4")
    return beside


@register
def h5_soft_link(path: Path, canary: Path) -> None:
    def fill(layer: h5py.Group) -> None:
        layer.file["elsewhere"] = np.ones(4, "f4")
        layer["kernel:0"] = h5py.SoftLink("/elsewhere")

    keras_file(path, fill)


@register
def h5_external_link(path: Path, canary: Path) -> None:
    beside = secret(path)
    keras_file(path, lambda layer: layer.__setitem__("kernel:0", h5py.ExternalLink(beside.name, "/secret")))


@register
def h5_external_group(path: Path, canary: Path) -> None:
    """The link stands one group above the array."""
    beside = secret(path)
    keras_file(
        path,
        lambda layer: layer.__setitem__("inner", h5py.ExternalLink(beside.name, "/")),
        names=("inner/secret",),
    )


@register
def h5_link_elsewhere(path: Path, canary: Path) -> None:
    """A good array; the link lies among the slots of the optimizer."""

    def fill(layer: h5py.Group) -> None:
        layer["kernel:0"] = np.ones(4, "f4")
        layer.file.create_group("optimizer_weights")["m"] = h5py.SoftLink("/dense/kernel:0")

    keras_file(path, fill)


@register
def h5_cycle(path: Path, canary: Path) -> None:
    def fill(layer: h5py.Group) -> None:
        layer["kernel:0"] = np.ones(4, "f4")
        layer["loop"] = layer

    keras_file(path, fill, names=("loop/loop/kernel:0",))


@register
def h5_hard_link(path: Path, canary: Path) -> None:
    """Two names for the same array."""

    def fill(layer: h5py.Group) -> None:
        layer["kernel:0"] = np.ones(4, "f4")
        layer["bias:0"] = layer["kernel:0"]

    keras_file(path, fill, names=("kernel:0", "bias:0"))


@register
def h5_external_storage(path: Path, canary: Path) -> None:
    raw = path.with_name(f"{path.name}.raw")
    raw.write_bytes(FOUR)
    keras_file(path, lambda layer: layer.create_dataset("kernel:0", (4,), "f4", external=[(str(raw), 0, 16)]))


@register
def h5_virtual(path: Path, canary: Path) -> None:
    beside = secret(path)
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(beside), "secret", shape=(4,))
    keras_file(path, lambda layer: layer.create_virtual_dataset("kernel:0", layout))


@register
def h5_bomb_packed(path: Path, canary: Path) -> None:
    """Zeros that deflate shrinks a thousandfold: 256 MB in 256 kB."""
    packed = zlib.compress(bytes(32 << 20), 9)

    def fill(layer: h5py.Group) -> None:
        dataset = layer.create_dataset(
            "kernel:0", (8, 8 << 20), "f4", chunks=(1, 8 << 20), compression="gzip"
        )
        for row in range(8):
            dataset.id.write_direct_chunk((row, 0), packed)

    keras_file(path, fill)


@register
def h5_no_layer_names(path: Path, canary: Path) -> None:
    with h5py.File(path, "w") as file:
        file["dense/kernel:0"] = np.ones(4, "f4")


@register
def h5_no_weight_names(path: Path, canary: Path) -> None:
    keras_file(path, lambda layer: layer.attrs.__delitem__("weight_names"))


@register
def h5_layer_missing(path: Path, canary: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"dense"])


@register
def h5_layer_twice(path: Path, canary: Path) -> None:
    keras_file(
        path, lambda layer: layer.file.attrs.__setitem__("layer_names", np.array([b"dense", b"dense"]))
    )


@register
def h5_weight_twice(path: Path, canary: Path) -> None:
    keras_file(path, lambda layer: layer.__setitem__("kernel:0", np.ones(4)), names=("kernel:0", "kernel:0"))


@register
def h5_array_missing(path: Path, canary: Path) -> None:
    keras_file(path, lambda layer: None)


@register
def h5_array_is_group(path: Path, canary: Path) -> None:
    keras_file(path, lambda layer: layer.create_group("kernel:0"))


@register
def h5_names_are_numbers(path: Path, canary: Path) -> None:
    keras_file(path, lambda layer: layer.attrs.__setitem__("weight_names", np.arange(3)))


@register
def h5_names_are_not_text(path: Path, canary: Path) -> None:
    keras_file(path, lambda layer: layer.attrs.__setitem__("weight_names", np.array([b"\xff\xfe:0"])))


@register
def h5_native_layout(path: Path, canary: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.ones(4, "f4")


@register
def h5_cut(path: Path, canary: Path) -> None:
    keras_file(path, lambda layer: layer.__setitem__("kernel:0", np.ones(5000, "f4")))
    path.write_bytes(path.read_bytes()[:-9000])


@register
def h5_flat_link(path: Path, canary: Path) -> None:
    beside = secret(path)
    with h5py.File(path, "w") as file:
        file.attrs["kerasneuro_format"] = "1"
        file.create_group("arrays")["000000"] = h5py.ExternalLink(beside.name, "/secret")


@register
def h5_flat_later_version(path: Path, canary: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["kerasneuro_format"] = "99"
        file.create_group("arrays")


@register
def h5_flat_nameless(path: Path, canary: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["kerasneuro_format"] = "1"
        file["arrays/000000"] = np.ones(4, "f4")
