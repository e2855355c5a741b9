"""Worker: deepbet 1.0.2 runs on scans, with its own weights and with weights that it trained for a step."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from cases import Case, compare_returned, write_cases
from deepbet.bet import BrainExtraction
from deepbet.utils import DATA_PATH, normalize

SIZE = 96
PROBABILITY = 1e-4
VOXELS = 20
PUBLISHED = {"bbox": "bbox_model.pt", "brain": "model.pt"}


def train_a_step(source: Path, target: Path, x: torch.Tensor) -> None:
    """Move every array of an archive by one step of gradient descent, and write the archive again."""
    network = torch.jit.load(str(source))
    loss = (network(x)[:, 1] - 0.5).square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            step = parameter.grad
            scale = parameter.abs().mean() / step.abs().mean().clamp_min(1e-12)
            parameter -= 1e-2 * scale * step
    torch.jit.save(network, str(target))


def network_case(
    folder: Path, title: str, part: str, file: Path, weights: dict[str, str], x: torch.Tensor
) -> Case:
    """Write what one network answers to a head."""
    expected = f"{title}-{part}.npz".replace(" ", "-")
    with torch.no_grad():
        y = torch.jit.load(str(file))(x)
    np.savez(folder / expected, x=x.numpy().transpose(0, 2, 3, 4, 1), y=y.numpy().transpose(0, 2, 3, 4, 1))
    return Case(
        "network", "deepbet", f"{title}, {part}", weights, expected, PROBABILITY, part=part, softmax=True
    )


def volume(image: Path) -> torch.Tensor:
    """Cut a head to 96^3 voxels and scale it as the tool does, (1, 1, X, Y, Z)."""
    head = nib.as_closest_canonical(nib.load(image)).get_fdata(dtype=np.float32)
    margin = [max(SIZE - length, 0) for length in head.shape]
    head = np.pad(head, [(extra // 2, extra - extra // 2) for extra in margin])
    start = [(length - SIZE) // 2 for length in head.shape]
    head = head[tuple(slice(first, first + SIZE) for first in start)]
    return normalize(torch.from_numpy(head), *np.quantile(head, (0.005, 0.995)))[None, None]


def pipeline_cases(folder: Path, images: list[Path]) -> list[Case]:
    """Run the whole tool on scans, with its published weights."""
    tool = BrainExtraction(no_gpu=True)
    cases = []
    for image in images:
        for threshold, n_dilate in ((0.5, 0), (0.3, 1)):
            expected = f"{image.name.split('.')[0]}-{threshold}-{n_dilate}.nii.gz"
            tool.run(str(image), None, str(folder / expected), None, threshold, n_dilate)
            options = {"threshold": threshold, "n_dilate": n_dilate}
            title = f"{image.name.split('.')[0]}, threshold {threshold}, dilation {n_dilate}"
            weights = {part: str(Path(DATA_PATH) / "models" / name) for part, name in PUBLISHED.items()}
            cases.append(Case("pipeline", "deepbet", title, weights, expected, VOXELS, str(image), options))
    return cases


def predict_returned(case: Case, file: Path, x: np.ndarray) -> np.ndarray:
    """Load a state dict that kerasneuro wrote into deepbet's network, and predict."""
    network = torch.jit.load(str(Path(DATA_PATH) / "models" / PUBLISHED[case.part]))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(float("nan"))
        network.load_state_dict(torch.load(file, weights_only=True), strict=True)
        y = network(torch.from_numpy(x.transpose(0, 4, 1, 2, 3).copy()))
    return y.numpy().transpose(0, 2, 3, 4, 1)


def main(folder: Path, images: list[Path]) -> None:
    """Write all files and the list of cases."""
    head = volume(images[0])
    published = {part: Path(DATA_PATH) / "models" / name for part, name in PUBLISHED.items()}
    trained = {}
    for part, source in published.items():
        trained[part] = folder / f"trained_{part}.pt"
        train_a_step(source, trained[part], head)
    cases = []
    for title, files in (("published weights", published), ("weights after a training step", trained)):
        weights = {part: str(path) for part, path in files.items()}
        cases += [network_case(folder, title, part, files[part], weights, head) for part in files]
    cases += pipeline_cases(folder, images)
    write_cases(folder, cases, {name: metadata.version(name) for name in ("deepbet", "torch")})


if __name__ == "__main__":
    if sys.argv[1] == "--returned":
        compare_returned(Path(sys.argv[2]), predict_returned)
    else:
        main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
