"""Plain tables for the terminal."""

import math
from collections.abc import Sequence
from typing import Any

from wncore_cli import printable


def number(value: Any, digits: int = 4) -> str:
    """Format a number, NumPy's too, with so many digits behind the point; "-" if there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align the first column left and the others right."""
    lines = [[printable(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
