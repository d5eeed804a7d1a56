"""Sums have one order, whoever adds: the tree is the one on paper, and memory changes no bit."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wncore.backend import get_backend
from wncore.calibration import calibrate
from wncore.dumps import open_dump, write_dump
from wncore.dumps.layer import Tokens
from wncore.layers.activations import open_layer
from wncore.layers.pieces import TreeSum, add_arrays, cut, step_of
from wncore.scoring import score_layer

BACKENDS = [get_backend(name) for name in ("numpy", "numba")]
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def on_paper(parts):
    """The tree by its definition: the largest power of two that leaves something to the right, then the rest."""
    if len(parts) == 1:
        return parts[0]
    left = 1 << (len(parts) - 1).bit_length() - 1
    return f"({on_paper(parts[:left])}{on_paper(parts[left:])})"


@pytest.mark.parametrize("count", range(1, 40))
def test_the_tree_is_the_one_on_paper(count):
    parts = [chr(ord("A") + i) for i in range(count)]
    total = TreeSum(lambda a, b: f"({a}{b})")
    for part in parts:
        total.add(part)
    assert total.result() == on_paper(parts)


def test_nothing_has_no_sum():
    assert TreeSum(add_arrays).result() is None


@pytest.mark.parametrize("count", [1, 2, 5, 7, 20])
def test_the_sum_may_be_asked_for_twice(count):
    """Though adding writes into the parts."""
    total = TreeSum(add_arrays)
    for i in range(count):
        total.add((np.full(3, 2.0**i),))
    for _ in range(2):
        np.testing.assert_array_equal(total.result()[0], np.full(3, 2.0**count - 1))


@given(st.integers(1, 40), st.integers(0, 5))
def test_log2_of_the_parts_are_held(count, seed):
    """Among them: what is being added."""
    held, total = 0, TreeSum(lambda a, b: a + b)
    for i in range(count):
        total.add(i + seed)
        held = max(held, len(total._held))
    assert held <= count.bit_length()
    assert total.result() == sum(i + seed for i in range(count))


@given(st.integers(0, 4), st.integers(1, 16))
def test_a_subtree_may_be_added_elsewhere(level, others):
    """Who holds 2^k neighbours that start at a multiple of 2^k hands on their sum, and no bit changes."""
    rng = np.random.default_rng([level, others])
    parts = [rng.standard_normal(5) * 10.0 ** rng.integers(-8, 8) for _ in range(2**level * others)]

    def tree(values):
        total = TreeSum(np.add)
        for value in values:
            total.add(value)
        return total.result()

    runs = [tree(parts[i : i + 2**level]) for i in range(0, len(parts), 2**level)]
    np.testing.assert_array_equal(tree(runs), tree(parts))


@given(st.data())
def test_pieces_are_whole_sequences_and_all_rows(data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=60), label="tokens of each sequence")
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    padding = data.draw(st.lists(st.integers(0, 3), min_size=len(sequence) + 1, max_size=len(sequence) + 1))
    keep = np.zeros(len(sequence) + sum(padding), bool)
    keep[np.cumsum(padding)[:-1] + np.arange(len(sequence))] = True
    least = data.draw(st.integers(1, 50), label="least")
    pieces = cut(Tokens(keep, sequence, np.zeros_like(sequence, bool)), least)
    rows = [row for piece in pieces for row in range(piece.rows.start, piece.rows.stop)]
    tokens = [token for piece in pieces for token in range(piece.tokens.start, piece.tokens.stop)]
    assert rows == list(range(len(keep)))
    assert tokens == list(range(len(sequence)))
    for piece in pieces:
        assert keep[piece.rows].sum() == piece.tokens.stop - piece.tokens.start
    assert len(pieces) <= max(1, min(20, len(sequence) // least))
    if len(lengths) >= 20:
        starts = [sequence[piece.tokens][0] for piece in pieces]
        assert len(set(starts)) == len(pieces)  # no sequence is in two of them
        assert all(sequence[a.tokens][-1] < sequence[b.tokens][0] for a, b in itertools.pairwise(pieces))
    for piece in pieces:
        steps = list(piece.steps(3))
        assert [row for step in steps for row in range(step.start, step.stop)] == list(
            range(piece.rows.start, piece.rows.stop)
        )


def test_steps_are_of_bytes_and_never_short():
    assert step_of(1024, 4) == 8192
    assert step_of(10**6, 8) == 512


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """A layer of several steps a piece when little memory is allowed, padding here and there."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 300, 12), dtype=np.float32) * rng.lognormal(0, 3, 12).astype(np.float32)
    w = rng.standard_normal((70, 12), dtype=np.float32)
    path = tmp_path_factory.mktemp("layer") / "l.safetensors"
    mask = (rng.random((60, 300)) < 0.9).astype(np.uint8)
    write_dump(path, {"l.input": x, "l.output": x @ w.T, "l.weight": w, "tokens.mask": mask})
    return open_dump(path).layers["l"]


@backends
def test_memory_changes_no_bit_of_a_gram_matrix(layer, backend):
    little, much = (calibrate(open_layer(layer, backend, memory=memory)) for memory in (2**20, 2**30))
    assert little.gram.tobytes() == much.gram.tobytes()
    assert little.holdout.tobytes() == much.holdout.tobytes()


@pytest.mark.parametrize("estimator", ["exact", "streaming"])
@pytest.mark.parametrize("computed", [False, True])
def test_memory_changes_no_bit_of_a_score(layer, estimator, computed):
    given_layer = replace(layer, output=None) if computed else layer
    little, much = (
        score_layer(open_layer(given_layer, BACKENDS[1], memory=memory), estimator=estimator, pairs=500)
        for memory in (2**23, 2**30)
    )
    for name, column in much.columns().items():
        assert column.tobytes() == little.columns()[name].tobytes(), name


@backends
def test_a_gram_matrix_is_that_of_its_tokens(layer, backend):
    opened = open_layer(layer, backend, holdout=0.25)
    x = layer.input.read()[opened.tokens.keep].astype(np.float64)
    found, first = calibrate(opened), opened.calibration
    np.testing.assert_allclose(found.gram, x[:first].T @ x[:first], rtol=1e-4)
    np.testing.assert_allclose(found.holdout, x[first:].T @ x[first:], rtol=1e-4)
