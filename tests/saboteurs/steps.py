"""Pruning in the dtype of its arguments, step by step: right as it stands, and room for one wrong step."""

import numpy as np
from scipy import linalg  # unlike NumPy's, it stays in float32

from wncore.pruning.cells import select_span
from wncore.pruning.damping import RUNGS, ladder
from wncore.tolerance import UNIT


class Solver:
    """Masked least squares."""

    def solve(self, w, h, mask):
        out = np.where(mask, w, 0)
        for row, dense, keep in zip(out, w, mask, strict=True):
            if keep.any() and not keep.all():
                row[keep] += self.system(h[np.ix_(keep, keep)], h[np.ix_(keep, ~keep)] @ dense[~keep])
        return out

    def system(self, h, right):
        return linalg.cho_solve(linalg.cho_factor(h), right)

    def resolve(self, w, h, mask):
        return np.array([self.solve(*one) for one in zip(w, h.astype(w.dtype), mask == 1, strict=True)], w.dtype)


class Steps(Solver):
    """Plain NumPy and SciPy, in float32 if that is what the weights are."""

    def prune(self, w, h, spec):
        h = h.astype(w.dtype)
        grams = [self.damp(*one, spec) for one in zip(h, self.ridges(spec, len(h)), strict=True)]
        out = np.empty((len(spec.patterns), *w.shape), w.dtype)
        for p, cells in enumerate(self.cells(spec, *w.shape[1:])):
            for e, (damped, _, _) in enumerate(grams):
                out[p, e] = self.matrix(w[e], h[e], damped, cells, spec)
        return out, np.array([ridge for _, ridge, _ in grams], float), np.array([raised for *_, raised in grams])

    def ridges(self, spec, k):
        return spec.ridges(k)

    def cells(self, spec, m, d):
        return spec.cells(m, d)

    def unit_ridge(self, diagonal, spec):
        return np.full_like(diagonal, diagonal.mean()) if spec.damping == "published" else diagonal

    def damp(self, h, asked, spec):
        for raised in range(RUNGS):
            ridge = ladder(asked, raised)
            damped = self.damped(h, ridge, spec)
            scale = np.sqrt(damped.diagonal())
            spared = 4 * len(h) * UNIT[str(h.dtype)] * np.eye(len(h), dtype=h.dtype)
            try:
                linalg.cholesky(damped / scale / scale[:, None] - spared)
            except linalg.LinAlgError:
                continue
            return damped, ridge, raised
        raise AssertionError("no rung will do")

    def damped(self, h, ridge, spec):
        damped = h + np.diag((ridge * self.unit_ridge(h.diagonal(), spec)).astype(h.dtype))
        np.fill_diagonal(damped, np.where(h.diagonal() == 0, 1, damped.diagonal()))
        return damped

    def matrix(self, w, h, damped, cells, spec):
        alive = self.alive(h)
        if spec.method == "sparsegpt":
            weights, mask = self.sweep(w, damped, alive, cells, spec)
        elif spec.method == "obs":
            weights, mask = self.obs(w, damped, alive, cells)
        elif spec.method == "admm":
            weights, mask = self.admm(w, damped, alive, cells, spec)
        else:
            mask = self.select(self.wanda(w, h) if spec.method == "wanda" else np.abs(w), cells)
            weights = np.where(mask, w, 0)
        if spec.bits and spec.method != "sparsegpt":
            weights = self.sweep(w, damped, alive, cells, spec, mask)[0]
        if spec.resolve:
            weights = self.solve(w, damped, mask)
        return weights if spec.bits else self.untouched(w, weights, mask)

    def alive(self, h):
        return h.diagonal() > 0

    def untouched(self, w, weights, mask):
        return np.where(mask.all(axis=1, keepdims=True), w, weights)

    def wanda(self, w, h):
        return np.abs(w) * np.sqrt(h.diagonal())

    def select(self, scores, cells):
        spans = range(cells.counts.shape[1])
        return np.hstack([self.choose(scores[:, cells.span(c)], cells.counts[:, c]) for c in spans])

    def choose(self, scores, counts):
        return select_span(scores, counts)

    def factor(self, damped):
        lower = linalg.cholesky(damped[::-1, ::-1], lower=True)
        return linalg.solve_triangular(lower, np.eye(len(damped), dtype=damped.dtype), lower=True)[::-1, ::-1]

    def sweep(self, w, damped, alive, cells, spec, mask=None):
        weights, u = w.copy(), self.factor(damped)
        value = alive * self.value(u, damped)
        kept = np.ones(w.shape, bool) if mask is None else mask
        for j in range(len(u)):
            if j % cells.width == 0 and mask is None:
                span, counts = cells.span(j // cells.width), cells.counts[:, j // cells.width]
                kept[:, span] = self.choose(self.scored(weights, w)[:, span] ** 2 * value[span], counts)
            new = weights[:, j]
            if spec.bits:
                if j % (spec.bits_group or len(u)) == 0:
                    grid = self.grid(weights[:, j : j + (spec.bits_group or len(u))], spec.bits)
                new = self.quantise(new, *grid, spec.bits)
            new = np.where(kept[:, j], new, 0)
            error = self.error(weights[:, j], new, kept[:, j]) / u[j, j]
            reach = slice(j, self.end(j, cells))
            weights[:, reach] -= np.outer(error, u[j, reach])
            weights[:, j] = new
        return weights, kept

    def value(self, u, damped):
        return 1 / u.diagonal() ** 2

    def scored(self, weights, w):
        return weights

    def error(self, old, new, kept):
        return old - new

    def end(self, j, cells):
        return None

    def grid(self, w, bits):
        low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
        step = (high - low) / w.dtype.type(2**bits - 1)
        step = np.where(step > 0, step, 1).astype(w.dtype)
        return step, np.round(-low / step)

    def quantise(self, w, step, zero, bits):
        return (np.clip(np.round(w / step) + zero, 0, 2**bits - 1) - zero) * step

    def admm(self, w, damped, alive, cells, spec):
        unit = np.sqrt(damped.diagonal())
        dense = w * unit * alive
        eigenvalues, basis = linalg.eigh(damped / np.outer(unit, unit))
        target = dense @ basis * eigenvalues
        mask = self.select(np.abs(dense), cells)
        sparse, dual = np.where(mask, dense, 0), np.zeros_like(dense)
        for penalty in np.geomspace(0.1, 1, self.iterations(spec)).astype(w.dtype):
            close = (target + (penalty * sparse - dual) @ basis) / (eigenvalues + penalty) @ basis.T
            wanted = close + dual / penalty
            mask = self.select(np.abs(wanted) * alive, cells)
            sparse = np.where(mask, wanted, 0)
            dual += penalty * (close - sparse)
        return np.where(alive, sparse / unit, w * mask), mask

    def iterations(self, spec):
        return spec.iterations

    def obs(self, w, damped, alive, cells):
        weights, left, u = w.copy(), cells.counts.copy(), self.factor(damped)
        inverse = np.repeat((u.T @ u)[None], len(w), axis=0)
        kept = np.ones(w.shape, bool)
        while left.any():
            quota = np.repeat(left, cells.width, axis=1)[:, : w.shape[1]] > 0
            with np.errstate(all="ignore"):
                cost = self.cost(weights, inverse.diagonal(axis1=1, axis2=2)) * alive
            i, q = np.unravel_index(np.argmin(np.where(kept & quota, cost, np.inf)), w.shape)
            column = inverse[i, :, q] / inverse[i, q, q]
            weights[i] -= weights[i, q] * column
            self.downdate(inverse[i], column, q)
            kept[i, q] = False
            weights[i, ~kept[i]] = 0
            left[i % len(left), q // cells.width] -= 1
        return weights, kept

    def cost(self, weights, diagonal):
        return weights**2 / diagonal

    def downdate(self, inverse, column, q):
        inverse -= np.outer(column, inverse[q])
