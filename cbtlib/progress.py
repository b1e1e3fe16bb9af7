"""How far long work has come: a bar in a terminal, a line a minute in a log file, nothing on the page of a notebook.

    with progress.bar(total=len(posts), desc="labelling", unit="post") as bar:
        bar.update(len(block))

The bar is tqdm's. A run of hours is started with `nohup` or by SLURM, and its log should say where it is; the pages of
the book keep what their cells print, and a bar that has ended is nothing to read.
"""

import math
import sys
from typing import Any

from tqdm import tqdm

EVERY = 60.0
"""Seconds between two lines of a log file."""


class _Lines(tqdm):
    """tqdm, each state on a line of its own."""

    def __init__(self, *given: Any, **options: Any):
        shape = "{desc}: {n_fmt} of {total_fmt}, {elapsed} passed, {remaining} to go{postfix}"
        paced = {"mininterval": EVERY, "maxinterval": math.inf, "miniters": 1, "delay": EVERY}
        super().__init__(*given, **options | paced | {"leave": False, "bar_format": shape})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if msg is None:  # with "" tqdm wipes a bar out
            try:
                self.fp.write(f"{self}\n")
                self.fp.flush()
            except (OSError, ValueError):  # a full disk, a reader that is gone: no reason for the work to stop
                self.miniters = math.inf


def bar(items: Any = None, **options: Any) -> Any:
    """tqdm over `items`, or with a `total`, as it suits where standard error goes; `options` are tqdm's."""
    log = sys.stderr
    if log is None or getattr(log, "closed", False) or "ipykernel" in sys.modules:
        return tqdm(items, **options | {"disable": True})
    if getattr(log, "isatty", bool)():
        return tqdm(items, mininterval=0.5, **options)
    return _Lines(items, **options)
