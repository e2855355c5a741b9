"""Whole jobs, from the weight file to saved results, against the original tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import operations
from fleet import OUR_PYTHON, Contender, Fleet, Series, Worker
from plan import Plan
from summary import add_ratios, differing_voxels, make_case, make_row, median

ROOT = Path(__file__).resolve().parent.parent
WHOLE_LIMIT_S = 150.0
"""A tool for which the whole volume would take longer is measured on blocks only."""


def peer_python(name: str) -> Path:
    """Return the Python of an original tool's environment."""
    python = ROOT / ".venvs" / name / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is missing: `make bench` creates the environments of the original tools")
    return python


def contenders(family: str, plan: Plan) -> list[Contender]:
    """Return the original tool first, then kerasneuro under each backend."""
    original = {"deepbet": "torch", "nobrainer": "tensorflow"}[family]
    peer = Contender(family, original, peer_python(family), f"peer_{family}.py", is_reference=True)
    return [peer, *(Contender("kerasneuro", backend, OUR_PYTHON, "ours.py") for backend in plan.backends)]


def worker_options(family: str, folder: Path, weights: Path | None) -> Callable[[Contender], Sequence[str]]:
    """Return what tells a worker its family, its weights, and a folder of its own."""

    def options(contender: Contender) -> Sequence[str]:
        """Make the folder, too."""
        out = folder / f"{family}-{contender.tool}-{contender.backend}"
        out.mkdir(parents=True, exist_ok=True)
        common = ["--family", family, "--out", str(out)]
        return [*common, "--weights", str(weights)] if weights else common

    return options


def make_volume(path: Path, edge: int) -> None:
    """Write a smooth random volume; the time of a convolution does not depend on its values."""
    import nibabel as nib
    import numpy as np
    from scipy import ndimage

    noise = np.random.default_rng(11).standard_normal((edge,) * 3, dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise, 3.0)
    nib.save(nib.Nifti1Image((1000 * smooth / smooth.std()).astype(np.int16), np.eye(4)), path)


def add_masks(case: dict[str, Any], series: dict[Contender, Series]) -> None:
    """Count the voxels in which each tool's mask differs from the original's."""
    masks = [found.last.get("mask") for found in series.values()]
    for row, mask in zip(case["rows"], masks, strict=True):
        row["differing_voxels"] = differing_voxels(masks[0], mask) if mask and masks[0] else None


def deepbet(plan: Plan) -> dict[str, Any]:
    """Measure brain extraction on the sample head."""
    import kerasneuro

    kerasneuro.fetch("deepbet")
    (image,) = kerasneuro.fetch("t1-group-average").values()
    tools, sizes = contenders("deepbet", plan), plan.sizes
    title = "deepbet: brain extraction of one head, two networks (128 and 256 cubed)"
    with Fleet(tools, plan.threads, plan.deadline, worker_options("deepbet", plan.folder, None)) as fleet:
        run = {"image": str(image), "block": 0}
        measured = fleet.take_turns(sizes.rounds, starts=sizes.starts, load={}, run=run)
        case = make_case("deepbet", title, fleet, measured, operations.deepbet_case())
    add_masks(case, measured[0])
    add_ratios(case["rows"], "end_to_end_s", "end_to_end_ratio")
    return case


def make_weights(plan: Plan, image: Path, weights: Path) -> None:
    """Let nobrainer write a weight file."""
    peer = contenders("nobrainer", plan)[0]
    worker = Worker(peer, plan.threads, ["--weights", str(weights), "--out", str(plan.folder)])
    try:
        worker.wait_until_ready()
        worker.ask("prepare", image=str(image), block=plan.sizes.block)
    finally:
        worker.close()


def nobrainer(plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the block-wise U-Net: single blocks in turns, then whole volumes; returns (volume, block)."""
    sizes, folder = plan.sizes, plan.folder
    block_image, volume_image, weights = (folder / name for name in ("block.nii", "volume.nii", "unet.h5"))
    make_volume(block_image, sizes.block)
    make_volume(volume_image, sizes.volume)
    make_weights(plan, block_image, weights)
    tools = contenders("nobrainer", plan)
    with Fleet(tools, plan.threads, plan.deadline, worker_options("nobrainer", folder, weights)) as fleet:
        run = {"image": str(block_image), "block": sizes.block}
        measured = fleet.take_turns(sizes.rounds, starts=sizes.starts, load={}, run=run)
        title = f"nobrainer U-Net: a scan of one block of {sizes.block} cubed, random weights"
        work = operations.nobrainer_network(sizes.block)
        blocks = make_case("nobrainer-block", title, fleet, measured, work)
        add_masks(blocks, measured[0])
        volume = whole_volumes(plan, fleet, measured[0], str(volume_image), blocks["matrix_gflops"])
    return volume, blocks


def whole_volumes(
    plan: Plan, fleet: Fleet, blocks: dict[Contender, Series], image: str, rate: float
) -> dict[str, Any]:
    """Load anew and process the whole volume, each tool in turn; slow tools are left out."""
    sizes = plan.sizes
    count = (sizes.volume // sizes.block) ** 3
    title = f"nobrainer U-Net: {sizes.volume} cubed in {count} blocks of {sizes.block} cubed, random weights"
    series: dict[Contender, Series] = {}
    for contender, measured in blocks.items():
        expected = count * (median(measured.following) or 0)
        if measured.failure:
            plan.leave_out(f"whole volume, {contender.tool} {contender.backend}: it failed on a block")
        elif expected > WHOLE_LIMIT_S:
            reason = f"{expected:.0f} s expected from its blocks, more than {WHOLE_LIMIT_S:.0f} s"
            plan.leave_out(f"whole volume, {contender.tool} {contender.backend}: {reason}")
        elif plan.has_time_for(f"whole volume, {contender.tool} {contender.backend}"):
            series[contender] = Series()
    for _ in range(sizes.whole_rounds):
        for contender, found in series.items():
            with fleet.noting_failure(contender, found):
                whole_volume(fleet.workers[contender], found, image, sizes.block)
    rows = [
        make_row(each, found, fleet, operations.nobrainer_case(sizes.volume, sizes.block), rate)
        for each, found in series.items()
    ]
    add_ratios(rows, "end_to_end_s", "end_to_end_ratio")
    case = {
        "case": "nobrainer",
        "title": title,
        "matrix_gflops": rate,
        "rounds": sizes.whole_rounds,
        "rows": rows,
    }
    add_masks(case, series)
    return case


def whole_volume(worker: Worker, found: Series, image: str, block: int) -> None:
    """Load the weights and process one volume, in the process that did the blocks."""
    if found.failure:
        return
    worker.ask("forget_peak")
    found.load.append(worker.ask("load")["seconds"])
    found.last = worker.ask("run", image=image, block=block)
    found.first.append(found.last["seconds"])
    found.peak = max(found.peak, found.last["peak_bytes"])
