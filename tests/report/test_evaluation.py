"""The page about a training run, from the files of its folder alone."""

from __future__ import annotations

import base64
import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.report.embedding_maps import make_map, require_maps
from kerasneuro.report.evaluation import read_predictions, site_rows, write_evaluation_page
from kerasneuro.report.evaluation_scans import choose_samples, prepared_affine
from kerasneuro.tasks.result import write_text
from kerasneuro.training.classifier.harmonise import ComBat
from kerasneuro.training.classifier.job import Job, start
from kerasneuro.training.classifier.outputs import finish_files
from kerasneuro.training.run_folder import RunFolder

MAKER = runpy.run_path(str(Path(__file__).parents[1] / "training" / "cohort_maker.py"))
NETWORK = MAKER["NETWORK"]
HISTORY = "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n1,.7,.5,.6,.6,.1\n2,.3,.8,.4,.9,.05\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run whose probabilities and embeddings come from a formula."""
    folder = tmp_path_factory.mktemp("run")
    config = MAKER["make_config"](MAKER["make_cohort"](folder, 40))
    job = start(config, folder / "run", NETWORK)
    rng = np.random.default_rng(0)
    labels = np.array([sample.label for sample in job.samples])
    positive = np.clip(0.5 + 0.3 * (labels - 0.5) + rng.normal(0, 0.15, len(labels)), 0.01, 0.99)
    embeddings = rng.normal(size=(len(labels), 5)) + labels[:, None]
    embeddings += np.array([[3.0 * (sample.site == "B")] for sample in job.samples])
    embeddings[:, 4] = 0.0  # A unit that is silent.
    write_text(job.folder.history, HISTORY)
    write_text(job.folder.best, "weights")
    finish_files(job, np.column_stack([1 - positive, positive]), embeddings)
    return job


@pytest.fixture(scope="module")
def page(run: Job) -> str:
    path, notes = write_evaluation_page(
        run.folder.path,
        run.folder.path / "page.html",
        maps=("tsne",),
        subjects=3,
        grad_cam=False,
        network=NETWORK,
    )
    assert notes == ()
    return path.read_text(encoding="utf-8")


def test_page_is_one_file_with_every_section(page: str) -> None:
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings[:4] == [
        "Scores of the test subset",
        "Scores of the validation subset",
        "Sites: test",
        "Sites: validation",
    ]
    for title in ("Cohort", "Predictions: test", "Training", "Embeddings: t-SNE", "Provenance"):
        assert title in headings
    assert sum(title.startswith("Scans: ") for title in headings) == 3
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == page.count("<img") == 8
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert "://" not in page and "never a diagnosis" in page


def test_page_states_the_scores_of_the_card(run: Job, page: str) -> None:
    for scores in run.folder.read_card()["scores"].values():
        for name, value in scores.items():
            assert f"<td>{name}</td>" in page
            assert f"{value['value']:.3f}" in page and f"{value['low']:.3f} to {value['high']:.3f}" in page


def test_texts_of_the_cohort_are_escaped(run: Job, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for path in run.folder.path.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b",B,", b",<b>&,"))
    path, _ = write_evaluation_page(
        folder.path, tmp_path / "p.html", maps=(), grad_cam=False, network=NETWORK
    )
    text = path.read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;" in text and "<b>&" not in text


def test_embeddings_are_harmonised_by_the_training_subset_alone(run: Job) -> None:
    found = run.folder.read_embeddings()
    before, after = found["before"], found["after"]
    sites = np.array([sample.site for sample in run.samples])
    training = np.array([subset == "training" for subset in run.subsets])
    combat = ComBat().fit(before[training, :4], sites=sites[training])
    np.testing.assert_allclose(after[:, :4], combat.transform(before[:, :4], sites=sites))
    np.testing.assert_array_equal(after[:, 4], 0)
    gap = [
        np.abs(part[sites == "A"].mean(axis=0) - part[sites == "B"].mean(axis=0))[:4]
        for part in found.values()
    ]
    assert np.all(gap[1] < 0.5 * gap[0])


def test_table_of_the_sites(run: Job) -> None:
    judged = read_predictions(run, ["control", "FCD"], "test")
    rows = site_rows(judged)
    assert [row["site"] for row in rows] == ["A", "B"]
    assert sum(int(row["samples"]) for row in rows) == len(judged.labels) == 8
    one = judged.at("A")
    right = np.mean((one.probability >= 0.5) == one.labels)
    assert rows[0]["accuracy"] == f"{right:.3f}"
    only = replace(one, labels=np.ones_like(one.labels))
    assert site_rows(only)[0]["AUROC"] == "-"


def test_shown_subjects_are_of_both_classes(run: Job) -> None:
    judged = read_predictions(run, ["control", "FCD"], "test")
    for most, positive in ((0, 0), (1, 1), (3, 2), (4, 2), (100, 4)):
        chosen = choose_samples(run, judged, most)
        assert len(chosen) == min(most, 8)
        assert sum(sample.label == 1 for sample, _ in chosen) == positive
    assert len({sample.subject for sample, _ in chosen}) == 8


def test_resized_scan_keeps_its_place(run: Job) -> None:
    sample = run.samples[0]
    np.testing.assert_allclose(prepared_affine(sample, (6, 12, 24)), np.diag([2, 1, 0.5, 1]))
    np.testing.assert_array_equal(prepared_affine(replace(sample, images=()), (6, 6, 6)), np.eye(4))


def test_what_cannot_be_shown_is_said(run: Job, tmp_path: Path) -> None:
    for path in run.folder.path.glob("*.*"):
        content = path.read_bytes()
        content = content.replace(b"_flair.nii", b"_gone.nii") if path.name == "split.csv" else content
        (tmp_path / path.name).write_bytes(content)
    path, notes = write_evaluation_page(
        tmp_path, tmp_path / "p.html", maps=(), subjects=2, grad_cam=False, network=NETWORK
    )
    assert len(notes) == 2 and all("is not shown: " in note for note in notes)
    assert notes[0].split(":")[0] in path.read_text(encoding="utf-8")


def test_bad_input(run: Job, tmp_path: Path) -> None:
    def write(folder: Path, target: str = "p.html", **options: object) -> None:
        write_evaluation_page(folder, tmp_path / target, network=NETWORK, **options)  # type: ignore[arg-type]

    with pytest.raises(InvalidOption, match="is not the folder of a training run"):
        write(tmp_path)
    with pytest.raises(InvalidOption, match=r"expected a name that ends with \.html"):
        write(run.folder.path, "p.pdf")
    with pytest.raises(InvalidOption, match="expected maps of umap, tsne, found 'pca'"):
        write(run.folder.path, maps=("pca",))
    (tmp_path / "p.html").write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        write(run.folder.path)
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "split.csv"):
        (tmp_path / "run" / name).write_bytes((run.folder.path / name).read_bytes())
    with pytest.raises(InvalidOption, match="the training run may not be finished"):
        write(tmp_path / "run", "new.html")
    card = run.folder.read_card()
    (tmp_path / "run" / "card.json").write_text(json.dumps({**card, "classes": ["a", "b"]}), encoding="utf-8")
    (tmp_path / "run" / "predictions.csv").write_bytes(run.folder.predictions.read_bytes())
    with pytest.raises(InvalidOption, match="does not fit the card of the run"):
        write(tmp_path / "run", "new.html")
    assert (tmp_path / "p.html").read_text(encoding="utf-8") == "old" and not (tmp_path / "new.html").exists()


def two_groups(count: int = 24) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 6)) + 12.0 * (np.arange(count) % 2)[:, None]


def assert_groups_stay_apart(places: np.ndarray | None) -> None:
    assert places is not None and places.shape == (24, 2) and np.isfinite(places).all()
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    np.testing.assert_array_equal(nearest % 2, np.arange(24) % 2)


def test_tsne_keeps_neighbours() -> None:
    places = make_map("tsne", two_groups(), seed=1)
    assert_groups_stay_apart(places)
    np.testing.assert_array_equal(make_map("tsne", two_groups(), seed=1), places)


UMAP = """
import sys
import numpy as np
from kerasneuro.report.embedding_maps import make_map
places = make_map("umap", np.load(sys.argv[1]), seed=1)
assert not {"tensorflow", "keras", "torch"} & set(sys.modules), "a backend was imported"
np.save(sys.argv[2], places)
"""


@pytest.mark.slow
def test_umap_keeps_neighbours_and_imports_no_backend(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    require_maps(("umap",))
    np.save(tmp_path / "in.npy", two_groups())
    command = [
        sys.executable,
        "-W",
        "error::UserWarning",
        "-c",
        UMAP,
        tmp_path / "in.npy",
        tmp_path / "out.npy",
    ]
    subprocess.run(command, check=True)
    assert_groups_stay_apart(np.load(tmp_path / "out.npy"))


@pytest.mark.parametrize("embeddings", [two_groups(7), np.zeros((20, 4))])
def test_no_map_of_too_little(embeddings: np.ndarray) -> None:
    assert make_map("tsne", embeddings) is None
