r"""The streaming Wasserstein distance: one pass, additive state, certified bounds low <= WD <= high.

Source: the integral over t of |F_z(t) - Phi(t)| of arXiv:2405.15756, split at the edges of a `Histogram`. In each bin
the integrals of F_z and of Phi are known exactly, so that only bins in which the two curves can cross leave anything
open. Mean and deviation are applied at the end, so the outputs are read once.
"""

import numpy as np
from scipy.special import ndtr

from wncore.histograms import Counts, Histogram, centre_and_unit
from wncore.normal import Float, cdf_integral


def distance_bounds(edges: Float, counts: Counts, sums: Float, powers: Float) -> tuple[Float, Float]:
    r"""Bounds on the exact distance of every neuron: the arrays of a `Histogram` -> low (m,), high (m,).

    Over a bin of width h (in deviations) let F rise from A to B and G = Phi from C to D, and let
    gap = integral of (F - G), exact from counts and sums. Then integral of |F - G| = |gap| + 2 min(P, N), P and N being
    the areas where F is above and below G.

    - B <= C or D <= A: the curves cannot cross, and |gap| is exact.
    - Otherwise min(P, N) <= alpha s + (D - C) s^2 / (2 h) with alpha = (C - A)+, beta = (B - D)+ and
      s = h (beta + (D - C) / 2) / (alpha + beta + D - C), were G linear (docs/bounds.md proves it); never more than
      (B - C)^2 h / (2 (D - C)) nor (D - A)^2 h / (2 (D - C)) when F stays below D, or above C. For A = C, B = D this
      is a quarter of mass times width in all. G's distance from its chord, at most h^3 / 12 max|phi'|, counts twice.
    - In a tail, low = |gap| and high = the areas of both added.

    Both are moved outwards by what the rounding of the sums may have done. A neuron whose power sums vanish is constant
    and gives 0, 0; one so far from the middle edge that rounding hides its deviation gives 0, sqrt(2).
    """
    bins = edges.shape[1] - 1
    n = counts.sum(axis=1)
    centre, unit = centre_and_unit(edges)
    first, second = (powers[:, :2] / n[:, None]).T
    variance = second - first**2
    known = variance > 4 * np.finfo(float).eps * n * second
    noise = np.where(known, second / np.where(known, variance, 1.0), 1.0)
    std = np.where(known, unit * np.sqrt(np.where(known, variance, 1.0)), unit)[:, None]
    z = ((edges - centre[:, None]) - (unit * first)[:, None]) / std
    heights = sums / (n[:, None] * std)

    f = np.cumsum(counts[:, :-1], axis=1) / n[:, None]  # F at the edges
    g, g_integral = ndtr(z), cdf_integral(z)
    a, b, c, d = f[:, :-1], f[:, 1:], g[:, :-1], g[:, 1:]
    h = np.diff(z, axis=1)
    gap = np.abs(b * h - heights[:, 1:-1] - np.diff(g_integral, axis=1))

    rise = np.maximum(d - c, np.finfo(float).tiny)
    alpha, beta = np.maximum(c - a, 0), np.maximum(b - d, 0)
    s = h * (beta + rise / 2) / (alpha + beta + rise)
    cross = alpha * s + rise * s**2 / np.maximum(2 * h, np.finfo(float).tiny)
    with np.errstate(over="ignore"):  # a triangle over a bin without Gaussian mass is as wide as it likes
        cross = np.minimum(cross, np.where(b < d, (b - c) ** 2 * h / (2 * rise), np.inf))
        cross = np.minimum(cross, np.where(a > c, (d - a) ** 2 * h / (2 * rise), np.inf))
    bend = h**3 / 12 * 0.25  # max |phi'| = phi(1) = 0.242
    cross = np.minimum(cross + bend, np.minimum(b - c, d - a) * h)
    open_area = np.where((b <= c) | (d <= a), 0.0, 2 * cross)

    below, above = -heights[:, 0], heights[:, -1]
    g_below, g_above = g_integral[:, 0], cdf_integral(-z[:, -1])
    low = gap.sum(1) + np.abs(below - g_below) + np.abs(above - g_above)
    high = (gap + open_area).sum(1) + below + g_below + above + g_above

    reach = 1 + np.abs(z).max(axis=1) + noise
    rounding = 4 * np.finfo(float).eps * (n + bins) * reach
    low, high = np.maximum(low - rounding, 0), np.minimum(high + rounding, np.sqrt(2))
    constant = second == 0
    return np.where(known, low, 0.0), np.where(known, high, np.where(constant, 0.0, np.sqrt(2)))


def bounds_of(part: Histogram) -> tuple[Float, Float]:
    """Bounds on the distance of every neuron of a histogram, as `distance_bounds`."""
    return distance_bounds(part.edges, part.counts, part.sums, part.powers)
