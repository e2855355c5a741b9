"""Patches and whole scans: where they lie, what is in them, the same whoever makes them."""

from __future__ import annotations

import functools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kerasneuro import volume
from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.training.data import Augmentation, Pair, PatchDataset, ScanStore, WholeDataset, standardise
from kerasneuro.training.scans.labelled_dataset import LabelledDataset

pytestmark = pytest.mark.backend_free

SHAPES = ((14, 11, 9), (12, 12, 12), (7, 16, 10))
CLASSES = {"ball": 3, "rare": 7}
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 0, 2, -12], [0, -2, 0, 8], [0, 0, 0, 1]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """Scans whose voxels tell their scan and their place; two classes in the first, one in the others."""
    folder, found = tmp_path_factory.mktemp("scans"), []
    for number, shape in enumerate(SHAPES):
        image = 10_000 * (number + 1) + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        labels = np.zeros(shape, np.uint8)
        labels[2:5, 3:6, 1:4] = 3
        if number == 0:
            labels[-1, -1, -1] = 7
        found.append((save(folder / f"i{number}.nii", image), save(folder / f"l{number}.nii.gz", labels)))
    return found


def make(pairs: Any, **options: Any) -> PatchDataset:
    return PatchDataset(pairs, **{"patch_shape": 6, "classes": CLASSES, "batch_size": 2, **options})


def batches(data: LabelledDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    return [data[index] for index in range(len(data))]


def same(first: Any, second: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch(pairs: Any) -> None:
    data = make(pairs, patches_per_volume=3)
    images, targets = data[0]
    assert images.shape == (2, 6, 6, 6, 1) and images.dtype == np.float32
    assert targets.shape == (2, 6, 6, 6, 3) and targets.dtype == np.float32
    assert (targets.sum(axis=-1) == 1).all()
    assert len(data) == 5 and data[4][0].shape[0] == 1
    assert len(make(pairs, patches_per_volume=3, drop_remainder=True)) == 4
    labels = make(pairs, patches_per_volume=3, one_hot=False)[0][1]
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, targets.argmax(axis=-1))
    with pytest.raises(IndexError):
        data[5]


def test_patches_are_where_they_say(pairs: Any) -> None:
    data = make(pairs, patches_per_volume=6)
    for number in range(data.patches):
        which, start = data.position(0, number)
        image, classes = data.patch(0, number)
        box = tuple(slice(low, low + 6) for low in start)
        scan = nibabel.load(pairs[which][0]).get_fdata()
        labels = nibabel.load(pairs[which][1]).get_fdata()
        assert all(0 <= low <= size - 6 for low, size in zip(start, SHAPES[which], strict=True))
        np.testing.assert_array_equal(image[..., 0], scan[box])
        np.testing.assert_array_equal(data.classes.decode(classes), labels[box])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(edge=st.tuples(*[st.integers(1, 18)] * 3), overlap=st.sampled_from([0.0, 0.3, 0.5]))
def test_grid_covers_every_voxel(pairs: Any, edge: tuple[int, int, int], overlap: float) -> None:
    data = make(pairs[:1], patch_shape=edge, sampling="grid", overlap=overlap)
    positions = [data.position(0, number)[1] for number in range(data.patches)]
    covered = np.zeros(SHAPES[0], int)
    for start in positions:
        covered[tuple(slice(low, low + size) for low, size in zip(start, edge, strict=True))] += 1
    assert covered.min() >= 1 and len(set(positions)) == len(positions)
    image, _ = data.patch(0, 0)
    assert image.shape == (*edge, 1)
    inside = np.prod([min(size, length) for size, length in zip(edge, SHAPES[0], strict=True)])
    assert np.count_nonzero(image) == inside  # The rest is filled with zeros.


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.sampled_from([0.0, 0.25, 0.5, 1.0]), seed=st.integers(0, 50), epoch=st.integers(0, 50))
def test_balanced_share(pairs: Any, share: float, seed: int, epoch: int) -> None:
    data = make(pairs, patch_shape=1, patches_per_volume=8, foreground=share, seed=seed)
    for which in range(3):
        drawn = [data.patch(epoch, which * 8 + number)[1].item() > 0 for number in range(8)]
        # Other patches may meet a class by chance, and a share may be rounded.
        assert sum(drawn) >= int(8 * share)
        if share == 1:
            assert all(drawn)


def test_classes_are_equally_likely(pairs: Any) -> None:
    data = make(pairs[:1], patch_shape=1, patches_per_volume=400, foreground=1.0)
    counts = Counter(data.patch(0, number)[1].item() for number in range(400))
    # One voxel of the rare class, 27 of the other; a deviation of 4 standard errors.
    assert abs(counts[2] - 200) < 40 and counts[1] + counts[2] == 400


def test_uniform_reaches_the_corners(pairs: Any) -> None:
    data = make(pairs[:1], patch_shape=(13, 10, 8), sampling="uniform", patches_per_volume=200)
    starts = {data.position(0, number)[1] for number in range(200)}
    assert starts == set(np.ndindex(2, 2, 2))
    wide = make(pairs[:1], patch_shape=(16, 11, 9), sampling="uniform", patches_per_volume=50)
    assert {wide.position(0, number)[1][0] for number in range(50)} == {-2, -1, 0}


def test_seed_epoch_and_number_decide_alone(pairs: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "patches_per_volume": 3,
        "augment": Augmentation(affine=1, elastic=1),
        "seed": 4,
    }
    data = make(pairs, **options)
    first = batches(data)
    data.on_epoch_end()
    second = batches(data)
    assert not same(first[0], second[0])
    # Backwards, without what is made ahead, from disk, with few scans in memory, in another process.
    others = [
        make(pairs, **options, prefetch=0),
        make(pairs, **options, cache="memory"),
        make(pairs, **options, cache=tmp_path),
        make(pairs, **options, workers=2),
        pickle.loads(pickle.dumps(make(pairs, **options, epoch=1))),
    ]
    for other in others:
        other.epoch = 1
        assert all(same(other[index], second[index]) for index in reversed(range(len(other))))
        other.epoch = 0
        assert all(same(other[index], first[index]) for index in range(len(other)))
    assert not same(make(pairs, **{**options, "seed": 5})[0], first[0])
    fixed = make(pairs, **options, redraw=False)
    before = batches(fixed)
    fixed.on_epoch_end()
    assert all(same(a, b) for a, b in zip(before, batches(fixed), strict=True))


def test_every_patch_once_in_an_epoch(pairs: Any) -> None:
    data = make(pairs, patches_per_volume=5, mix=2)
    orders = [data.order(epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(15)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    # Two scans are mixed with each other, the third one follows.
    assert len({number // 5 for number in orders[0][:10].tolist()}) == 2
    assert make(pairs, sampling="grid").order(0).tolist() == list(range(make(pairs, sampling="grid").patches))


def test_callback_follows_the_epoch(pairs: Any) -> None:
    data = make(pairs)
    data.follow().on_epoch_begin(7)
    assert data.epoch == 7


def test_errors_come_from_the_thread(pairs: Any) -> None:
    def broken(image: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> Any:
        return image[:3], classes

    with pytest.raises(InvalidOption, match=r"patches of shape \(3, 6, 6, 1\).*expected \(6, 6, 6, 1\)"):
        batches(make(pairs, augment=broken))


def test_whole_scans(pairs: Any) -> None:
    data = WholeDataset(pairs, classes=CLASSES, multiple=8)
    assert [data[index][0].shape for index in range(3)] == [
        (1, 16, 16, 16, 1), (1, 16, 16, 16, 1), (1, 8, 16, 16, 1)
    ]  # fmt: skip
    scan = nibabel.load(pairs[0][0]).get_fdata()
    np.testing.assert_array_equal(data[0][0][0, :14, :11, :9, 0], scan)
    assert data[0][0].sum() == scan.sum() and data[0][1][0, 14:, :, :, 0].all()
    pair = WholeDataset(pairs[1:], classes=CLASSES, batch_size=2, one_hot=False)
    assert pair[0][0].shape == (2, 12, 16, 12, 1) and pair[0][1].shape == (2, 12, 16, 12)
    sized = WholeDataset(pairs, classes=CLASSES, shape=(8, 12, 10))
    expected, _ = volume.crop_or_pad_centred(volume.load(pairs[0][0]), (8, 12, 10))
    np.testing.assert_array_equal(sized[0][0][0, ..., 0], expected.array)
    mixed = WholeDataset(pairs, classes=CLASSES, shape=(8, 8, 8), shuffle=True, seed=3)
    order = [int(mixed[index][0].max() // 10_000) for index in range(3)]
    assert sorted(order) == [1, 2, 3]


def test_preparation_moves_the_labels(pairs: Any, tmp_path: Path) -> None:
    data = WholeDataset(pairs, classes=CLASSES, prepare=lambda scan: volume.to_axcodes(scan, "RAS"))
    labels, _ = volume.to_axcodes(volume.load(pairs[0][1], dtype=None), "RAS")
    np.testing.assert_array_equal(data[0][1][0].argmax(axis=-1), data.classes.encode(labels.array))
    scaled = WholeDataset(pairs, classes=CLASSES, prepare=standardise)[0][0]
    assert abs(scaled.mean()) < 1e-5 and abs(scaled.std() - 1) < 1e-5
    with pytest.raises(InvalidOption, match="prepare returns a Volume, found ndarray"):
        WholeDataset(pairs, classes=CLASSES, prepare=lambda scan: scan.array)[0]


def test_channels(pairs: Any) -> None:
    two = [((image, image), labels) for image, labels in pairs]
    data = make(two)
    assert data.channels == 2
    images, _ = data[0]
    assert images.shape == (2, 6, 6, 6, 2)
    np.testing.assert_array_equal(images[..., 0], images[..., 1])


def test_disk_cache_follows_content(pairs: Any, tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    labels = save(tmp_path / "labels.nii", np.eye(4, 5, dtype=np.uint8)[None].repeat(3, axis=0))
    cache = tmp_path / "cache"

    def content(**options: Any) -> np.ndarray:
        store = ScanStore([Pair((image,), labels, "A")], make(pairs).classes.of(2), cache=cache, **options)
        return store[0].image[..., 0]

    before = content()
    assert isinstance(before, np.memmap) and len(list(cache.iterdir())) == 3
    np.testing.assert_array_equal(content(), before)
    assert len(list(cache.iterdir())) == 3
    content(prepare=standardise)
    content(prepare=functools.partial(volume.to_axcodes, axcodes="LPS"))
    assert len(list(cache.iterdir())) == 9
    save(image, np.arange(1, 61, dtype=np.float32).reshape(3, 4, 5))
    np.testing.assert_array_equal(content(), before + 1)
    with pytest.raises(InvalidOption, match="attribute key"):
        content(prepare=functools.partial(int, object()))


def test_labels_of_no_class_are_named(pairs: Any) -> None:
    with pytest.raises(InvalidImage, match=r"l0.nii.gz has the values 7, which belong to no class"):
        batches(make(pairs, classes={"ball": 3}))
    with pytest.raises(InvalidOption, match="1 have no label map"):
        make([*pairs, (pairs[0][0], None)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling": "best"}, {"foreground": 1.5}, {"overlap": 1.0}, {"patches_per_volume": 0}, {"seed": -1},
        {"patch_shape": (6, 6, 0)}, {"batch_size": 0}, {"augment": 3}, {"mix": 0}, {"prefetch": -1},
        {"batch_size": 100, "drop_remainder": True},
    ],
)  # fmt: skip
def test_wrong_options(pairs: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        make(pairs, **wrong)


def test_whole_scans_of_no_size(pairs: Any) -> None:
    with pytest.raises(InvalidOption, match="multiple and shape are at least 1"):
        WholeDataset(pairs, classes=CLASSES, multiple=0)
