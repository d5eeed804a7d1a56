"""What of a text is predicted from what, by the two conventions of perplexity.

*windows* (GPTQ, SparseGPT, Wanda: arXiv:2210.17323, 2301.00774, 2306.11695): the text is one string, cut into
disjoint windows; a token is predicted from those before it in its window, the first of a window is not scored, and
tokens that do not fill a window are left out.

*harness* (`loglikelihood_rolling` of lm-evaluation-harness): every token is scored, the first from a prefix token; in
each window one token before the first is given, in the last as many as fit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wncore.errors import InputError
from wncore.evaluation import Begin
from wncore_torch.model.text import Text, disjoint_windows


@dataclass(frozen=True, eq=False)
class Predictions:
    """Inputs of the model, the token that follows each, and whether it is scored: (w, l) each."""

    ids: Tensor
    targets: Tensor
    scored: Tensor
    bos: bool
    """whether the text begins with the token for it, by the option `bos`; the harness' prefix is not meant"""


def predict_windows(text: Text, length: int, count: int | None, bos: Begin) -> Predictions:
    """Cut a text into disjoint windows of `length` tokens.

    `bos` "yes" begins every window with the token that begins a text, so that all others are scored; "auto" does what
    the tokenizer does to the string, which begins with it once, or not at all.

    Raises
    ------
    InputError
        If there is no such token, or the text is too short for a window.
    """
    begin = _begin_of(text, bos)
    if bos == "yes" and begin is not None:
        rows = disjoint_windows(text.tokens, length - 1, count)
        rows = torch.cat([torch.full((len(rows), 1), begin), rows], dim=1)
    else:
        tokens = text.tokens if begin is None else torch.cat([torch.tensor([begin]), text.tokens])
        rows = disjoint_windows(tokens, length, count)
    scored = torch.ones_like(rows, dtype=torch.bool)
    scored[:, -1] = False
    return Predictions(rows, rows.roll(-1, dims=1), scored, begin is not None)


def predict_rolling(text: Text, length: int, count: int | None, bos: Begin) -> Predictions:
    """Cut a text into the harness' rolling windows, each predicting up to `length` tokens.

    Raises
    ------
    InputError
        If there is no token to predict the first one from.
    """
    begin = _begin_of(text, bos)
    prefix = text.begin if text.begin is not None else text.end
    if prefix is None:
        raise InputError(
            "the tokenizer has no token that begins or ends a text, from which the harness predicts the first; leave "
            "--convention harness out"
        )
    added = [prefix] if begin is None else [prefix, begin]
    tokens = torch.cat([torch.tensor(added), text.tokens])  # of these all but the first are predicted
    total, reach = len(tokens) - 1, min(length, len(tokens) - 1)
    ends = [*range(reach, total + 1, reach)]
    fresh = [reach] * len(ends)
    if ends[-1] < total:
        fresh.append(total - ends[-1])
        ends.append(total)
    ends, fresh = ends[:count], fresh[:count]
    ids = torch.stack([tokens[end - reach : end] for end in ends])
    targets = torch.stack([tokens[end - reach + 1 : end + 1] for end in ends])
    scored = torch.arange(reach)[None, :] >= reach - torch.tensor(fresh)[:, None]
    return Predictions(ids, targets, scored, begin is not None)


def _begin_of(text: Text, bos: Begin) -> int | None:
    """Return the token to begin with, or None."""
    if bos == "yes" and text.begin is None:
        raise InputError("the tokenizer has no token that begins a text; leave --bos yes out")
    return text.begin if bos == "yes" or (bos == "auto" and text.adds_begin) else None
