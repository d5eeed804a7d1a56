"""Each cell loses its exact number of weights: integer arithmetic, and sorted lists of pairs, say which."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_pruning import (
    SEEDS,
    cells_by_hand,
    groups,
    keep_all_but_the_lowest,
    patterns,
    semistructured,
    thousandths,
)

from wncore.pruning.cells import BLOCK, Cells, cells_of, select, select_span
from wncore.pruning.patterns import SemiStructured, Unstructured

sizes = st.integers(1, 40)


def lengths(cells, d):
    """Weights of each cell, in the shape of the counts, for one row."""
    spans = [range(d)[cells.span(c)] for c in range(cells.counts.shape[1])]
    assert [j for span in spans for j in span] == list(range(d))
    return np.array([len(span) for span in spans])


# ---- how many


@given(thousandth=thousandths, group=groups, m=sizes, d=sizes, block=sizes)
def test_a_layer_loses_the_floor_of_its_share(thousandth, group, m, d, block):
    cells = cells_of(Unstructured(thousandth / 1000), group, m, d, block)
    assert cells.counts.sum() == thousandth * m * d // 1000


@given(share=st.floats(0, 1), group=groups, m=sizes, d=sizes, block=sizes)
def test_a_share_is_taken_as_the_decimal_that_is_printed(share, group, m, d, block):
    cells = cells_of(Unstructured(share), group, m, d, block)
    assert cells.counts.sum() == math.floor(Decimal(repr(share)) * m * d)


@pytest.mark.parametrize(("share", "d", "lost"), [(0.29, 100, 29), (0.57, 100, 57), (0.7, 10, 7), (0.07, 100, 7)])
def test_floats_just_below_a_whole_number_are_not_rounded_down(share, d, lost):
    assert [cells_of(Unstructured(share), group, 1, d).counts.sum() for group in ("layer", "row")] == [lost, lost]


def test_a_large_layer_loses_the_floor_of_its_share():
    m, d = 14_336, 4_097
    for group in ("layer", "row", "block", "row-block"):
        assert cells_of(Unstructured(0.7), group, m, d).counts.sum() == 7 * m * d // 10


@given(pattern=patterns, group=groups, m=sizes, d=sizes, block=sizes)
def test_counts_equal_fractions_carried_from_cell_to_cell(pattern, group, m, d, block):
    cells = cells_of(pattern, group, m, d, block)
    expected = [count for _, count in cells_by_hand(pattern, group, m, d, block)]
    assert cells.counts.ravel().tolist() == expected


@given(thousandth=thousandths, group=groups, m=sizes, d=sizes, block=sizes)
def test_every_row_and_every_cell_is_within_one_of_its_share(thousandth, group, m, d, block):
    cells, share = cells_of(Unstructured(thousandth / 1000), group, m, d, block), Fraction(thousandth, 1000)
    length = lengths(cells, d)
    together = len(cells.counts) != m or group in ("layer", "block")
    for row in cells.counts.tolist():
        whole = share * d * (m if together else 1)
        assert abs(sum(row) - whole) < 1
        for count, n in zip(row, length.tolist(), strict=True):
            assert 0 <= count <= n * (m if together else 1)
            assert abs(count - (whole if together else sum(row)) * Fraction(n, d)) < 1


@given(shares=st.lists(thousandths, min_size=2, max_size=12), group=st.sampled_from(["row", "row-block"]), d=sizes)
def test_neurons_take_their_own_shares_and_every_prefix_is_exact(shares, group, d):
    counts = cells_of(Unstructured(tuple(k / 1000 for k in shares)), group, len(shares), d, block=3).counts.sum(axis=1)
    assert np.cumsum(counts).tolist() == [k * d // 1000 for k in np.cumsum(shares).tolist()]
    assert all(count == 0 for count, k in zip(counts.tolist(), shares, strict=True) if k == 0)
    assert all(count == d for count, k in zip(counts.tolist(), shares, strict=True) if k == 1000)


@given(thousandth=thousandths, m=sizes, d=sizes, group=st.sampled_from(["row", "row-block"]))
def test_one_share_for_all_is_that_share_for_each(thousandth, m, d, group):
    share = thousandth / 1000
    each = cells_of(Unstructured((share,) * m), group, m, d, block=4)
    np.testing.assert_array_equal(each.counts, cells_of(Unstructured(share), group, m, d, block=4).counts)


@given(pattern=semistructured, group=groups, m=sizes, d=sizes, block=sizes)
def test_n_of_m_keeps_n_of_every_m_whatever_the_group(pattern, group, m, d, block):
    cells = cells_of(pattern, group, m, d, block)
    kept = lengths(cells, d) - cells.counts
    assert cells.width == pattern.of
    assert cells.counts.shape == (m, -(-d // pattern.of))
    whole, rest = divmod(d, pattern.of)
    assert (kept[:, :whole] == pattern.kept).all()
    assert rest == 0 or (kept[:, whole:] == math.ceil(Fraction(pattern.kept * rest, pattern.of))).all()


@pytest.mark.parametrize(
    ("pattern", "d", "lost"),
    [((2, 4), 7, [2, 1]), ((2, 4), 5, [2, 0]), ((1, 4), 6, [3, 1]), ((4, 4), 6, [0, 0]), ((2, 8), 3, [2])],
)
def test_ragged_tails_by_hand(pattern, d, lost):
    assert cells_of(SemiStructured(*pattern), "layer", 2, d).counts.tolist() == [lost, lost]


def test_blocks_are_those_of_the_published_sparsegpt():
    cells = cells_of(Unstructured(0.5), "block", m=3, d=300)
    assert (BLOCK, cells.width, cells.counts.tolist()) == (128, 128, [[192, 192, 66]])


def test_rounding_every_row_down_would_lose_weights():
    counts = cells_of(Unstructured(0.7), "row", m=5, d=5).counts
    assert counts.ravel().tolist() == [3, 4, 3, 4, 3]


# ---- which


@given(pattern=patterns, group=groups, m=st.integers(1, 6), d=st.integers(1, 12), block=st.integers(1, 13), seed=SEEDS)
def test_the_lowest_scores_go_and_ties_go_by_index(pattern, group, m, d, block, seed):
    scores = np.random.default_rng(seed).integers(0, 4, (m, d)).astype(float)
    mask = select(scores, cells_of(pattern, group, m, d, block))
    expected = keep_all_but_the_lowest(scores, cells_by_hand(pattern, group, m, d, block))
    np.testing.assert_array_equal(mask, expected)


@given(m=st.integers(1, 9), d=st.integers(1, 40), thousandth=thousandths)
def test_equal_scores_go_from_the_first(m, d, thousandth):
    cells = cells_of(Unstructured(thousandth / 1000), "layer", m, d)
    np.testing.assert_array_equal(select(np.ones((m, d)), cells).ravel(), np.arange(m * d) >= cells.counts.sum())


def test_one_span_of_columns_is_compared_by_row_or_as_a_whole():
    scores = np.array([[1.0, 2.0], [3.0, 4.0]])
    by_row, as_a_whole = select_span(scores, np.array([1, 1])), select_span(scores, np.array([2]))
    assert by_row.tolist() == [[False, True], [False, True]]
    assert as_a_whole.tolist() == [[False, False], [True, True]]


def test_negative_and_infinite_scores_are_ordered():
    assert select([[np.inf, -1.0, 0.0, -np.inf]], Cells(4, np.array([[2]]))).tolist() == [[True, False, True, False]]


@given(seed=SEEDS, group=groups)
def test_no_scores_are_written_into(seed, group):
    scores = np.random.default_rng(seed).standard_normal((3, 7))
    before = scores.copy()
    select(np.asfortranarray(scores), cells_of(Unstructured(0.5), group, 3, 7, block=2))
    np.testing.assert_array_equal(scores, before)
