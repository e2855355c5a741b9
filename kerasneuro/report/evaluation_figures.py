"""The figures of an evaluation page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.report.figure import PLANES, intensity_window, new_figure, to_png
from kerasneuro.training.classifier.cohort import SUBSETS, Sample
from kerasneuro.training.metrics.classification import calibration, confusion
from kerasneuro.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b62a8", "#d9480f", "#2f9e5b", "#8e44ad", "#b8860b", "#00838f", "#c2185b", "#5d6d7e")
PANEL = 3.1  # inches
WIDTH = 1.6


def new_panels(rows: int, columns: int, width: float = PANEL, height: float = PANEL) -> tuple[Figure, Any]:
    """Make a figure of panels; size of a panel in inches.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    figure = new_figure(columns * width, rows * height, paper="white", layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_scores(labels: np.ndarray, probability: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw confusion matrix, ROC curve, precision-recall curve and calibration of one subset.

    Parameters
    ----------
    labels, probability : numpy.ndarray
        0 and 1, and the probability of 1: shape ``(N,)``.
    classes : sequence of str
        Names of the two classes.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, panels = new_panels(1, 4)
    matrix, receiver, precision, reliability = panels[0]
    table = confusion(labels, probability >= 0.5)
    matrix.imshow(table, cmap="Blues", vmin=0)
    for (row, column), count in np.ndenumerate(table):
        dark = count > table.max() / 2
        matrix.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    matrix.set(xticks=(0, 1), yticks=(0, 1), xticklabels=classes, yticklabels=classes)
    matrix.set(xlabel="predicted", ylabel="true", title="confusion")
    if labels.min() != labels.max():
        false, true, _ = roc_curve(labels, probability)
        receiver.step(false, true, where="post", color=COLOURS[0], lw=WIDTH)
        found, recall, _ = precision_recall_curve(labels, probability)
        precision.step(recall, found, where="post", color=COLOURS[0], lw=WIDTH)
    receiver.plot((0, 1), (0, 1), color="0.7", ls=":")
    receiver.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    precision.axhline(labels.mean(), color="0.7", ls=":")
    precision.set(xlabel="recall", ylabel="precision", title="precision and recall")
    bins = calibration(labels, probability)
    reliability.plot((0, 1), (0, 1), color="0.7", ls=":")
    reliability.plot(bins.predicted, bins.observed, "o-", color=COLOURS[0], ms=4)
    reliability.set(xlabel="predicted probability", ylabel="observed share", title="calibration")
    for panel in (receiver, precision, reliability):
        panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return to_png(figure)


def draw_history(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Draw loss, accuracy and learning rate of the epochs."""
    figure, panels = new_panels(1, 3, width=4.1)
    epochs = [int(row["epoch"]) for row in rows]

    def line(panel: Axes, name: str, label: str, colour: str) -> None:
        panel.plot(epochs, [float(row[name]) for row in rows], label=label, color=colour, lw=WIDTH)

    for panel, name in zip(panels[0], ("loss", "accuracy"), strict=False):
        line(panel, name, "training", COLOURS[0])
        line(panel, f"val_{name}", "validation", COLOURS[1])
        panel.set(xlabel="epoch", title=name)
        panel.legend(frameon=False)
    line(panels[0][2], "learning_rate", "", COLOURS[0])
    panels[0][2].set(xlabel="epoch", title="learning rate")
    return to_png(figure)


def draw_cohort(samples: Sequence[Sample], classes: Sequence[str]) -> bytes:
    """Draw sizes of the subsets, sites, ages and sexes, by class."""
    figure, panels = new_panels(1, 4)
    groups = {
        "subset": [(name, [s for s in samples if s.split == name]) for name in SUBSETS],
        "site": _grouped(samples, "site"),
        "sex": _grouped(samples, "sex"),
    }
    for panel, (title, parts) in zip(panels[0], groups.items(), strict=False):
        base = np.zeros(len(parts))
        for number, name in enumerate(classes):
            heights = np.array([sum(sample.label == number for sample in part) for _, part in parts])
            panel.bar(range(len(parts)), heights, bottom=base, label=name, color=COLOURS[number])
            base += heights
        panel.set(title=title, ylabel="samples")
        panel.set_xticks(range(len(parts)), [name or "unknown" for name, _ in parts], rotation=30)
    panels[0][0].legend(frameon=False)
    ages = [[s.age for s in samples if s.age is not None and s.label == k] for k in range(len(classes))]
    known = [(values, k) for k, values in enumerate(ages) if values]
    if known:
        panels[0][3].hist(
            [values for values, _ in known],
            bins=12,
            stacked=True,
            color=[COLOURS[k] for _, k in known],
        )
    panels[0][3].set(title="age" if known else "age: not given", xlabel="years")
    return to_png(figure)


def _grouped(samples: Sequence[Sample], name: str) -> list[tuple[str, list[Sample]]]:
    values = sorted({getattr(sample, name) for sample in samples})
    return [(value, [sample for sample in samples if getattr(sample, name) == value]) for value in values]


def draw_map(
    title: str, maps: Mapping[str, np.ndarray], colours: Mapping[str, tuple[Sequence[str], Sequence[str]]]
) -> bytes:
    """Draw places of samples, once for each way to colour them.

    Parameters
    ----------
    title : str
        Name of the method.
    maps : mapping of str to numpy.ndarray
        Such as "before harmonisation" -> ``(N, 2)``; one row each.
    colours : mapping of str to (sequence of str, sequence of str)
        Such as "site" -> the names of the sites, and the site of each sample; one column each.
    """
    figure, panels = new_panels(len(maps), len(colours), width=4.1, height=3.5)
    for row, (state, places) in zip(panels, maps.items(), strict=True):
        for panel, (what, (names, values)) in zip(row, colours.items(), strict=True):
            for number, value in enumerate(names):
                chosen = np.array([its == value for its in values])
                colour = COLOURS[number % len(COLOURS)]
                panel.scatter(*places[chosen].T, s=12, color=colour, label=value or "unknown")
            panel.set(title=f"{title}, {state}, by {what}", xticks=(), yticks=())
            panel.legend(frameon=False, fontsize=7)
    return to_png(figure)


def draw_slices(title: str, scans: Mapping[str, Volume]) -> bytes:
    """Draw the middle axial, coronal and sagittal slice of each channel of one sample.

    Parameters
    ----------
    title : str
        Stands above the slices.
    scans : mapping of str to Volume
        Name of the channel -> what the network sees.
    """
    import nibabel

    figure, panels = new_panels(1, len(PLANES) * len(scans), width=1.9, height=2.1)
    row = iter(panels[0])
    for name, scan in scans.items():
        image = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.asarray(scan.array), scan.affine))
        array, zooms = np.asarray(image.dataobj), image.header.get_zooms()
        low, high = intensity_window(array)
        for plane, (axis, right, up, _) in PLANES.items():
            panel = next(row)
            size = (0, array.shape[right] * zooms[right], 0, array.shape[up] * zooms[up])
            middle = array.take(array.shape[axis] // 2, axis).T
            panel.imshow(middle, cmap="gray", origin="lower", extent=size, vmin=low, vmax=high)
            panel.set_title(f"{name}, {plane}", fontsize=7)
            panel.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return to_png(figure)
