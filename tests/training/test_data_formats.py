"""Nobrainer's TFRecords, and the input pipelines of TensorFlow and Grain."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from kerasneuro.errors import InvalidImage, OutputError
from kerasneuro.training.data import Augmentation, PatchDataset, WholeDataset, to_grain, to_tf_data
from kerasneuro.training.scans.tfrecords import Record, read_tfrecords, unpack_tfrecords, write_tfrecords

SHAPE = (5, 6, 7)
AFFINE = np.array([[0.0, 0, 2, 1], [1, 0, 0, 2], [0, 3, 0, 4], [0, 0, 0, 1]])
backend_free = pytest.mark.backend_free


def make_records(count: int, *, scalar: bool = False) -> list[Record]:
    rng = np.random.default_rng(3)
    images = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    labels = [np.float32(number) if scalar else rng.integers(0, 3, SHAPE) for number in range(count)]
    return [
        Record(image, np.asarray(label, np.float32), AFFINE)
        for image, label in zip(images, labels, strict=True)
    ]


@backend_free
def test_records_return(tmp_path: Path) -> None:
    records = make_records(3)
    write_tfrecords(tmp_path / "a-000.tfrec", records[:2])
    write_tfrecords(tmp_path / "a-001.tfrec", records[2:])
    found = list(read_tfrecords(str(tmp_path / "a-*.tfrec")))
    assert len(found) == 3
    for record, expected in zip(found, records, strict=True):
        np.testing.assert_array_equal(record.image, expected.image)
        np.testing.assert_array_equal(record.labels, expected.labels)
        np.testing.assert_array_equal(record.affine, AFFINE)
    turned = next(read_tfrecords([tmp_path / "a-000.tfrec"], shape=(7, 6, 5)))
    np.testing.assert_array_equal(turned.image.ravel(), records[0].image.ravel())
    with pytest.raises(InvalidImage, match=r"210 voxels and 210 labels, expected the shape \(8, 6, 5\)"):
        next(read_tfrecords(tmp_path / "a-000.tfrec", shape=(8, 6, 5)))


@backend_free
def test_scalar_labels(tmp_path: Path) -> None:
    write_tfrecords(tmp_path / "a.tfrec", make_records(2, scalar=True))
    assert [record.labels.tolist() for record in read_tfrecords(tmp_path / "a.tfrec")] == [0.0, 1.0]
    with pytest.raises(InvalidImage, match="one number per scan"):
        unpack_tfrecords(tmp_path / "a.tfrec", tmp_path / "out")


@backend_free
def test_unpack(tmp_path: Path) -> None:
    records = make_records(2)
    write_tfrecords(tmp_path / "a.tfrec", records)
    pairs = unpack_tfrecords(tmp_path / "a.tfrec", tmp_path / "out")
    image, labels = WholeDataset(pairs, classes=3, one_hot=False)[1]
    np.testing.assert_array_equal(image[0, ..., 0], records[1].image)
    np.testing.assert_array_equal(labels[0], records[1].labels)
    np.testing.assert_array_equal(nibabel.load(pairs[0].images[0]).affine, AFFINE)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "scan-00000.nii", "scan-00000_labels.nii", "scan-00001.nii", "scan-00001_labels.nii"
    ]  # fmt: skip


@backend_free
def test_damaged_records(tmp_path: Path) -> None:
    write_tfrecords(tmp_path / "a.tfrec", make_records(1))
    raw = gzip.decompress((tmp_path / "a.tfrec").read_bytes())
    plain = tmp_path / "b.tfrec"
    plain.write_bytes(raw)
    assert len(list(read_tfrecords(plain))) == 1  # Not compressed.
    for place in (0, 9, 40, len(raw) - 1):
        damaged = bytearray(raw)
        damaged[place] ^= 1
        plain.write_bytes(damaged)
        with pytest.raises(InvalidImage, match="damaged"):
            list(read_tfrecords(plain))
    for content in (raw[:-5], raw[:6], (tmp_path / "a.tfrec").read_bytes()[:-20]):
        plain.write_bytes(content)
        with pytest.raises(InvalidImage, match=r"b\.tfrec cannot be read"):
            list(read_tfrecords(plain))
    with pytest.raises(InvalidImage, match="no TFRecord file at"):
        list(read_tfrecords(tmp_path / "none.tfrec"))
    with pytest.raises(OutputError, match="cannot be written"):
        write_tfrecords(tmp_path / "none" / "a.tfrec", [])
    assert os.listdir(tmp_path) and not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("records")
    write_tfrecords(folder / "a.tfrec", make_records(3))
    pairs = unpack_tfrecords(folder / "a.tfrec", folder)
    change = Augmentation(flip_axes=(0,))
    return lambda **options: PatchDataset(
        pairs, patch_shape=4, classes=3, patches_per_volume=3, batch_size=2, augment=change, **options
    )


@pytest.fixture
def tensorflow() -> Any:
    """TensorFlow, where this run has it loaded anyhow."""
    if os.environ.get("KERAS_BACKEND") != "tensorflow":
        pytest.skip("compared under the backend TensorFlow")
    import tensorflow

    return tensorflow


def test_tensorflow_reads_and_writes_the_same_records(tmp_path: Path, tensorflow: Any) -> None:
    """As parsed, and as written, by nobrainer/tfrecord.py of neuronets/nobrainer@0039cf8."""
    record = make_records(1)[0]
    write_tfrecords(tmp_path / "a.tfrec", [record])
    names = {
        "feature/shape": "string",
        "feature/value": "string",
        "label/value": "string",
        "label/rank": "int64",
    }
    wanted = {name: tensorflow.io.FixedLenFeature([], kind) for name, kind in names.items()}
    (payload,) = tensorflow.data.TFRecordDataset(str(tmp_path / "a.tfrec"), compression_type="GZIP")
    parsed = tensorflow.io.parse_single_example(payload, wanted)
    values = tensorflow.io.decode_raw(parsed["feature/value"], "float32").numpy()
    np.testing.assert_array_equal(values.reshape(SHAPE), record.image)
    assert np.frombuffer(parsed["feature/shape"].numpy(), np.float32).tolist() == list(SHAPE)

    train = tensorflow.train
    texts = {
        "feature/value": record.image.tobytes(),
        "feature/shape": np.array(SHAPE, np.float32).tobytes(),
        "feature/dtype": b"float32",
        "label/value": record.labels.tobytes(),
        "feature/affine/value": AFFINE.astype(np.float32).tobytes(),
    }
    features = {name: train.Feature(bytes_list=train.BytesList(value=[text])) for name, text in texts.items()}
    features["label/rank"] = train.Feature(int64_list=train.Int64List(value=[3]))
    example = train.Example(features=train.Features(feature=features))
    packed = tensorflow.io.TFRecordOptions(compression_type="GZIP")
    with tensorflow.io.TFRecordWriter(str(tmp_path / "b.tfrec"), packed) as writer:
        writer.write(example.SerializeToString())
    (found,) = read_tfrecords(tmp_path / "b.tfrec")
    np.testing.assert_array_equal(found.image, record.image)
    np.testing.assert_array_equal(found.labels, record.labels)
    np.testing.assert_array_equal(found.affine, AFFINE)


def test_tf_data(data: Any, tensorflow: Any) -> None:
    pipeline, expected = to_tf_data(data()), data()
    assert int(pipeline.cardinality()) == len(expected)
    assert [spec.shape.as_list() for spec in pipeline.element_spec] == [
        [None, 4, 4, 4, 1],
        [None, 4, 4, 4, 3],
    ]
    for epoch in range(2):
        for index, (images, targets) in enumerate(pipeline):
            wanted = expected.batch(epoch, index)
            np.testing.assert_array_equal(images.numpy(), wanted[0])
            np.testing.assert_array_equal(targets.numpy(), wanted[1])


@backend_free
def test_grain(data: Any) -> None:
    pytest.importorskip("grain")
    expected = data()
    pipeline = to_grain(data(), epochs=2)
    assert len(pipeline) == 2 * len(expected)
    for index, (images, targets) in enumerate(pipeline.to_iter_dataset()):
        wanted = expected.batch(*divmod(index, len(expected)))
        np.testing.assert_array_equal(images, wanted[0])
        np.testing.assert_array_equal(targets, wanted[1])


@backend_free
@pytest.mark.parametrize(("name", "adapter"), [("tensorflow", to_tf_data), ("grain", to_grain)])
def test_missing_package_is_named(
    name: str, adapter: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'kerasneuro\["):
        adapter(data())


@pytest.mark.training
def test_fit_resumes_with_what_it_would_have_seen(data: Any) -> None:
    import keras

    def train(epochs: int, start: int, weights: Any = None) -> tuple[list[float], Any]:
        network = keras.Sequential([keras.Input((4, 4, 4, 1)), keras.layers.Dense(3, activation="softmax")])
        if weights is None:
            network.set_weights([np.full((1, 3), 0.1, np.float32), np.zeros(3, np.float32)])
        else:
            network.set_weights(weights)
        network.compile("sgd", "categorical_crossentropy")
        each = data(drop_remainder=True)
        history = network.fit(
            each, epochs=epochs, initial_epoch=start, shuffle=False, verbose=0, callbacks=[each.follow()]
        )
        return history.history["loss"], network.get_weights()

    whole, _ = train(4, 0)
    first, weights = train(2, 0)
    rest, _ = train(4, 2, weights)
    np.testing.assert_allclose(first + rest, whole, rtol=1e-5)
    assert len(set(np.round(whole, 7))) == 4
