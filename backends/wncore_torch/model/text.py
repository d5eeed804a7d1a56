"""A text file as tokens, by the tokenizer in the model's folder; windows of them."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from wncore.errors import InputError
from wncore_torch.model.internals import AutoTokenizer

LENGTH = 2048
"""Tokens of a window, unless the model was made for fewer: a config's own maximum may be 131,072."""


@dataclass(frozen=True, eq=False)
class Text:
    """A text, and its tokens as the tokenizer makes them of one string."""

    tokens: Tensor
    """(t,) int64, nothing added"""
    bytes: int
    words: int
    """by white space, as lm-evaluation-harness counts them: a text that ends with a new line has an empty one there"""
    begin: int | None
    """the token that begins a text, if the tokenizer has one"""
    end: int | None
    adds_begin: bool
    """whether the tokenizer, left to itself, puts `begin` in front"""


def open_tokenizer(path: Path) -> Any:
    """Open the tokenizer of a folder: its files only, no code of its own, no network.

    Raises
    ------
    InputError
        If there is none, or transformers cannot open it.
    """
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8])
        raise InputError(
            f"{path} has no tokenizer, there is {there}; add the tokenizer's files, tokenizer.json for one"
        )
    try:
        there = {one.name: one.stat() for one in sorted(path.iterdir()) if one.is_file()}
        return _open(path, tuple((name, one.st_mtime_ns, one.st_size) for name, one in there.items()))
    except (ValueError, OSError, KeyError, ImportError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the tokenizer of {path} cannot be opened: {reason}; add its tokenizer.json") from error


@lru_cache(maxsize=1)
def _open(path: Path, files: tuple[tuple[str, int, int], ...]) -> Any:
    """Open a tokenizer, or find the one that was opened of the same files: a run may read several texts."""
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)


def read_text(folder: Path, path: str | Path) -> Text:
    """Tokenise a UTF-8 text file, as it is, by the tokenizer of a model's folder.

    Raises
    ------
    InputError
        If there is no tokenizer, or the file is missing, not UTF-8, or without any token.
    """
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; name a text file with --text") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}; convert it first") from error
    tokenizer = open_tokenizer(folder)
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    if not ids:
        raise InputError(f"{path} holds no text; name a file that does")
    whole = tokenizer("a", verbose=False)["input_ids"]
    begin = tokenizer.bos_token_id
    return Text(
        tokens=torch.tensor(ids, dtype=torch.int64),
        bytes=len(data),
        words=len(re.split(r"\s+", text)),
        begin=begin,
        end=tokenizer.eos_token_id,
        adds_begin=begin is not None and whole[:1] == [begin],
    )


def window_length(asked: int | None, limit: int | None) -> int:
    """Return the tokens of a window: as asked, else 2,048, or as many as the model was made for.

    Raises
    ------
    InputError
        If fewer than two are asked for, or more than the model takes.
    """
    if asked is None:
        return min(LENGTH, limit or LENGTH)
    if asked < 2:
        raise InputError(f"a window has at least 2 tokens; got {asked}, give more with --length")
    if limit is not None and asked > limit:
        raise InputError(f"the model takes at most {limit} tokens; got {asked}, give fewer with --length")
    return asked


def disjoint_windows(tokens: Tensor, length: int, count: int | None = None) -> Tensor:
    """Cut tokens into windows from the beginning, (t,) -> (w, length); what is left over at the end is left out.

    `count` is the most windows; None: all.

    Raises
    ------
    InputError
        If there are fewer tokens than one window, or fewer than one window is asked for.
    """
    if count is not None and count < 1:
        raise InputError(f"at least one window is needed; got {count}, give more with --windows")
    whole = len(tokens) // length
    if whole < 1:
        raise InputError(
            f"the text has {len(tokens)} tokens and a window {length}; give a longer --text or a smaller --length"
        )
    kept = whole if count is None else min(count, whole)
    return tokens[: kept * length].reshape(kept, length)


def random_windows(tokens: Tensor, length: int, count: int, seed: int) -> Tensor:
    """Cut windows at random places, (t,) -> (w, length); no more than would fit without an overlap.

    The rule of SparseGPT's code (arXiv:2301.00774), by which results compare: Python's generator, `seed`, and for each
    window a start from 0 to t - length - 1, both included.

    Raises
    ------
    InputError
        As `disjoint_windows`.
    """
    possible = len(disjoint_windows(tokens, length, count))
    draw = Random(seed)
    starts = [draw.randint(0, max(0, len(tokens) - length - 1)) for _ in range(possible)]
    return torch.stack([tokens[start : start + length] for start in starts])
