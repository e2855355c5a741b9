"""A file larger than the memory it may take: the 3.5 GB of SynthMorph's deformable model, read in parts."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from kerasneuro.weights import LazyArray

pytestmark = pytest.mark.backend_free
PARAMETERS = 877_133_827
MOST_EXTRA_BYTES = 300 << 20
ROOT = Path(__file__).resolve().parents[2]
# Channels in and out of the 13 convolutions whose kernels the hypernetwork makes.
CONVOLUTIONS = [(2, 256), *[(256, 256)] * 4, *[(512, 256)] * 4, *[(256, 256)] * 3, (256, 3)]
TILE = 1000


@given(shape=array_shapes(min_dims=0, min_side=0, max_side=5), most=st.integers(1, 200))
def test_blocks_are_the_array_in_c_order(shape: tuple[int, ...], most: int) -> None:
    values = np.arange(int(np.prod(shape)), dtype="f4").reshape(shape)
    lazy = LazyArray("a", shape, values.dtype, lambda selection: np.array(values[selection]))
    blocks = list(lazy.blocks(most))
    flat = np.concatenate([block.ravel() for block in blocks]) if blocks else np.zeros(0, "f4")
    np.testing.assert_array_equal(flat, values.ravel())
    assert all(block.nbytes <= max(most, values.itemsize) for block in blocks)


def layers() -> Iterator[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """Yield the layers of synthmorph.deform.3.h5, in its order, with the shapes of their weights."""
    for index, width in enumerate((1, 32, 32, 32)):
        name = f"dense_{index}" if index else "dense"
        yield name, [("kernel", (width, 32)), ("bias", (32,))]
    for index, (channels, filters) in enumerate(CONVOLUTIONS):
        name = f"hyper_conv_from_dense_{index}" if index else "hyper_conv_from_dense"
        kernel = 27 * channels * filters
        yield f"concatenate_{index}", []
        yield (
            name,
            [
                ("hyperkernel_kernel", (32, kernel)),
                ("hyperkernel_bias", (kernel,)),
                ("hyperbias_kernel", (32, filters)),
                ("hyperbias_bias", (filters,)),
            ],
        )


def write_file(path: Path) -> dict[str, tuple[str, str]]:
    """Write a file of the full size with gaps: each array has random numbers at both ends, else zeros.

    Returns the digests of the places and of the values of the numbers that are not zero, by key.
    """
    random, expected = np.random.default_rng(4), {}
    plain = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plain.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plain.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # The gaps stay gaps: the file takes little of the disk.
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name, _ in layers()])
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.15.0"
        for layer, weights in layers():
            names = [f"{layer}/{name}:0" for name, _ in weights]
            file.create_group(layer).attrs["weight_names"] = np.array([name.encode() for name in names], "S")
            for name, (short, shape) in zip(names, weights, strict=True):
                space = h5py.h5s.create_simple(shape)
                where = f"/{layer}/{name}".encode()
                made = h5py.h5d.create(file.id, where, h5py.h5t.IEEE_F32LE, space, plain, links)
                expected[f"{layer}/{short}"] = fill_ends(h5py.Dataset(made), random)
    return expected


def fill_ends(dataset: h5py.Dataset, random: np.random.Generator) -> tuple[str, str]:
    """Write numbers into the ends of the first and the last row; return the digests of places and values."""
    size, width = dataset.size, dataset.shape[-1]
    places = np.unique(np.r_[: min(TILE, width), max(0, size - min(TILE, width)) : size])
    values = random.uniform(1, 2, len(places)).astype("<f4")
    if dataset.ndim == 1 or dataset.shape[0] == 1:
        whole = np.zeros(size, "f4")
        whole[places] = values
        dataset[...] = whole.reshape(dataset.shape)
    else:
        first = places < width
        dataset[0, places[first]] = values[first]
        dataset[-1, places[~first] - (size - width)] = values[~first]
    return hashlib.sha256(places.astype("<i8").tobytes()).hexdigest(), hashlib.sha256(values).hexdigest()


# Runs alone, because a process keeps the peak of the one that started it only in some counters: this one is
# the kernel's mark for the program's own memory, without the cached pages of the file.
READER = """
import hashlib, json, sys
from pathlib import Path
import h5py, numpy as np
from kerasneuro.fetching import digest_file
from kerasneuro.weights import read

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

path = Path(sys.argv[1])
before = peak()
answer = {"digests": {}, "sha256": digest_file(path, "sha256")}
with read(path) as store:
    answer["parameters"] = sum(array.size for array in store.values())
    for name, array in store.items():
        places, values, start = hashlib.sha256(), hashlib.sha256(), 0
        for block in array.blocks():
            flat = block.ravel()
            found = np.flatnonzero(flat)
            places.update((found + start).astype("<i8").tobytes())
            values.update(flat[found].tobytes())
            start += flat.size
        answer["digests"][name] = places.hexdigest(), values.hexdigest()
    answer["extra"] = peak() - before
    largest = max(store.values(), key=lambda array: array.nbytes)
    largest.read()
    answer["whole"], answer["largest"] = peak() - before, largest.nbytes
print(json.dumps(answer))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs files with gaps, and the kernel's mark of memory")
def test_synthmorph_deform_streams_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "synthmorph.deform.3.h5"
    if shutil.disk_usage(tmp_path).free < 5 << 30:
        pytest.skip("less than 5 GB are free")
    expected = write_file(path)
    try:
        assert path.stat().st_size > 4 * PARAMETERS > 3_500_000_000
        with ThreadPoolExecutor(1) as pool, path.open("rb") as file:
            digest = pool.submit(hashlib.file_digest, file, "sha256")
            run = subprocess.run(
                [sys.executable, "-c", READER, str(path)],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
            )
            answer = json.loads(run.stdout)
            assert answer["sha256"] == digest.result().hexdigest()
    finally:
        path.unlink()
    assert answer["parameters"] == PARAMETERS
    assert {name: tuple(pair) for name, pair in answer["digests"].items()} == expected
    assert list(answer["digests"]) == list(expected)
    assert answer["extra"] < MOST_EXTRA_BYTES
    # The mark would show an array read whole, of which the largest alone is too large.
    assert answer["whole"] > answer["largest"] > MOST_EXTRA_BYTES
