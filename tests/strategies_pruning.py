"""Layers to prune, and what pruning means: sets of weights, explicit inputs, LAPACK's least squares.

Nothing here knows how wncore computes anything: counts are fractions, cells are lists of indices, losses are sums over
tokens, and a ridge is a few more tokens.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from strategies import SEEDS

from wncore.pruning.cells import GROUPS
from wncore.pruning.methods import METHODS, PruneSpec, prune
from wncore.pruning.patterns import SemiStructured, Unstructured

INPUTS = {
    "independent": lambda rng, n, d: rng.standard_normal((n, d)),
    "correlated": lambda rng, n, d: rng.standard_normal((n, d)) @ (np.eye(d) + rng.standard_normal((d, d))),
    "offset": lambda rng, n, d: rng.standard_normal((n, d)) + 3 * rng.standard_normal(d),
    "integers": lambda rng, n, d: rng.choice([-3.0, -2.0, -1.0, 1.0, 2.0], (n, d)),
    "rank-deficient": lambda rng, n, d: rng.standard_normal((n, d // 2 + 1)) @ rng.standard_normal((d // 2 + 1, d)),
    "few tokens": lambda rng, n, d: rng.standard_normal((max(1, d // 3), d)),
    "duplicated": lambda rng, n, d: np.repeat(rng.standard_normal((n, d)), 2, axis=1)[:, :d],
    "dead": lambda rng, n, d: rng.standard_normal((n, d)) * (rng.permutation(d) >= (d + 1) // 2),
    "massive x300": lambda rng, n, d: rng.standard_normal((n, d)) * np.where(np.arange(d) == d // 2, 300.0, 1.0),
    "massive x1000": lambda rng, n, d: rng.standard_normal((n, d)) * np.where(np.arange(d) == d // 2, 1000.0, 1.0),
    "zero": lambda rng, n, d: np.zeros((n, d)),
}
"""(n, d) inputs, benign ones first. The number of tokens is kept by all but "few tokens"."""
BENIGN = tuple(INPUTS)[:4]
ALIVE = tuple(kind for kind in INPUTS if kind not in ("dead", "zero"))


@st.composite
def layers(draw, kinds=tuple(INPUTS), neurons=4, inputs=8, weights="normal"):
    """Weights (m, d) and inputs (n, d), three or more tokens an input unless the kind has few."""
    rng, kind = np.random.default_rng(draw(SEEDS, label="seed")), draw(st.sampled_from(kinds), label="kind")
    m, d = draw(st.integers(1, neurons), label="neurons"), draw(st.integers(1, inputs), label="inputs")
    w = rng.integers(-2, 3, (m, d)).astype(float) if weights == "integers" else rng.standard_normal((m, d))
    return w, INPUTS[kind](rng, 3 * d + 2, d)


thousandths = st.integers(0, 1000)
semistructured = st.integers(1, 9).flatmap(lambda of: st.builds(SemiStructured, st.integers(1, of), st.just(of)))
patterns = st.builds(Unstructured, thousandths.map(lambda k: k / 1000)) | semistructured
methods = st.sampled_from(METHODS)
groups = st.sampled_from(GROUPS)


@st.composite
def specs(draw, methods=methods, groups=groups, patterns=patterns, **fixed):
    """One pattern, a method and a group; blocks of a few columns, fewer steps of ADMM than it needs."""
    method, group = draw(methods, label="method"), draw(groups, label="group")
    block, pattern = draw(st.integers(1, 9), label="block"), draw(patterns, label="pattern")
    return PruneSpec((pattern,), **{"method": method, "group": group, "block": block, "iterations": 20, **fixed})


def pruned(w, h, spec):
    """Prune one matrix by one pattern: (m, d), (d, d) -> (m, d)."""
    return prune(w[None], h[None], spec)[0][0, 0]


# ---- how many weights go, and which


def carried(shares):
    """Whole numbers of a list of fractions, each remainder carried to the next."""
    owed, given = Fraction(0), []
    for share in shares:
        owed += share
        given.append(math.floor(owed) - sum(given))
    return given


def cells_by_hand(pattern, group, m, d, block):
    """Cells as pairs of the indices (i, j) compared, in order, and how many of them go."""
    if isinstance(pattern, SemiStructured):
        spans = [range(d)[start : start + pattern.of] for start in range(0, d, pattern.of)]
        lost = [len(span) - math.ceil(Fraction(pattern.kept * len(span), pattern.of)) for span in spans]
        return [([(i, j) for j in span], n) for i in range(m) for span, n in zip(spans, lost, strict=True)]
    given = pattern.sparsity if isinstance(pattern.sparsity, tuple) else (pattern.sparsity,) * m
    shares = [Fraction(str(share)) for share in given]
    width = block if "block" in group else d
    spans = [range(d)[start : start + width] for start in range(0, d, width)]
    if group in ("layer", "block"):
        counts = carried([shares[0] * m * len(span) for span in spans])
        return [([(i, j) for i in range(m) for j in span], n) for span, n in zip(spans, counts, strict=True)]
    cells = []
    for i, row in enumerate(carried([share * d for share in shares])):
        counts = carried([Fraction(row * len(span), d) for span in spans])
        cells += [([(i, j) for j in span], n) for span, n in zip(spans, counts, strict=True)]
    return cells


def keep_all_but_the_lowest(scores, cells):
    """Mask (m, d) without the lowest scores of each cell, ties to the lowest index."""
    mask = np.ones(np.shape(scores), bool)
    for where, count in cells:
        for index in sorted(where, key=lambda index: (scores[index], index))[:count]:
            mask[index] = False
    return mask


def masks_with(zeros, d):
    """All masks (d,) with so many zeros."""
    return [~np.isin(np.arange(d), where) for where in itertools.combinations(range(d), zeros)]


# ---- what it costs


def with_ridge(x, ridge):
    """Inputs with d more tokens, one an input: a ridge in proportion to sum x_j^2, and 1 for an input that is dead."""
    squares = np.square(x).sum(axis=0)
    return np.vstack([x, np.diag(np.sqrt(np.where(squares == 0, 1.0, ridge * squares)))])


def loss(x, sparse, dense):
    """Sum over tokens of the squared changes of a neuron's outputs: (n, d), (m, d), (m, d) -> (m,)."""
    return np.square(x @ (np.asarray(sparse) - dense).T).sum(axis=0)


def refit(x, w, mask):
    """Best weights (m, d) for a mask, row by row, from LAPACK's least squares on the inputs themselves."""
    best = np.zeros(w.shape)
    for out, dense, keep in zip(best, w, mask, strict=True):
        out[keep] = np.linalg.lstsq(x[:, keep], x @ dense)[0]
    return best


def least_loss(x, row, zeros):
    """The least loss of a neuron with so many zeros, over all masks."""
    return min(loss(x, refit(x, row[None], mask[None]), row[None]).item() for mask in masks_with(zeros, len(row)))
