"""What a language model makes of a text, as numbers and as documents ``wncore.eval/1``; by whichever source."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

from wncore.errors import InputError
from wncore.files import check_output, replacing
from wncore.results import to_json

SCHEMA = "wncore.eval/1"
Convention = Literal["windows", "harness"]
"""Which tokens are predicted from what."""
Begin = Literal["auto", "yes", "no"]
"""Whether a text begins with the token for it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a model is asked about a text."""

    tokens: int
    """scored"""
    windows: int
    length: int
    bos: bool
    """whether the text, or each window, begins with the token for it"""
    dtype: str
    """of the forward; losses are taken in float32 and summed in float64"""
    convention: Convention


@dataclass(frozen=True, kw_only=True)
class Evaluation(Plan):
    """What it answered."""

    perplexity: float
    """exp of the mean negative log-likelihood of the tokens scored"""
    bits_per_byte: float
    """that mean in bits, times the text's tokens per byte; comparable between tokenizers"""
    word_perplexity: float | None
    """exp of the sum over the words of the text; None unless every token of it was scored"""

    def document(self) -> dict[str, Any]:
        """Return all of it; what is infinite or undefined is null."""
        return {name: None if value in (inf, None) else value for name, value in asdict(self).items()}


def evaluation_document(
    source: str, texts: Sequence[str], found: Sequence[Plan], settings: dict[str, Any]
) -> dict[str, Any]:
    """Build the document ``wncore.eval/1``; several texts add a level `runs`. Plans make that of a dry run."""
    runs = [
        {"text": text, **(one.document() if isinstance(one, Evaluation) else asdict(one))}
        for text, one in zip(texts, found, strict=True)
    ]
    document = {"schema": SCHEMA, "source": source, **settings}
    return document | (runs[0] if len(runs) == 1 else {"runs": runs})


def check_target(path: Path, force: bool) -> None:
    """Raise before any work what `write_document` would raise after it.

    Raises
    ------
    InputError
        If the extension is another than .json.
    WncoreError
        As `check_output`.
    """
    if path.suffix != ".json":
        raise InputError(
            f"{path}: the extension {path.suffix!r} is unknown here; perplexity is written to a .json file"
        )
    check_output(path, force)


def write_document(path: Path, document: dict[str, Any], force: bool = False) -> None:
    """Write a document to a .json file, which appears whole or not at all."""
    check_target(path, force)
    with replacing(path, force) as temporary:
        temporary.write_text(to_json(document) + "\n", encoding="utf-8")
