"""Half precision where sums are, not only where numbers are stored."""

import numpy as np

from saboteurs.base import Saboteur
from saboteurs.clusters import Starts, added, right
from saboteurs.right import cells, standardised
from saboteurs.steps import Solver
from wncore.difficulty import mapping_difficulty
from wncore.grams import gram
from wncore.histograms import histogram, linear_histogram
from wncore.routing import routed_linear


class Half:
    """Tried on half precision alone: in others these saboteurs are right."""

    dtypes = ("float16", "bfloat16")


class ProductsAddedInHalf(Half, Saboteur):
    """Rounds the sum of a product after every sixteen inputs."""

    def routed_linear(self, x, weights, bias, labels):
        out = np.zeros((len(x), weights.shape[1]), x.dtype)
        for first in range(0, x.shape[1], 16):
            some = slice(first, first + 16)
            part = routed_linear(x[:, some], weights[..., some], bias if first == 0 else None, labels)
            out = (out.astype(np.float64) + part).astype(x.dtype)
        return out


class RoundedBeforeTheBias(Half, Saboteur):
    """Stores the product, then adds the bias to what is stored."""

    def routed_linear(self, x, weights, bias, labels):
        out = routed_linear(x, weights, None, labels).astype(x.dtype)
        return out if bias is None else (out.astype(np.float64) + bias.astype(np.float64)).astype(x.dtype)


class CutOff(Half, Saboteur):
    """Cuts the last bits off where it should round to the nearest."""

    def routed_linear(self, x, weights, bias, labels):
        out = routed_linear(x, weights, bias, labels)
        rounded = out.astype(x.dtype)
        toward_zero = np.nextafter(rounded, np.zeros_like(rounded))
        return np.where(np.abs(rounded.astype(np.float64)) > np.abs(out), toward_zero, rounded)


class AnswersInFloat32(Half, Saboteur):
    """Does not go back to the inputs' dtype."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, bias, labels).astype(np.float32)


class OutputsStoredInHalf(Half, Saboteur):
    """Rounds the outputs on their way into the bins, as if they had been stored."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        return histogram(routed_linear(x, weights, bias, labels).astype(x.dtype), edges)


class BiasInHalf(Half, Saboteur):
    """Adds the bias after rounding, and does not round again."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        if bias is None:
            return linear_histogram(x, weights, bias, labels, edges)
        return histogram(routed_linear(x, weights, None, labels).astype(x.dtype).astype(np.float64) + bias, edges)


class GramsOfChunksInHalf(Half, Saboteur):
    """Rounds the product of 64 tokens."""

    def gram(self, x, labels, k):
        _, sums, counts = gram(x, labels, k)
        grams = np.zeros((k, x.shape[1], x.shape[1]))
        for first in range(0, len(x), 64):
            some = slice(first, first + 64)
            with np.errstate(over="ignore"):
                grams += gram(x[some], labels[some], k)[0].astype(x.dtype).astype(np.float64)
        return grams, sums, counts


class DistancesInHalf(Half, Starts, Saboteur):
    """Rounds the distances from centroids before they are compared."""

    def step(self, x, centroids):
        points, centres = x.astype(np.float64), centroids.astype(np.float64)
        middle = np.sort(centres, axis=0)[len(centres) // 2]
        squares = np.array([np.square(points - centre).sum(axis=1) for centre in centres])
        unit = max(np.square(points - middle).max(initial=1e-30), np.square(centres - middle).max())
        return added(points, centres, (squares / unit).astype(x.dtype).argmin(axis=0))


class SumsOfClustersInHalf(Half, Starts, Saboteur):
    """Keeps the sums of clusters where the centroids are kept."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        with np.errstate(over="ignore"):
            return labels, sums.astype(x.dtype).astype(np.float64), counts, inertia


class StandardisedInHalf(Half, Saboteur):
    """Rounds standardised outputs back to what they were stored in."""

    def gaussian_distance(self, y):
        z = standardised(y.astype(np.float64)).astype(y.dtype).astype(np.float64)
        return cells(z).sum(axis=0)


class DifferencesInHalf(Half, Saboteur):
    """Subtracts outputs in the dtype that they are stored in."""

    def mapping_difficulty(self, x, y, left, right):
        with np.errstate(over="ignore", invalid="ignore"):
            gaps = np.nan_to_num((y[left] - y[right]).astype(np.float64))
        pairs = np.arange(len(left))
        both = np.concatenate([gaps, 0 * gaps])
        return mapping_difficulty(np.concatenate([x[left], x[right]]), both, pairs, pairs + len(left))


class EdgesInHalf(Half, Saboteur):
    """Rounds the edges to the outputs' dtype before they are compared."""

    def histogram(self, y, edges):
        with np.errstate(over="ignore"):
            return histogram(y, edges.astype(y.dtype).astype(np.float64))


class ChangeInHalf(Half, Solver, Saboteur):
    """Rounds the change of the weights, then the weights."""

    def solve(self, w, h, mask):
        wide = w.astype(np.float64)
        change = (super().solve(wide, h.astype(np.float64), mask) - wide).astype(w.dtype)
        return np.where(mask, wide + change.astype(np.float64), 0).astype(w.dtype)


class MatrixInHalf(Half, Solver, Saboteur):
    """Rounds the matrix, scaled to a unit diagonal, to the weights' dtype."""

    def resolve(self, w, h, mask):
        wide, unit = w.astype(np.float64), np.sqrt(np.einsum("kii->ki", h))
        scaled = (h / (unit[:, :, None] * unit[:, None])).astype(w.dtype).astype(np.float64)
        rounded = scaled * (unit[:, :, None] * unit[:, None])
        return np.array([self.solve(*one) for one in zip(wide, rounded, mask == 1, strict=True)], w.dtype)

    def system(self, h, right):
        return np.linalg.solve(h, right)
