"""Which zeros are asked for: a share of all weights, or N kept of every M consecutive inputs."""

from dataclasses import dataclass
from fractions import Fraction

from wncore.errors import InputError


@dataclass(frozen=True)
class Unstructured:
    """A share of the weights is pruned: one number for the layer, or one a neuron."""

    sparsity: float | tuple[float, ...]

    def __post_init__(self) -> None:
        for share in self.shares:
            if not 0 <= share <= 1:
                raise InputError(f"a sparsity lies between 0 (dense) and 1 (all zeros); got {share}")

    @property
    def shares(self) -> tuple[float, ...]:
        """The sparsity of each neuron, or the one of all."""
        return self.sparsity if isinstance(self.sparsity, tuple) else (self.sparsity,)

    def __str__(self) -> str:
        return "by neuron" if isinstance(self.sparsity, tuple) else repr(float(self.sparsity)).removesuffix(".0")


@dataclass(frozen=True)
class SemiStructured:
    """N of every M consecutive inputs of a neuron are *kept*; a shorter last group of L keeps ceil(N L / M)."""

    kept: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.of < 2**31:
            raise InputError(
                f"{self.kept}:{self.of} is no pattern: N:M keeps N of every M inputs, 1 <= N <= M; 2:4 keeps half"
            )

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"


Pattern = Unstructured | SemiStructured


def parse_pattern(text: str) -> Pattern:
    """Read a pattern as it is typed.

    Raises
    ------
    InputError
        If the text is neither a number from 0 to 1 nor N:M with 1 <= N <= M.

    >>> parse_pattern("0.5"), parse_pattern("2:4")
    (Unstructured(sparsity=0.5), SemiStructured(kept=2, of=4))
    """
    kept, colon, of = text.strip().partition(":")
    try:
        if colon:
            return SemiStructured(int(kept), int(of))
        share = float(kept)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{text!r} is no sparsity; write a share such as 0.5, or a pattern such as 2:4") from error
    return Unstructured(share)


def exact(share: float) -> Fraction:
    """Return the decimal that is printed for a float: 0.29 of 100 is 29, though 0.29 * 100 < 29 in floats."""
    return Fraction(repr(float(share)))
