"""Block-wise prediction with real Keras models, on whichever backend runs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasneuro.errors import InvalidOption, OutOfMemory
from kerasneuro.inference import BlockPrediction, Engine, estimate_memory, network_multiple, predict_blocks


def whole(model, volume):
    """Predict in one piece with the plain layers."""
    return Engine(model, engine="eager")(volume[None, ..., None])[0]


@settings(max_examples=12, deadline=None)
@given(
    block=st.sampled_from([(8, 8, 8), (16, 5, 30), (7, 9, 11)]),
    overlap=st.sampled_from([0.0, 0.25, 0.6]),
    merge=st.sampled_from(["constant", "gaussian", "hann"]),
    edge=st.sampled_from(["auto", "edge", "zero", "shift"]),
    batch_size=st.integers(1, 3),
)
def test_a_pointwise_network_does_not_see_the_blocks(point_model, block, overlap, merge, edge, batch_size):
    volume = np.random.default_rng(4).normal(size=(21, 10, 13)).astype(np.float32)
    expected = whole(point_model, volume)
    options = {"overlap": overlap, "merge": merge, "edge": edge, "batch_size": batch_size}
    found = predict_blocks(point_model, volume, block_shape=block, **options)
    assert found.dtype == np.float32 and found.shape == (*volume.shape, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    labels = predict_blocks(point_model, volume, block_shape=block, output="label", **options)
    assert labels.dtype == np.uint8
    best = np.sort(expected, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-5  # rounding may decide a tie
    np.testing.assert_array_equal(labels[clear], expected.argmax(-1)[clear])
    assert clear.mean() > 0.99


def test_without_overlap_each_block_is_what_the_network_gives(unet_model):
    volume = np.random.default_rng(5).normal(size=(16, 8, 24)).astype(np.float32)
    found = predict_blocks(unet_model, volume, block_shape=(8, 8, 8))
    engine = Engine(unet_model)
    for x in range(0, 16, 8):
        for z in range(0, 24, 8):
            one = engine(volume[None, x : x + 8, :, z : z + 8, None])[0]
            np.testing.assert_array_equal(found[x : x + 8, :, z : z + 8], one)


def test_inside_of_a_shifted_block_equals_the_whole(volume):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, None, None, 1)), keras.layers.Conv3D(2, 3, padding="same")])
    expected = whole(model, volume)
    found = predict_blocks(model, volume, block_shape=(16, 16, 16), overlap=0.5, merge="hann")
    single = predict_blocks(model, volume, block_shape=(16, 16, 16))
    np.testing.assert_allclose(single[1:15, 1:15, 1:15], expected[1:15, 1:15, 1:15], rtol=0, atol=1e-5)
    # Voxels next to a seam see zeros instead of their neighbours; with overlap they count for little.
    seam = (slice(15, 17), slice(2, 14), slice(2, 14))
    assert np.abs(found - expected)[seam].max() < np.abs(single - expected)[seam].max()


@pytest.mark.parametrize("merge", ["constant", "gaussian"])
def test_streamed_labels_equal_the_argmax_of_the_whole(unet_model, volume, merge):
    options = {"block_shape": (16, 8, 8), "overlap": 0.5, "merge": merge}
    probability = predict_blocks(unet_model, volume, **options)
    labels = predict_blocks(unet_model, volume, output="label", **options)
    np.testing.assert_array_equal(labels, probability.argmax(-1))
    assert len(np.unique(labels)) > 1


def test_labels_stream_through_a_scratch_file(unet_model, volume, tmp_path, monkeypatch):
    from kerasneuro.inference import predict

    expected = predict_blocks(unet_model, volume, block_shape=(8, 8, 8), overlap=0.5, output="label")
    made = []
    original = predict.scratch_array

    def spy(shape, granted, folder):
        made.append((shape, folder))
        return original(shape, 10, folder)

    monkeypatch.setattr(predict, "scratch_array", spy)
    found = predict_blocks(
        unet_model, volume, block_shape=(8, 8, 8), overlap=0.5, output="label", scratch=tmp_path
    )
    assert made == [((8, 17, 26, 3), tmp_path)] and not list(tmp_path.iterdir())
    np.testing.assert_array_equal(found, expected)


def test_single_class_label_is_above_the_threshold(build_pointwise, volume):
    model = build_pointwise(classes=1)
    probability = predict_blocks(model, volume, block_shape=(8, 8, 8))
    level = float(np.median(probability))
    labels = predict_blocks(model, volume, block_shape=(8, 8, 8), output="label", threshold=level)
    np.testing.assert_array_equal(labels, probability[..., 0] > level)
    assert 0 < labels.mean() < 1


def test_result_goes_into_the_array_given(point_model, volume, tmp_path):
    out = np.memmap(tmp_path / "out", np.float32, "w+", shape=(*volume.shape, 3))
    found = predict_blocks(point_model, volume, block_shape=(8, 8, 8), overlap=0.3, out=out)
    assert found is out
    np.testing.assert_allclose(out, whole(point_model, volume), rtol=0, atol=2e-6)
    with pytest.raises(InvalidOption, match="out"):
        predict_blocks(point_model, volume, block_shape=(8, 8, 8), out=np.zeros(volume.shape, np.float32))


def test_images_and_slices_go_through_a_two_dimensional_network(build_pointwise, volume):
    model = build_pointwise(rank=2)
    expected = Engine(model, engine="eager")(np.moveaxis(volume, 1, 0)[..., None])
    image = predict_blocks(model, volume[:, 4], block_shape=(8, 8), overlap=0.5)
    np.testing.assert_allclose(image, expected[4], rtol=0, atol=2e-6)
    np.testing.assert_array_equal(predict_blocks(model, volume[:, 4]).shape, (21, 26, 3))
    slices = predict_blocks(model, volume, block_shape=(32, 1, 8), batch_size=4)
    np.testing.assert_allclose(slices, np.moveaxis(expected, 0, 1), rtol=0, atol=2e-6)
    with pytest.raises(InvalidOption, match="single 1"):
        predict_blocks(model, volume, block_shape=(8, 8, 8))


def test_channels_are_kept(build_pointwise):
    model = build_pointwise(channels=2)
    array = np.random.default_rng(6).normal(size=(9, 10, 11, 2)).astype(np.float32)
    found = predict_blocks(model, array, block_shape=(8, 8, 8))
    np.testing.assert_allclose(found, Engine(model)(array[None])[0], rtol=0, atol=2e-6)
    with pytest.raises(InvalidOption, match="2 channels"):
        predict_blocks(model, array[..., 0], block_shape=(8, 8, 8))


def test_flips_average_over_mirrored_predictions(unet_model):
    volume = np.random.default_rng(7).normal(size=(8, 8, 16)).astype(np.float32)
    plain = predict_blocks(unet_model, volume, block_shape=(8, 8, 16))
    mirrored = predict_blocks(unet_model, volume[::-1], block_shape=(8, 8, 16))[::-1]
    found = predict_blocks(unet_model, volume, block_shape=(8, 8, 16), flips=("x",))
    np.testing.assert_allclose(found, (plain + mirrored) / 2, rtol=0, atol=1e-6)
    assert np.abs(found - plain).max() > 1e-4


def test_uncertainty_comes_from_the_samples(unet_model):
    volume = np.random.default_rng(8).normal(size=(8, 8, 16)).astype(np.float32)
    options = {"block_shape": (8, 8, 8), "uncertainty": True}
    certain = predict_blocks(unet_model, volume, n_samples=3, **options)
    assert isinstance(certain, BlockPrediction)
    assert certain.variance.shape == certain.entropy.shape == volume.shape
    assert certain.variance.max() < 1e-10 and certain.entropy.min() > 0
    mean = certain.array
    np.testing.assert_allclose(certain.entropy, (-mean * np.log(mean + 1e-7)).sum(-1), rtol=0, atol=1e-6)


@pytest.mark.training
def test_monte_carlo_dropout_needs_frozen_statistics(unet_model, volume):
    import keras

    with pytest.raises(InvalidOption, match="batch_normalization"):
        predict_blocks(unet_model, volume, block_shape=(8, 8, 8), training=True)
    inputs = keras.Input((None, None, None, 1))
    hidden = keras.layers.Dropout(0.5, seed=1)(keras.layers.Conv3D(4, 1)(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(hidden))
    found = predict_blocks(
        model, volume, block_shape=(16, 16, 16), training=True, n_samples=4, uncertainty=True
    )
    assert found.variance.max() > 1e-3


def test_activation_is_applied_to_logits(build_pointwise, volume):
    import keras

    inputs = keras.Input((None, None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv3D(3, 1)(inputs))
    logits = predict_blocks(model, volume, block_shape=(8, 8, 8), output="logits")
    found = predict_blocks(model, volume, block_shape=(8, 8, 8), activation="softmax")
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    sigmoid = predict_blocks(model, volume, block_shape=(8, 8, 8), activation="sigmoid")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"block_shape": (8, 8)}, "numbers"),
        ({"block_shape": (8, 8, 8), "multiple": 3}, "multiple"),
        ({"block_shape": (10, 8, 8)}, "multiple"),
        ({"output": "mask"}, "output"),
        ({"n_samples": 0}, "n_samples"),
        ({"activation": "tanh"}, "activation"),
        ({"activation": "softmax", "output": "logits"}, "activation"),
        ({"flips": (4,)}, "flips"),
    ],
)
def test_impossible_options_are_refused(unet_model, volume, options, word):
    with pytest.raises(InvalidOption, match=word) as caught:
        predict_blocks(unet_model, volume, **{"block_shape": (8, 8, 8), **options})
    assert "\n" not in str(caught.value)


def test_networks_that_change_the_shape_are_refused(volume):
    import keras

    model = keras.Sequential([keras.Input((None, None, None, 1)), keras.layers.Conv3D(2, 3)])
    with pytest.raises(InvalidOption, match="shape of its block"):
        predict_blocks(model, volume, block_shape=(8, 8, 8))


def test_a_fixed_network_takes_its_own_block_only(volume):
    import keras

    model = keras.Sequential([keras.Input((8, 16, 32, 1)), keras.layers.Conv3D(2, 1)])
    assert predict_blocks(model, volume, block_shape=None).shape == (*volume.shape, 2)
    with pytest.raises(InvalidOption, match="only"):
        predict_blocks(model, volume, block_shape=(8, 8, 8))


def test_the_multiple_is_found_in_the_graph(unet_model, point_model):
    assert network_multiple(unet_model) == (4, 4, 4)
    assert network_multiple(point_model) == (1, 1, 1)


def test_the_estimate_grows_with_block_and_batch(unet_model):
    sizes = [estimate_memory(unet_model, (extent, 16, 16)) for extent in (16, 32, 64)]
    sizes.append(estimate_memory(unet_model, (64, 16, 16), batch_size=2))
    assert sizes == sorted(set(sizes))
    assert estimate_memory(unet_model, (64, 16, 16), engine="eager") >= sizes[2]


def test_max_memory_makes_block_and_batch_smaller(unet_model):
    volume = np.random.default_rng(9).normal(size=(48, 32, 32)).astype(np.float32)
    budget = estimate_memory(unet_model, (32, 32, 32)) + volume.nbytes * 3
    with pytest.warns(RuntimeWarning, match=r"max_memory.*using blocks of 32 x 32 x 32, batch 1"):
        found = predict_blocks(
            unet_model, volume, block_shape=(32, 32, 32), batch_size=2, max_memory=budget, uncertainty=False
        )
    np.testing.assert_array_equal(found, predict_blocks(unet_model, volume, block_shape=(32, 32, 32)))
    with pytest.raises(OutOfMemory, match="max_memory"):
        predict_blocks(unet_model, volume, block_shape=(32, 32, 32), max_memory="1kB")


def test_lack_of_memory_is_answered_by_smaller_pieces(point_model, volume, monkeypatch):
    from kerasneuro.inference import predict

    asked = []

    class Greedy(Engine):
        def __call__(self, batch):
            asked.append((batch.shape[:-1], self.device))
            if batch.size > 16**3 or self.device is None:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating a block")
            return super().__call__(batch)

    monkeypatch.setattr(predict, "Engine", Greedy)
    with pytest.warns(RuntimeWarning, match="Out of memory with blocks"):
        found = predict_blocks(point_model, volume, block_shape=(16, 16, 32), batch_size=2)
    np.testing.assert_allclose(found, whole(point_model, volume), rtol=0, atol=2e-6)
    assert asked[:3] == [((2, 16, 16, 26), None), ((1, 16, 16, 26), None), ((1, 16, 16, 16), None)]
    assert asked[-1] == ((1, 16, 16, 16), "cpu")


def test_lack_of_memory_to_the_end_is_said(point_model, volume, monkeypatch):
    from kerasneuro.inference import predict

    class Hopeless(Engine):
        def __call__(self, batch):
            raise MemoryError

    monkeypatch.setattr(predict, "Engine", Hopeless)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(OutOfMemory, match="no smaller block"):
            predict_blocks(point_model, volume, block_shape=(16, 16, 32))


def test_other_errors_are_not_swallowed(point_model, volume, monkeypatch):
    from kerasneuro.inference import predict

    class Broken(Engine):
        def __call__(self, batch):
            raise RuntimeError("shapes do not match")

    monkeypatch.setattr(predict, "Engine", Broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predict_blocks(point_model, volume, block_shape=(16, 16, 32))


def test_progress_is_reported_on_stderr_or_to_a_function(point_model, volume, capsys):
    seen = []
    predict_blocks(
        point_model, volume, block_shape=(16, 32, 32), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]
    predict_blocks(point_model, volume, block_shape=(16, 32, 32), progress=True)
    printed = capsys.readouterr()
    assert "2 blocks of 16 x 17 x 26" in printed.err and not printed.out
