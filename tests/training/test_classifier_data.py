"""What comes before the training: settings, cohorts, subsets, volumes, random changes, ComBat, scores."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasneuro.errors import InvalidImage, InvalidOption, KerasNeuroError
from kerasneuro.training.changes import volumes as augment
from kerasneuro.training.classifier.augmentation import make_augmentation
from kerasneuro.training.classifier.cohort import SUBSETS, Sample, read_cohort
from kerasneuro.training.classifier.config import (
    AugmentSettings,
    ClassifierConfig,
    DataSettings,
    HarmoniseSettings,
    SplitSettings,
)
from kerasneuro.training.classifier.harmonise import ComBat
from kerasneuro.training.classifier.intensity import SiteEffects, rescale, summary
from kerasneuro.training.classifier.prepare import Preparer, prepare_sample
from kerasneuro.training.classifier.split import check_split, split_cohort
from kerasneuro.training.config import as_mapping, differences, from_mapping, read_config, to_yaml
from kerasneuro.training.metrics.classification import calibration, confusion, score

pytestmark = pytest.mark.backend_free

MAKER = runpy.run_path(str(Path(__file__).parent / "cohort_maker.py"))
DATA = DataSettings(classes=("control", "FCD"), size=(12, 12, 12))
PREPARE = MAKER["NETWORK"].prepare


# Settings


def test_documented_yaml_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(ClassifierConfig()), encoding="utf-8")
    assert read_config(path, ClassifierConfig) == ClassifierConfig()
    assert all("  # " in line or line.endswith(":") for line in path.read_text().splitlines())
    path.write_text("", encoding="utf-8")
    assert read_config(path, ClassifierConfig) == ClassifierConfig()


def test_values_are_read_in_their_type() -> None:
    values = {"fit": {"learning_rate": "2e-4", "epochs": 3}, "model": {"config": {"width": 0.5}}}
    config = from_mapping(ClassifierConfig, {**values, "data": {"size": [8, 9, 10], "classes": ["a", "b"]}})
    assert config.fit.learning_rate == 2e-4 and config.fit.epochs == 3
    assert config.data.size == (8, 9, 10) and config.model.config == {"width": 0.5}
    assert from_mapping(ClassifierConfig, as_mapping(config)) == config
    assert differences(config, ClassifierConfig(), ignore=("fit.epochs",)) == [
        "model.config",
        "data.classes",
        "data.size",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"fit": {"learnin_rate": 1}},
            "unknown key fit.learnin_rate; the nearest known key is fit.learning_r",
        ),
        ({"fitt": {}}, "unknown key fitt; the nearest known key is fit"),
        ({"fit": {"epochs": 0}}, "fit.epochs: expected at least 1, found 0"),
        ({"fit": {"epochs": True}}, "fit.epochs: expected a whole number, found true"),
        ({"fit": {"epochs": 2.5}}, "fit.epochs: expected a whole number, found 2.5"),
        ({"fit": {"learning_rate": float("nan")}}, "fit.learning_rate: expected a number"),
        ({"fit": {"clip_norm": "big"}}, "fit.clip_norm: expected a number or null, found 'big'"),
        ({"data": {"size": [8, 8]}}, "data.size: expected a list of 3, each a whole number"),
        ({"data": {"channels": "t1"}}, "data.channels: expected a list, each a text, found 't1'"),
        ({"data": {"check_grids": "yes"}}, "data.check_grids: expected true or false"),
        ({"data": {"cache": "tape"}}, "data.cache: expected 'memory' or 'disk' or 'none', found 'tape'"),
        ({"augment": {"flip": 2}}, "augment.flip: expected at least 0 and at most 1, found 2"),
        ({"model": {"config": [1]}}, "model.config: expected keys with values"),
        ({"fit": [1]}, "expected keys with values for fit, found"),
        ([1], "expected keys with values, found"),
    ],
)
def test_wrong_settings_are_named(values: Any, message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        from_mapping(ClassifierConfig, values)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.system ['true']", "\x00", "a: &a [*a"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidOption, match=r"config\.yaml"):
        read_config(path, ClassifierConfig)


# Cohorts


def change_cohort(path: Path, line: int, **values: str) -> Path:
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = dict(zip(lines[0].split(","), lines[line].split(","), strict=True))
    lines[line] = ",".join({**cells, **values}.values())
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return MAKER["make_cohort"](tmp_path, 20)


def test_cohort_is_read(cohort: Path) -> None:
    samples = read_cohort(cohort, DATA)
    assert len(samples) == 20
    first = samples[2]
    assert (first.subject, first.site, first.label, first.age, first.sex) == ("s02", "A", 1, 22.0, "M")
    assert [path.name for path in first.images] == ["s02_t1.nii", "s02_flair.nii"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"flair": ""},
            r"line 2 \(subject s00\): expected an image for the channel flair, found an empty cell",
        ),
        ({"flair": "none.nii"}, r"expected an image for the channel flair, found no file at .*none\.nii"),
        ({"label": "ill"}, r"subject s00\): expected a label of control, FCD, found 'ill'"),
        ({"label": ""}, "expected a label of control, FCD, found ''"),
        ({"site": ""}, "expected a subject and a site"),
        ({"age": "old"}, "expected an age in years, found 'old'"),
        ({"subject": "s02", "t1": "s02_t1.nii", "flair": "s02_flair.nii"}, "names the sample .* twice"),
    ],
)
def test_wrong_line_of_a_cohort_is_named(cohort: Path, values: dict[str, str], message: str) -> None:
    with pytest.raises(KerasNeuroError, match=message):
        read_cohort(change_cohort(cohort, 1, **values), DATA)


def test_wrong_header_or_file(cohort: Path, tmp_path: Path) -> None:
    settings = replace(DATA, channels=("t1", "t2"))
    with pytest.raises(InvalidOption, match="has no column t2; expected subject, site, label, t1, t2"):
        read_cohort(cohort, settings)
    with pytest.raises(InvalidOption, match="cannot be read as CSV"):
        read_cohort(tmp_path / "none.csv", DATA)
    (tmp_path / "empty.csv").write_text("subject,site,label,t1,flair\n", encoding="utf-8")
    with pytest.raises(InvalidOption, match="has no line below its header"):
        read_cohort(tmp_path / "empty.csv", DATA)
    with pytest.raises(InvalidOption, match="expected a class number from 0 as the label, found 'control'"):
        read_cohort(cohort, replace(DATA, classes=()))


def test_patches_are_samples_of_their_subject(tmp_path: Path) -> None:
    patches = np.arange(3 * 4 * 4 * 4 * 2, dtype=np.int16).reshape(3, 4, 4, 4, 2)
    with h5py.File(tmp_path / "patches.h5", "w") as file:
        file["group/images"] = patches
        file["one"] = patches[0]
        file["flat"] = patches[0, ..., 0]
        file["away"] = h5py.ExternalLink("patches.h5", "/one")
    rows = [
        {"subject": "a", "site": "x", "label": "0", "patches": "patches.h5:/group/images"},
        {"subject": "b", "site": "x", "label": "1", "patches": "patches.h5:/one"},
    ]
    path = MAKER["write_cohort"](tmp_path / "cohort.csv", rows)
    data = replace(DATA, classes=(), size=(4, 4, 4), normalise="none")
    samples = read_cohort(path, data)
    assert [(sample.subject, sample.index) for sample in samples] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("b", None),
    ]
    np.testing.assert_array_equal(prepare_sample(samples[1], data, None), patches[1])
    np.testing.assert_array_equal(prepare_sample(samples[3], data, None), patches[0])
    with pytest.raises(InvalidImage, match="has 2 channels, expected 1"):
        prepare_sample(samples[0], replace(data, channels=("t1",)), None)
    for name in ("flat", "away", "none"):
        MAKER["write_cohort"](path, [{**rows[0], "patches": f"patches.h5:/{name}"}])
        with pytest.raises(InvalidImage, match=r"expected an array .* with shape \(X, Y, Z, C\)"):
            read_cohort(path, data)


# Subsets


def make_samples(subjects: int, each: int = 1, sites: int = 2, split: str = "") -> list[Sample]:
    return [
        Sample(f"s{n}", f"site{n % sites}", n // sites % 2, (Path(f"{n}_{k}"),), split=split)
        for n in range(subjects)
        for k in range(each)
    ]


@settings(max_examples=25, deadline=None)
@given(
    subjects=st.integers(30, 60),
    each=st.integers(1, 3),
    sites=st.integers(1, 3),
    folds=st.integers(3, 5),
    seed=st.integers(0, 1000),
)
def test_nobody_is_in_two_subsets(subjects: int, each: int, sites: int, folds: int, seed: int) -> None:
    samples = make_samples(subjects, each, sites)
    chosen = SplitSettings(folds=folds, test_fold=0, validation_fold=folds - 1, seed=seed)
    subsets = split_cohort(samples, chosen)
    assert split_cohort(samples, chosen) == subsets
    people = {
        name: {s.subject for s, its in zip(samples, subsets, strict=True) if its == name} for name in SUBSETS
    }
    assert sum(map(len, people.values())) == subjects == len(set.union(*people.values()))
    for name in SUBSETS:
        found = [s for s, its in zip(samples, subsets, strict=True) if its == name]
        wanted = {"training": folds - 2}.get(name, 1) / folds
        assert abs(len(found) / len(samples) - wanted) < 0.15
        assert {sample.site for sample in found} == {sample.site for sample in samples}
        assert {sample.label for sample in found} == {0, 1}


def test_all_parts_of_a_cross_validation_are_tested_once() -> None:
    samples = make_samples(40)
    tested = [
        subset_of(samples, SplitSettings(test_fold=fold, validation_fold=(fold + 1) % 5), "test")
        for fold in range(5)
    ]
    assert sorted(name for part in tested for name in part) == sorted(sample.subject for sample in samples)


def subset_of(samples: list[Sample], chosen: SplitSettings, name: str) -> list[str]:
    subsets = split_cohort(samples, chosen)
    return [sample.subject for sample, its in zip(samples, subsets, strict=True) if its == name]


@pytest.mark.parametrize(
    ("samples", "chosen", "message"),
    [
        (make_samples(4), SplitSettings(), "found 4 subjects for 5 folds"),
        (make_samples(3, each=9), SplitSettings(), "found 3 subjects for 5 folds"),
        (make_samples(40), SplitSettings(test_fold=1), "two different numbers below split.folds"),
        (make_samples(40), SplitSettings(test_fold=5), "two different numbers below split.folds"),
        ([replace(s, label=0) for s in make_samples(40)], SplitSettings(), "one class only"),
        (
            [replace(s, label=int(s.subject == "s0")) for s in make_samples(40)],
            SplitSettings(),
            "expected samples of every class in the .* subset, found one class only",
        ),
        (make_samples(40, split="training"), SplitSettings(), "in the validation subset, found no sample"),
        (
            [*make_samples(40), *make_samples(1, split="test")],
            SplitSettings(),
            "40 of 41 samples have no split",
        ),
    ],
)
def test_a_cohort_that_cannot_be_divided(samples: list[Sample], chosen: SplitSettings, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        split_cohort(samples, chosen)


def test_a_leak_is_found() -> None:
    samples = make_samples(20, each=2)
    subsets = ["training", "validation", "test", "training"] * 10
    with pytest.raises(InvalidOption, match="s0 is in the subsets training and validation"):
        check_split(samples, subsets)
    same_file = [replace(sample, images=(Path("one"),)) for sample in make_samples(40)]
    with pytest.raises(InvalidOption, match="one is in the subsets"):
        check_split(same_file, ["training", "test"] * 20)


def test_subsets_named_by_the_cohort_are_kept(tmp_path: Path) -> None:
    samples = read_cohort(MAKER["make_cohort"](tmp_path, 20, split=True), DATA)
    assert list(split_cohort(samples, SplitSettings())) == [sample.split for sample in samples]


# Volumes


def test_volumes_are_prepared_as_for_a_prediction(cohort: Path, tmp_path: Path) -> None:
    sample = read_cohort(cohort, DATA)[0]
    data = replace(DATA, size=(10, 12, 14))
    scans = [np.asarray(nibabel.load(path).dataobj, np.float32) for path in sample.images]
    expected = PREPARE(scans, data.size)[0]
    assert expected.shape == (10, 12, 14, 2)
    np.testing.assert_array_equal(prepare_sample(sample, data, PREPARE), expected)
    for cache in ("memory", "disk", "none"):
        keeper = Preparer(replace(data, cache=cache), tmp_path / cache, PREPARE)
        np.testing.assert_array_equal(keeper(sample), expected)
        np.testing.assert_array_equal(keeper(sample), expected)
        assert len(list((tmp_path / cache).glob("*"))) == (cache == "disk")
    keeper.change = lambda sample, volume: volume + 1
    np.testing.assert_array_equal(keeper(sample), expected + 1)


def test_other_normalisations(cohort: Path) -> None:
    sample = read_cohort(cohort, DATA)[0]
    scaled = prepare_sample(sample, replace(DATA, normalise="zscore"), None)
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-4)
    raw = prepare_sample(sample, replace(DATA, normalise="none"), None)
    np.testing.assert_array_equal(raw[..., 1], nibabel.load(sample.images[1]).get_fdata(dtype=np.float32))
    with pytest.raises(InvalidOption, match="this model has no preprocessing of its own"):
        prepare_sample(sample, DATA, None)


def test_channels_on_different_grids_are_refused(cohort: Path) -> None:
    sample = read_cohort(cohort, DATA)[0]
    image = nibabel.load(sample.images[1])
    moved = np.diag([1.0, 1.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.array(image.dataobj), moved), sample.images[1])
    with pytest.raises(InvalidImage, match="subject s00: flair and t1 lie on different grids"):
        prepare_sample(sample, DATA, PREPARE)
    assert prepare_sample(sample, replace(DATA, check_grids=False), PREPARE).shape == (12, 12, 12, 2)


def test_too_much_for_the_memory_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    keeper = Preparer(replace(DATA, size=(1000, 1000, 1000)), tmp_path)
    with pytest.raises(InvalidOption, match=r"set data\.cache to disk"):
        keeper.check_memory(10_000)
    Preparer(replace(DATA, cache="none"), tmp_path).check_memory(10**9)


# Random changes


@pytest.mark.parametrize("engine", ["numpy", "torchio"])
def test_random_changes_come_from_the_generator_alone(engine: str) -> None:
    if engine == "torchio":
        pytest.importorskip("torchio")
    change = make_augmentation(AugmentSettings(engine=engine))  # type: ignore[arg-type]
    assert change is not None
    volume = np.random.default_rng(0).random((10, 11, 12, 2), dtype=np.float32)
    before = volume.copy()
    one, same, other = (change(volume, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(volume, before)
    assert one.shape == volume.shape and one.dtype == np.float32 and np.isfinite(one).all()
    assert np.abs(one - other).max() > 0.01 and np.abs(one - volume).max() > 0.01


def test_no_random_changes() -> None:
    assert make_augmentation(AugmentSettings(engine="none")) is None
    nothing = AugmentSettings(flip=0, affine=0, noise=0, gamma=0, bias_field=0)
    volume = np.random.default_rng(0).random((6, 7, 8, 2), dtype=np.float32)
    change = make_augmentation(nothing)
    assert change is not None
    np.testing.assert_array_equal(change(volume, np.random.default_rng(0)), volume)


def test_parts_of_the_random_changes() -> None:
    volume = np.random.default_rng(0).random((8, 9, 10, 2), dtype=np.float32)
    np.testing.assert_array_equal(augment.flip(volume, (0, 2)), volume[::-1, :, ::-1])
    np.testing.assert_allclose(augment.affine(volume, np.eye(3), np.zeros(3)), volume, atol=1e-6)
    moved = augment.affine(volume, np.eye(3), np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(moved[:-1], volume[1:], atol=1e-6)
    np.testing.assert_allclose(augment.gamma(volume, np.ones(2)), volume, atol=1e-6)
    bright = augment.gamma(volume, np.full(2, 0.5))
    np.testing.assert_allclose(bright.max(axis=(0, 1, 2)), volume.max(axis=(0, 1, 2)), atol=1e-6)
    assert bright.mean() > volume.mean()
    coefficients = np.zeros((4, 4, 4))
    np.testing.assert_array_equal(augment.bias_field((4, 5, 6), coefficients), 1)
    coefficients[1, 0, 0] = 0.3
    field = augment.bias_field((4, 5, 6), coefficients)
    np.testing.assert_allclose(field[:, 2, 3], np.exp(0.3 * np.linspace(-1, 1, 4)), rtol=1e-6)
    coefficients[2, 2, 2] = 9.0  # Of order 6: not used.
    np.testing.assert_array_equal(augment.bias_field((4, 5, 6), coefficients), field)


# ComBat


@pytest.fixture(scope="module")
def reference(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "fcd" / "combat.npz") as file:
        return dict(file)


def covariates_of(reference: dict[str, np.ndarray]) -> np.ndarray:
    # neuroCombat rounds what is continuous to float32.
    return np.column_stack([reference["dx"] == 1, reference["age"].astype(np.float32)]).astype(np.float64)


@pytest.mark.parametrize(
    ("name", "options"),
    [("parametric", {}), ("no_eb", {"empirical_bayes": False}), ("mean_only", {"mean_only": True})],
)
def test_combat_equals_neurocombat(
    reference: dict[str, np.ndarray], name: str, options: dict[str, bool]
) -> None:
    features, extra = reference["data_features_by_samples"].T, covariates_of(reference)
    combat = ComBat(**options)
    found = combat.fit_transform(features, sites=reference["site"], covariates=extra)
    np.testing.assert_allclose(found, reference[name].T, rtol=0, atol=1e-8)
    if name == "parametric":
        np.testing.assert_allclose(combat.gamma_star_, reference["est.gamma.star"], atol=1e-8)
        np.testing.assert_allclose(combat.delta_star_, reference["est.delta.star"], atol=1e-8)
    again = ComBat.restore(combat.arrays(), combat.texts())
    np.testing.assert_array_equal(again.transform(features, sites=reference["site"], covariates=extra), found)


def test_combat_of_a_sample_depends_on_the_training_subset_alone(reference: dict[str, np.ndarray]) -> None:
    features, sites = reference["data_features_by_samples"].T, reference["site"]
    combat = ComBat().fit(features[:18], sites=sites[:18])
    together = combat.transform(features[18:], sites=sites[18:])
    alone = np.concatenate(
        [combat.transform(features[n : n + 1], sites=sites[n : n + 1]) for n in range(18, 24)]
    )
    np.testing.assert_array_equal(together, alone)
    assert combat.get_params() == {"empirical_bayes": True, "mean_only": False, "unseen_site": "refuse"}


def test_combat_on_what_it_cannot_use(reference: dict[str, np.ndarray]) -> None:
    features, sites = reference["data_features_by_samples"].T, reference["site"].astype(str)
    combat = ComBat().fit(features, sites=sites)
    with pytest.raises(InvalidOption, match="the site 'new' is not among those of the training subset"):
        combat.transform(features[:1], sites=["new"])
    kept = ComBat(unseen_site="keep").fit(features, sites=sites).transform(features[:1], sites=["new"])
    np.testing.assert_array_equal(kept, features[:1])
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (features, {"sites": ["a"] * 24}, "needs two sites or more"),
        (features, {"sites": ["a"] * 23 + ["b"]}, "found one of b"),
        (features[:, :1], {"sites": sites}, "two features or more"),
        (np.full_like(features, np.nan), {"sites": sites}, "finite features"),
        (np.zeros_like(features), {"sites": sites}, "never changes within the sites"),
        (features, {"sites": sites, "covariates": sites == "1"}, "cannot be told from the sites"),
        (features, {"sites": sites[:3]}, "one site for each sample"),
    ]
    for values, options, message in cases:
        with pytest.raises(InvalidOption, match=message):
            ComBat().fit(values, **options)
    with pytest.raises(InvalidOption, match="expected 30 features and 0 covariates"):
        combat.transform(features[:, :4], sites=sites)


def test_intensities_of_the_sites_become_alike(cohort: Path) -> None:
    samples = [sample for sample in read_cohort(cohort, DATA) if sample.label == 0]
    data = replace(DATA, normalise="none")
    volumes = [prepare_sample(sample, data, None) for sample in samples]
    features = np.stack([summary(volume) for volume in volumes])
    effects = SiteEffects.fit(features, samples, HarmoniseSettings(of="intensity", covariates=("sex",)))
    change = effects.of_volume()
    found = np.stack([summary(change(*pair)) for pair in zip(samples, volumes, strict=True)])
    site = np.array([sample.site == "B" for sample in samples])

    def gap(values: np.ndarray) -> np.ndarray:
        return np.abs(values[site].mean(axis=0) - values[~site].mean(axis=0))

    assert np.all(gap(features) > [100, 100, 0.8, 0.8])
    assert np.all(gap(found) < [20, 20, 0.1, 0.1])
    again = SiteEffects.restore(effects.combat.arrays(), effects.texts())
    np.testing.assert_array_equal(again.remove(features, samples), effects.remove(features, samples))
    with pytest.raises(InvalidOption, match="subject s00 has no usable sex"):
        effects.remove(features[:1], [replace(samples[0], sex="")])
    with pytest.raises(InvalidOption, match="subject s00 has no usable age"):
        SiteEffects.fit(
            features,
            [replace(sample, age=None) for sample in samples],
            HarmoniseSettings(covariates=("age",)),
        )


def test_rescaling_reaches_what_is_wanted_and_keeps_the_background() -> None:
    volume = np.random.default_rng(0).random((6, 6, 6, 2), dtype=np.float32)
    volume[:2] = 0
    wanted = np.array([3.0, 5.0, np.log(0.1), np.log(0.2)])
    result = rescale(volume, wanted)
    np.testing.assert_allclose(summary(result), wanted, atol=1e-5)
    np.testing.assert_array_equal(result[:2], 0)
    with pytest.raises(InvalidOption, match="no contrast"):
        summary(np.zeros((4, 4, 4, 1), np.float32))


# Scores


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.3, 0.5, 0.5001, 0.9])), min_size=6, max_size=40
    )
)
def test_scores_equal_those_of_scikit_learn(pairs: list[tuple[int, float]]) -> None:
    from sklearn import metrics

    labels, probability = (np.array(part) for part in zip(*[*pairs, (0, 0.2), (1, 0.7)], strict=True))
    predicted = probability >= 0.5
    found = {
        item.name: item.value
        for item in score(labels, probability, list(map(str, range(len(labels)))), resamples=0)
    }
    expected = {
        "AUROC": metrics.roc_auc_score(labels, probability),
        "average precision": metrics.average_precision_score(labels, probability),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "F1": metrics.f1_score(labels, predicted),
        "sensitivity": metrics.recall_score(labels, predicted),
        "specificity": metrics.recall_score(labels, predicted, pos_label=0),
    }
    assert found == pytest.approx(expected)
    np.testing.assert_array_equal(confusion(labels, predicted), metrics.confusion_matrix(labels, predicted))
    brier = metrics.brier_score_loss(labels, probability)
    assert calibration(labels, probability).brier == pytest.approx(brier)


def test_intervals_draw_subjects_not_samples() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 2, 30), 10)
    probability = np.repeat(np.clip(labels[::10] * 0.3 + rng.random(30) * 0.7, 0, 1), 10)
    people = [str(n // 10) for n in range(300)]
    grouped = score(labels, probability, people, resamples=200, seed=1)[0]
    alone = score(labels, probability, list(map(str, range(300))), resamples=200, seed=1)[0]
    assert grouped.value == alone.value and grouped.low <= grouped.value <= grouped.high
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    assert score(labels, probability, people, resamples=200, seed=1)[0] == grouped


def test_scores_without_a_meaning_are_nan() -> None:
    found = {item.name: item for item in score(np.zeros(4, int), np.full(4, 0.2), list("abcd"))}
    assert np.isnan([found["AUROC"].value, found["sensitivity"].value, found["sensitivity"].low]).all()
    assert found["specificity"].value == found["accuracy"].value == 1


def test_calibration() -> None:
    labels, probability = np.array([0, 0, 1, 1]), np.array([0.12, 0.18, 0.62, 1.0])
    found = calibration(labels, probability)
    np.testing.assert_allclose(found.predicted, [0.15, 0.62, 1.0])
    np.testing.assert_array_equal(found.observed, [0, 1, 1])
    np.testing.assert_array_equal(found.counts, [2, 1, 1])
    assert found.error == pytest.approx((2 * 0.15 + 0.38) / 4)
