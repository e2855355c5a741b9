"""Say how far a prediction is, on stderr, from the first seconds on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from kerasneuro.inference.settings import Progress


@contextlib.contextmanager
def reporting(progress: Progress, headline: str, total: int) -> Iterator[Callable[[int], None]]:
    """Lend a function that takes the number of blocks done.

    Parameters
    ----------
    progress : bool or callable
        False: silence. True: a headline at once (compiling may take long) and a bar on stderr. A callable
        gets ``(done, total)``, first with 0.
    headline : str
        Printed above the bar.
    total : int
        Number of blocks.
    """
    if callable(progress):
        progress(0, total)
        yield lambda done: progress(done, total)
    elif not progress:
        yield lambda done: None
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        console.print(headline, highlight=False)
        columns = (TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=console) as bar:
            task = bar.add_task("blocks", total=total)
            yield lambda done: bar.update(task, completed=done)
