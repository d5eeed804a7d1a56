"""Neurons to try the core on, and what is true of them: exact standardisation and the distance by quadrature.

Nothing here knows how wncore computes anything; the only shared code is SciPy's.
"""

import math

import numpy as np
from hypothesis import strategies as st
from scipy.special import erfc, ndtri

from wncore.fast import NumbaBackend
from wncore.reference import NumpyBackend

BACKENDS = [NumpyBackend(), NumbaBackend(threads=2)]
"""The definitions and their fast form; the same tests hold for both."""

FAMILIES = {
    "gaussian": lambda rng, n: rng.standard_normal(n),
    "cubed": lambda rng, n: rng.standard_normal(n) ** 3,
    "cauchy": lambda rng, n: rng.standard_cauchy(n),
    "student": lambda rng, n: rng.standard_t(2, n),
    "bimodal": lambda rng, n: rng.choice([-1.0, 1.0], n) + 0.01 * rng.standard_normal(n),
    "rounded": lambda rng, n: np.round(rng.standard_normal(n), 1),
    "atoms": lambda rng, n: rng.integers(-2, 3, n).astype(float),
    "two-point": lambda rng, n: np.where(rng.permutation(n) < max(1, n // 10), 1.0, -1.0),
    "outlier": lambda rng, n: np.where(rng.permutation(n) == 0, 1.0, 0.0),
}
SEEDS = st.integers(0, 2**32 - 1)


def draw_layer(seed, tokens, neurons):
    """Outputs (tokens, neurons); the families take turns, each neuron with a scale and an offset of its own."""
    rng = np.random.default_rng(seed)
    makers = list(FAMILIES.values())
    columns = [makers[j % len(makers)](rng, tokens) for j in range(neurons)]
    scale, offset = 10.0 ** rng.uniform(-3, 3, neurons), rng.standard_normal(neurons)
    return scale * (np.stack(columns, axis=1) + offset)


@st.composite
def neurons(draw, most=40, offsets=(0.0,), scales=(1.0,)):
    """Outputs of one neuron, (n,): any of the families, or a handful of values that Hypothesis likes."""
    scale, offset = draw(st.sampled_from(scales), label="scale"), draw(st.sampled_from(offsets), label="offset")
    numbers = st.floats(-10, 10, width=32, allow_subnormal=False) | st.integers(-3, 3).map(float)
    values = st.lists(numbers, min_size=2, max_size=most)
    families = st.builds(
        lambda family, seed, n: FAMILIES[family](np.random.default_rng(seed), n),
        st.sampled_from(list(FAMILIES)),
        SEEDS,
        st.integers(2, most),
    )
    return scale * (np.asarray(draw(families | values, label="outputs")) + offset)


def sorted_standardised(y):
    """Sorted (y - mean) / deviation, each value rounded once: all before it is exact integer arithmetic."""
    mantissa, exponent = np.frexp(np.asarray(y, np.float64))
    whole, shift = (mantissa * 2.0**53).astype(np.int64).tolist(), (exponent - exponent.min()).tolist()
    values = sorted(w << s for w, s in zip(whole, shift, strict=True))  # y in units of one power of two
    n, total = len(values), sum(values)
    variance = n * sum(v * v for v in values) - total**2  # of n y
    deviation = math.isqrt(variance << 256)
    return np.array([((n * v - total) << 128) / deviation for v in values])


def quadrature_distance(y):
    """Integral of |F_n - Phi| over t by Gauss-Legendre on pieces in which F_n is constant and the sign is one."""
    if np.min(y) == np.max(y):
        return 0.0
    z = sorted_standardised(y)
    n = len(z)
    crossings = ndtri(np.arange(1, n) / n)
    crossings = crossings[(z[:-1] < crossings) & (crossings < z[1:])]
    ends = np.unique(np.concatenate([z, crossings, np.linspace(-10, 10, 81)]))  # beyond 10 Phi is 0 or 1
    half, middle = np.diff(ends) / 2, (ends[1:] + ends[:-1]) / 2
    f = np.searchsorted(z, ends[:-1], side="right") / n
    pieces = np.zeros(len(half))
    for node, weight in zip(*np.polynomial.legendre.leggauss(8), strict=True):
        t = middle + node * half
        pieces += weight * half * np.abs(f - erfc(-t / np.sqrt(2)) / 2)
    return math.fsum(pieces)
