"""Worker: the original deepbet package, from model load to saved brain, mask and volume."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from common import claim_output, parse_arguments, serve


class Worker:
    """The original tool."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.tool: Any = None

    def load(self) -> None:
        """Read both networks."""
        from deepbet.bet import BrainExtraction

        self.tool = None
        gc.collect()
        self.tool = BrainExtraction(no_gpu=True)

    def run(self, image: str, block: int) -> dict[str, str]:
        """Process one scan; its networks have a fixed size, so `block` says nothing here."""
        mask = str(self.out / "mask.nii.gz")
        self.tool.run(image, str(self.out / "brain.nii.gz"), mask, str(self.out / "tiv.csv"))
        return {"mask": mask}


def main() -> None:
    """Import what a run uses, then answer until the input ends."""
    answers = claim_output()
    options = parse_arguments(__doc__, "family", "weights", "out")
    import deepbet.bet  # imported here, so that no clock sees it
    import torch

    torch.set_num_threads(options.threads)
    serve(Worker(Path(options.out)), (deepbet.__name__, "torch"), answers)


if __name__ == "__main__":
    main()
