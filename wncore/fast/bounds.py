"""The certified bounds of `wncore.streaming`, bin by bin; that module explains every line."""

import math

from wncore.fast.compiled import compiled


@compiled
def _cdf(t):
    return 0.5 * math.erfc(-t * math.sqrt(0.5))


@compiled
def _cdf_integral(t):
    return t * _cdf(t) + math.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)


@compiled
def _bracket(edges, counts, sums, powers):
    bins = len(edges) - 1
    n = counts.sum()
    unit = edges[bins] - edges[0]
    centre, s1, s2 = edges[(bins + 1) // 2], powers[0] / n, powers[1] / n
    variance = s2 - s1 * s1
    if s2 == 0.0:
        return 0.0, 0.0
    if not variance > 4 * 2.0**-52 * n * s2:
        return 0.0, math.sqrt(2.0)
    mean, std = unit * s1, unit * math.sqrt(variance)
    share = 1.0 / (n * std)
    right = ((edges[0] - centre) - mean) / std
    reach = abs(right)
    b, d, d_integral = counts[0] / n, _cdf(right), _cdf_integral(right)
    below, below_gauss = -sums[0] * share, d_integral
    low, high = abs(below - below_gauss), below + below_gauss
    seen = counts[0]
    for j in range(1, bins + 1):
        left, a, c, c_integral = right, b, d, d_integral
        seen += counts[j]
        right = ((edges[j] - centre) - mean) / std
        b, d, d_integral = seen / n, _cdf(right), _cdf_integral(right)
        h = right - left
        gap = abs(b * h - sums[j] * share - (d_integral - c_integral))
        low += gap
        high += gap
        if not (b <= c or d <= a) and h > 0.0:
            rise = max(d - c, 2.2250738585072014e-308)
            alpha, beta = max(c - a, 0.0), max(b - d, 0.0)
            s = h * (beta + rise / 2) / (alpha + beta + rise)
            cross = alpha * s + rise * s * s / (2 * h)
            if b < d:
                cross = min(cross, (b - c) * (b - c) * h / (2 * rise))
            if a > c:
                cross = min(cross, (d - a) * (d - a) * h / (2 * rise))
            high += 2 * min(cross + h**3 / 12 * 0.25, min(b - c, d - a) * h)
    above, above_gauss = sums[bins + 1] * share, _cdf_integral(-right)
    low += abs(above - above_gauss)
    high += above + above_gauss
    rounding = 4 * 2.0**-52 * (n + bins) * (1 + max(reach, abs(right)) + s2 / variance)
    return max(low - rounding, 0.0), min(high + rounding, math.sqrt(2.0))


@compiled
def bracket(edges, counts, sums, powers, first, last, low, high):
    """Write the bounds of the neurons first..last into low and high."""
    for k in range(first, last):
        low[k], high[k] = _bracket(edges[k], counts[k], sums[k], powers[k])
