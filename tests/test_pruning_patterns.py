"""Patterns are read as they are typed; everything else is refused with what to type instead."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wncore.errors import InputError, ShapeError
from wncore.pruning.cells import cells_of
from wncore.pruning.patterns import SemiStructured, Unstructured, exact, parse_pattern


@given(share=st.floats(0, 1))
def test_a_share_is_read_back_as_it_is_printed(share):
    assert parse_pattern(repr(share)) == Unstructured(share)
    assert exact(share) == Fraction(repr(share))


@given(of=st.integers(1, 99), data=st.data())
def test_n_of_m_is_read_back_as_it_is_printed(of, data):
    kept = data.draw(st.integers(1, of), label="kept")
    assert parse_pattern(f"{kept}:{of}") == SemiStructured(kept, of)
    assert str(SemiStructured(kept, of)) == f"{kept}:{of}"


@pytest.mark.parametrize(("text", "share"), [("0", 0), ("1", 1), (" 0.5\n", 0.5), ("5e-1", 0.5), (".25", 0.25)])
def test_a_share_may_be_written_in_any_way(text, share):
    assert parse_pattern(text) == Unstructured(share)


@pytest.mark.parametrize(("share", "label"), [(0.5, "0.5"), (0.0, "0"), (1.0, "1"), ((0.5, 0.0), "by neuron")])
def test_how_a_share_is_called(share, label):
    assert str(Unstructured(share)) == label


@pytest.mark.parametrize(
    ("share", "decimal"),
    [
        (0.29, Fraction(29, 100)),
        (np.float64(0.7), Fraction(7, 10)),
        (1, 1),
        (0.1 + 0.2, Fraction("0.30000000000000004")),
    ],
)
def test_a_share_is_the_decimal_that_it_prints_as(share, decimal):
    assert exact(share) == decimal


# ---- what is refused


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-0.1", "1.1", "50", "-1e-300", "1.0000000000000002"])
def test_a_share_beyond_zero_and_one_is_refused(text):
    with pytest.raises(InputError, match=f"between 0 .dense. and 1 .all zeros.; got {float(text)}"):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["3:2", "0:4", "-1:4", "2:-4", "0:0", "1:0"])
def test_n_beyond_one_and_m_is_refused(text):
    with pytest.raises(InputError, match=f"^{text} is no pattern: .*1 <= N <= M; 2:4 keeps half"):
        parse_pattern(text)


@pytest.mark.parametrize(
    "text", ["", " ", "a", "2:", ":4", ":", "0.5:1", "2:4:8", "2:4.0", "half", "50%", "0,5", "2/4"]
)
def test_what_is_neither_a_share_nor_n_of_m_is_refused(text):
    with pytest.raises(
        InputError, match=r"is no sparsity; write a share such as 0\.5, or a pattern such as 2:4"
    ) as info:
        parse_pattern(text)
    assert str(info.value).startswith(repr(text))


@given(text=st.text("0123456789.:-+e_ nai/%", max_size=6))
def test_any_text_is_a_pattern_or_refused(text):
    try:
        pattern = parse_pattern(text)
    except InputError:
        return
    assert all(0 <= s <= 1 for s in pattern.shares) if ":" not in text else 1 <= pattern.kept <= pattern.of


@pytest.mark.parametrize("bad", [-0.5, 1.5, float("nan"), float("inf")])
def test_one_bad_share_of_many_is_refused(bad):
    with pytest.raises(InputError, match=f"got {bad}"):
        Unstructured((0.5, bad, 0.5))


@pytest.mark.parametrize("shares", [(), (0.5, 0.5), (0.5,) * 4])
def test_as_many_shares_as_neurons(shares):
    with pytest.raises(
        ShapeError, match=f"there are {len(shares)} sparsities for 3 neurons; give one, or one for each"
    ):
        cells_of(Unstructured(shares), "row", 3, 4)


@pytest.mark.parametrize("group", ["layer", "block"])
def test_shares_of_neurons_do_not_go_with_groups_across_neurons(group):
    with pytest.raises(InputError, match=f"each neuron needs the comparison group row or row-block, not {group}"):
        cells_of(Unstructured((0.5, 0.0, 0.5)), group, 3, 4)


@pytest.mark.parametrize("pattern", [Unstructured(0.5), SemiStructured(2, 4)])
def test_an_unknown_group_is_refused_whatever_the_pattern(pattern):
    with pytest.raises(InputError, match="no comparison group 'column'; choose one of layer, row, block, row-block"):
        cells_of(pattern, "column", 3, 4)
