"""Tokens that lie within rounding of two centroids: another machine may send them to either expert."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.clustering import squared_gaps
from wncore.experts.router import Router
from wncore.experts.tokens import ROWS
from wncore.layers.activations import Activations
from wncore.normal import Float
from wncore.tolerance import budget


@dataclass(frozen=True, eq=False)
class Borderline:
    """What tokens may move, among those to calibrate by (index 0 of an axis of 2) and those held out (index 1)."""

    tokens: NDArray[np.int64]
    """(2,) how many there are"""
    certain: NDArray[np.int64]
    """(2, k) tokens that go to each expert whatever the rounding"""
    possible: NDArray[np.int64]
    """(2, k) those, and the ones that may go to it"""
    lost: Float
    """(2, k) sum of ||(W_c - W) x||^2 over the tokens that may go to expert c, and need not"""
    whole: Float
    """(2, k) sum of ||W x||^2 over the same"""
    swing: Float
    """(2,) sum over all of them of the difference between their largest and smallest loss"""


def candidates(router: Router, x: NDArray) -> NDArray[np.bool_]:
    """Say which experts each token may be sent to by a certified backend: (n, d) -> (n, k), one at least.

    Expert c, if ||z - c||^2 exceeds the smallest such by no more than two roundings explain: of the projection
    z = C x - C mean, 8 sqrt(d + 1) u (|C| |x| + |C mean|), and of the distances, 8 sqrt(r) u (|z - o| + |c - o|)^2
    about the centroids' median o. These are the budgets of `routed_linear` and `lloyd`.
    """
    dtype, inputs = str(router.components.dtype), np.asarray(x, np.float64)
    components, centroids = router.components.astype(np.float64), router.centroids.astype(np.float64)
    offset = components @ router.mean.astype(np.float64)
    points = inputs @ components.T - offset
    sizes = np.abs(inputs) @ np.abs(components).T + np.abs(offset)
    unsure = budget(dtype, inputs.shape[1] + 1, sizes)
    gaps = squared_gaps(points, centroids)
    nearest = gaps.argmin(axis=1)
    middle = np.sort(centroids, axis=0)[len(centroids) // 2]
    away, reach = np.linalg.norm(centroids - middle, axis=1), np.linalg.norm(points - middle, axis=1)
    found = np.empty(gaps.shape, bool)
    for c, centre in enumerate(centroids):
        moved = 2 * (np.abs(centroids[nearest] - centre) * unsure).sum(axis=1)
        rounded = budget(dtype, points.shape[1], np.square(reach + np.maximum(away[nearest], away[c])))
        found[:, c] = gaps[:, c] - gaps.min(axis=1) <= moved + rounded
    found[np.arange(len(found)), nearest] = True
    return found


def find_borderline(activations: Activations, router: Router, weights: NDArray, dense: NDArray) -> Borderline:
    """Read the inputs once, and sum up what moving tokens would change: experts (k, m, d), dense weights (m, d)."""
    rows, first_judged, k = activations.input.rows, activations.calibration, len(weights)
    count, certain, possible = np.zeros(2, np.int64), np.zeros((2, k), np.int64), np.zeros((2, k), np.int64)
    lost, whole, swing, done = np.zeros((2, k)), np.zeros((2, k)), np.zeros(2), 0
    for first in range(0, rows, ROWS):
        x = activations.read_input(slice(first, min(rows, first + ROWS)), str(router.components.dtype))
        half = (np.arange(done, done + len(x)) >= first_judged).astype(np.int64)
        may = candidates(router, x)
        unsure = np.count_nonzero(may, axis=1) > 1
        np.add.at(count, half[unsure], 1)
        np.add.at(certain, half[~unsure], may[~unsure])
        np.add.at(possible, half, may)
        if unsure.any():
            losses, outputs = _token_losses(x[unsure], may[unsure], weights, dense)
            np.add.at(lost, half[unsure], np.where(may[unsure], losses, 0.0))
            np.add.at(whole, half[unsure], np.where(may[unsure], outputs[:, None], 0.0))
            span = np.where(may[unsure], losses, -np.inf).max(axis=1) - losses.min(axis=1)
            np.add.at(swing, half[unsure], span)
        done += len(x)
        activations.tick(0)
    return Borderline(count, certain, possible, lost, whole, swing)


def _token_losses(x: NDArray, may: NDArray[np.bool_], weights: NDArray, dense: NDArray) -> tuple[Float, Float]:
    """Return ||(W_c - W) x||^2, infinite where x may not go to c, and ||W x||^2: (n, k), (n,)."""
    inputs, before = x.astype(np.float64), dense.astype(np.float64)
    losses = np.full(may.shape, np.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # an allowance of NaN allows nothing
        for c in np.flatnonzero(may.any(axis=0)):
            mine = may[:, c]
            losses[mine, c] = np.square(inputs[mine] @ (weights[c].astype(np.float64) - before).T).sum(axis=1)
        return losses, np.square(inputs @ before.T).sum(axis=1)
