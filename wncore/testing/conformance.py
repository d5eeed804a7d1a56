"""The tests that certify a backend, each against the definitions of the core.

Run them by ``wncore certify NAME``, or ``pytest -p wncore.testing.plugin --pyargs wncore.testing.conformance
--wncore-backend=NAME``. The quick ones come first; the random ones find what those leave.
"""

import inspect
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wncore.backend import Backend
from wncore.testing.contracts import BOUNDS, CONTRACTS, DIFFICULTY, DISTANCE, HISTOGRAM, Contract
from wncore.testing.contracts.contract import SIZES, Answers, Arguments, length, part
from wncore.testing.trial import Trial
from wncore.tolerance import UNIT
from wncore.wasserstein import gaussian_distance


def parametrize(contracts: Sequence[Contract]) -> pytest.MarkDecorator:
    """Run a test for each contract."""
    return pytest.mark.parametrize("contract", contracts, ids=lambda contract: contract.operation)


each = parametrize(CONTRACTS)
zero_if_constant = parametrize([DISTANCE, BOUNDS, DIFFICULTY])
by_neuron = parametrize([contract for contract in CONTRACTS if contract.neurons])
additive = parametrize([contract for contract in CONTRACTS if contract.tokens])
by_the_million = parametrize([contract for contract in CONTRACTS if contract.large is not None])


def test_is_a_backend(wncore_trial: Trial) -> None:
    """It has the protocol's names, and says which dtypes it takes."""
    wanted = [name for name in (*Backend.__annotations__, *vars(Backend)) if not name.startswith("_")]
    missing = [name for name in wanted if not hasattr(wncore_trial.backend, name)]
    assert not missing, f"a backend has {', '.join(wanted)}; missing: {', '.join(missing)}"
    assert ":" in wncore_trial.name or wncore_trial.backend.name == wncore_trial.name, "registered by another name"
    assert wncore_trial.backend.dtypes, "a backend takes at least one dtype"
    assert set(wncore_trial.backend.dtypes) <= set(UNIT), f"dtypes are among {', '.join(UNIT)}"


@each
def test_signature(wncore_trial: Trial, contract: Contract) -> None:
    """Arguments may be given by the protocol's names."""
    want = list(inspect.signature(getattr(Backend, contract.operation)).parameters)[1:]
    got = list(inspect.signature(getattr(wncore_trial.backend, contract.operation)).parameters)
    assert got == want, f"{contract.operation} takes {got}, the protocol says {want}"


LAYOUTS = {
    "rows": lambda x: x,
    "Fortran": np.asfortranarray,
    "strided": lambda x: x[::2, 1::3],
    "reversed": lambda x: x[::-1, ::-1],
    "repeated": lambda x: np.broadcast_to(x[0], x.shape),
    "three axes": lambda x: x.reshape(2, 3, 7)[:, ::-1].T,
    "one axis": lambda x: x[2, ::-2],
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(wncore_trial: Trial, layout: str) -> None:
    """Any NumPy array comes back with the same numbers: floats in the dtype asked for, integers as int64."""
    floats = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
    integers = [np.int64, np.int32, np.int8, np.uint8, np.bool_]
    numbers = np.arange(42.0).reshape(6, 7) / 3
    numbers[2, 1::2] = [0.0, 1e-30, 1e4 / 3]
    for dtype in wncore_trial.backend.dtypes:
        for given_dtype in floats + integers:
            x = LAYOUTS[layout]((numbers if given_dtype in integers else -numbers).astype(given_dtype))
            kept, before = np.dtype("int64" if given_dtype in integers else dtype), x.copy()
            for writeable in (x.flags.writeable, False):
                x.flags.writeable = writeable
                back = wncore_trial.backend.to_numpy(wncore_trial.backend.asarray(x, dtype))
                assert isinstance(back, np.ndarray)
                assert (back.dtype, back.shape) == (kept, x.shape), f"from {x.dtype}, asked for {dtype}"
                own = wncore_trial.backend.asarray(wncore_trial.backend.asarray(x, dtype), dtype)
                np.testing.assert_array_equal(wncore_trial.backend.to_numpy(own), back, err_msg="its own array")
                np.testing.assert_array_equal(back, x.astype(kept), err_msg=f"from {x.dtype}, asked for {dtype}")
                np.testing.assert_array_equal(np.signbit(back), np.signbit(x.astype(kept)), err_msg="sign of zero")
                np.testing.assert_array_equal(x, before, err_msg="asarray wrote into its argument")


@each
def test_corners(wncore_trial: Trial, contract: Contract) -> None:
    """Sizes around the edges of blocks, and each contract's own hard cases, agree with the definition."""
    rng = np.random.default_rng(1)
    sizes = [{"tokens": tokens, "neurons": neurons} for tokens, neurons in SIZES]
    for dtype in wncore_trial.dtypes(contract):
        for choices in [*sizes, *contract.corners]:
            arguments = contract.make(rng, dtype, **({"tokens": 100, "neurons": 17} | choices))
            wncore_trial.check(contract, wncore_trial.ask(contract, arguments, dtype), arguments, dtype)


@each
def test_writes_into_no_argument(wncore_trial: Trial, contract: Contract) -> None:
    """After a call all arguments are what they were."""
    for dtype in wncore_trial.dtypes(contract):
        arguments = contract.make(np.random.default_rng(2), dtype, tokens=100, neurons=17)
        native = wncore_trial.native(contract, arguments, dtype)
        wncore_trial.call(contract, native)
        for name, value in arguments.items():
            if not isinstance(value, np.ndarray):
                continue
            after = wncore_trial.backend.to_numpy(native[name])
            np.testing.assert_array_equal(after, value, err_msg=f"{contract.operation} wrote into {name}")


@each
def test_same_answer_when_repeated(wncore_trial: Trial, contract: Contract) -> None:
    """The same call gives the same bits, on an example that is not trivial."""
    for dtype in wncore_trial.dtypes(contract):
        arguments = contract.make(np.random.default_rng(3), dtype, tokens=3001, neurons=33)
        native = wncore_trial.native(contract, arguments, dtype)
        first, *others = [wncore_trial.call(contract, native) for _ in range(4)]
        assert np.any(first[0]), "answers without content prove nothing"
        for again in others:
            for one, other in zip(first, again, strict=True):
                np.testing.assert_array_equal(other, one, err_msg=f"{contract.operation} differs when repeated")


@zero_if_constant
def test_constant_neurons_give_zero(wncore_trial: Trial, contract: Contract) -> None:
    """A constant neuron has distance, bounds and difficulty 0 exactly."""
    for dtype in wncore_trial.dtypes(contract):
        for tokens in (2, 100, 8193):
            arguments = contract.make(np.random.default_rng(4), dtype, tokens=tokens, neurons=17, constant=True)
            for answer in wncore_trial.ask(contract, arguments, dtype):
                assert not np.isnan(answer).any()
                assert (answer[::3] == 0).all(), f"{tokens} equal outputs in {dtype}"


@each
@given(data=st.data())
def test_matches_the_definition(wncore_trial: Trial, contract: Contract, data: st.DataObject) -> None:
    """Every answer has the right dtype and shape, and is within the budget of the definition."""
    dtype, arguments = wncore_trial.draw(data.draw, contract)
    wncore_trial.check(contract, wncore_trial.ask(contract, arguments, dtype), arguments, dtype)


@by_neuron
@given(data=st.data())
def test_splits_over_neurons(wncore_trial: Trial, contract: Contract, data: st.DataObject) -> None:
    """Neurons may be given in two calls."""
    dtype, arguments = wncore_trial.draw(data.draw, contract)
    parts = in_two_calls(wncore_trial, contract, contract.neurons, arguments, dtype, data)
    joined = tuple(np.concatenate(both, axis=contract.neurons_of_answers) for both in zip(*parts, strict=True))
    wncore_trial.check(contract, joined, arguments, dtype)


@additive
@given(data=st.data())
def test_adds_up_over_tokens(wncore_trial: Trial, contract: Contract, data: st.DataObject) -> None:
    """f(a ++ b) = f(a) + f(b): tokens may be given in two calls; what each token has follows."""
    dtype, arguments = wncore_trial.draw(data.draw, contract)
    parts = in_two_calls(wncore_trial, contract, contract.tokens, arguments, dtype, data)
    added = tuple(
        np.concatenate(both, axis=-1) if place in contract.by_token else np.sum(both, axis=0)
        for place, both in enumerate(zip(*parts, strict=True))
    )
    wncore_trial.check(contract, added, arguments, dtype)


def in_two_calls(
    trial: Trial, contract: Contract, axes: Mapping[str, int], arguments: Arguments, dtype: str, data: st.DataObject
) -> list[Answers]:
    """Cut the arguments in two along the axes, and return the answers for each half that is not empty."""
    whole = length(arguments, axes)
    cut = data.draw(st.integers(0, whole), label="cut")
    ends = [(first, last) for first, last in [(0, cut), (cut, whole)] if first < last]
    return [trial.ask(contract, part(arguments, axes, *half), dtype) for half in ends]


@given(data=st.data())
def test_bounds_bracket_the_distance(wncore_trial: Trial, data: st.DataObject) -> None:
    """Histogram and bounds together are a certificate: nothing is forgiven."""
    dtype, arguments = wncore_trial.draw(data.draw, HISTOGRAM)
    counts, sums, powers = wncore_trial.ask(HISTOGRAM, arguments, dtype)
    state = {"edges": arguments["edges"], "counts": counts, "sums": sums, "powers": powers}
    low, high = wncore_trial.ask(BOUNDS, state, "float64")
    exact = gaussian_distance(arguments["y"])
    assert np.all(low <= exact), f"the distance is below its lower bound by {np.max(low - exact):.3g}"
    assert np.all(exact <= high), f"the distance is above its upper bound by {np.max(exact - high):.3g}"


@each
def test_arrays_need_not_be_contiguous(wncore_trial: Trial, contract: Contract) -> None:
    """Every second element of a native array, and its transpose, are native arrays."""
    for dtype in wncore_trial.dtypes(contract):
        for tokens, neurons in [(100, 17), (129, 33)]:
            arguments = contract.make(np.random.default_rng(6), dtype, tokens=tokens, neurons=neurons)
            for transposed in (False, True):
                native = wncore_trial.strided(contract, arguments, dtype, transposed)
                wncore_trial.check(contract, wncore_trial.call(contract, native), arguments, dtype)


@by_the_million
def test_a_million_tokens(wncore_trial: Trial, contract: Contract) -> None:
    """What is added up over a million tokens is as good as over a few; a few tokens beyond, so that blocks are cut."""
    for dtype in wncore_trial.dtypes(contract):
        arguments = contract.make(np.random.default_rng(5), dtype, tokens=1_000_003, **(contract.large or {}))
        wncore_trial.check(contract, wncore_trial.ask(contract, arguments, dtype), arguments, dtype)
