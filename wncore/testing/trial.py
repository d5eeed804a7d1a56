"""A backend on trial: its calls, and the judgement of its answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from wncore.testing.certificate import Ledger
from wncore.testing.contracts import Contract
from wncore.testing.contracts.contract import Answers, Arguments, Draw


@dataclass(frozen=True, repr=False)
class Trial:
    """A backend, the name that it was asked for by, and what was noted of it."""

    name: str
    backend: Any
    ledger: Ledger

    def __repr__(self) -> str:
        return f"<trial of {self.name}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would list every field of a dataclass

    def dtypes(self, contract: Contract) -> tuple[str, ...]:
        """Return the dtypes that the operation is tried in."""
        return contract.dtypes or tuple(self.backend.dtypes)

    def draw(self, draw: Draw, contract: Contract) -> tuple[str, Arguments]:
        """Draw a dtype, and arguments in it."""
        dtype = draw(st.sampled_from(self.dtypes(contract)), label="dtype")
        choices = contract.choose(draw, dtype)
        seed = draw(st.integers(0, 2**32 - 1), label="seed")
        return dtype, contract.make(np.random.default_rng(seed), dtype, **choices)

    def native(self, contract: Contract, arguments: Arguments, dtype: str) -> Arguments:
        """Hand copies of the arguments over to the backend; what is no array is passed as it is."""

        def convert(name: str, value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            own = "int64" if value.dtype.kind == "i" else "float64" if name in contract.wide else dtype
            return self.backend.asarray(value.astype(own), own)

        return {name: convert(name, value) for name, value in arguments.items()}

    def strided(self, contract: Contract, arguments: Arguments, dtype: str, transposed: bool) -> Arguments:
        """Hand the arguments over inside of arrays of twice the length, between zeros, and cut them out natively.

        The elements lie apart along the last axis; if transposed, along the first of what is then transposed. Skips the
        test if the backend's arrays cannot be cut.
        """

        def widen(value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            if not transposed:
                return np.stack([value, np.zeros_like(value)], axis=-1).reshape(*value.shape[:-1], -1)
            value = value.T if value.ndim == 2 else value
            return np.stack([value, np.zeros_like(value)], axis=1).reshape(-1, *value.shape[1:])

        def cut(value: Any, given: Any) -> Any:
            if not isinstance(given, np.ndarray):
                return value
            if not transposed:
                return value[..., ::2]
            return value[::2].T if given.ndim == 2 else value[::2]

        native = self.native(contract, {name: widen(value) for name, value in arguments.items()}, dtype)
        try:
            return {name: cut(native[name], value) for name, value in arguments.items()}
        except (TypeError, IndexError, AttributeError, NotImplementedError) as reason:
            pytest.skip(f"arrays of {self.name} cannot be cut: {reason}")

    def call(self, contract: Contract, native: Arguments) -> Answers:
        """Call the operation and bring its answers home; skip the test if the backend declares that it cannot."""
        try:
            answers = getattr(self.backend, contract.operation)(**native)
        except NotImplementedError as reason:
            self.ledger.unsupported[contract.operation] = str(reason) or "no reason given"
            pytest.skip(f"{contract.operation} is declared unsupported: {reason}")
        answers = answers if isinstance(answers, tuple) else (answers,)
        return tuple(self.backend.to_numpy(answer) for answer in answers)

    def ask(self, contract: Contract, arguments: Arguments, dtype: str) -> Answers:
        """Call the operation with NumPy arrays."""
        return self.call(contract, self.native(contract, arguments, dtype))

    def check(self, contract: Contract, answers: Answers, arguments: Arguments, dtype: str) -> None:
        """Hold answers against the contract: their number, dtypes, shapes, and the budget."""
        kinds = [dtype if kind == "kept" else kind for kind in contract.kinds]
        assert [str(answer.dtype) for answer in answers] == kinds, f"dtypes of {contract.operation} from {dtype}"
        assert [answer.shape for answer in answers] == contract.shapes(arguments), f"shapes of {contract.operation}"
        for name, used in contract.judge(answers, arguments, dtype).items():
            self.ledger.note(contract.operation, dtype, used)
            assert used <= 1, f"{contract.operation} in {dtype}: {name} uses {used:.3g} times its error budget"
