"""Write the reference files of this folder with PyTorch, which the tests of the readers do without.

Run with PyTorch 2 from the top of the repository: ``python tests/data/weights/make.py``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

HERE = Path(__file__).parent
CHECKPOINTS = (
    "fastsurfer/e2e_axial.pkl",
    "fastsurfer/e2e_coronal.pkl",
    "fastsurfer/net_small_axial.pkl",
    "fcd/ckpt_model_key.pth",
    "hsf/arunet_v4_bf16.ckpt",
    "hsf/arunet_v4_dyn.state_dict.pth",
)


class Tiny(torch.nn.Module):
    """Nested modules, a buffer, an integer buffer and a shared shape: what the reader has to walk."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv3d(1, 2, 3)
        self.inner = torch.nn.Sequential(
            torch.nn.BatchNorm3d(2), torch.nn.ReLU(), torch.nn.Conv3d(2, 3, 1, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.first(x))


def flatten(value: object, prefix: str = "") -> dict[str, torch.Tensor]:
    """Join the names of the nested containers with "."."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list | tuple)
        else ()
    )
    found = {}
    for name, child in items:
        found.update(flatten(child, f"{prefix}.{name}" if prefix else str(name)))
    return found


def describe(path: Path) -> dict[str, object]:
    """Summarise the tensors of a checkpoint as PyTorch reads them."""
    tensors = flatten(torch.load(path, map_location="cpu", weights_only=True))
    arrays = [(t.float() if t.dtype == torch.bfloat16 else t).contiguous().numpy() for t in tensors.values()]
    return {
        "keys": len(tensors),
        "keys_sha256": hashlib.sha256("\n".join(tensors).encode()).hexdigest(),
        "values_sha256": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest(),
        "elements": sum(array.size for array in arrays),
    }


def main() -> None:
    """Write the archive and the summaries."""
    tiny = Tiny().eval()
    for position, tensor in enumerate(tiny.state_dict().values()):
        tensor.copy_((torch.arange(tensor.numel()).reshape(tensor.shape) * 0.5 + position).to(tensor.dtype))
    torch.jit.script(tiny).save(str(HERE / "tiny_torchscript.pt"))
    torch.jit.trace(tiny, torch.zeros(1, 1, 4, 4, 4)).save(str(HERE / "tiny_traced.pt"))
    summary = {name: describe(HERE.parent / name) for name in CHECKPOINTS}
    (HERE / "checkpoints.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
