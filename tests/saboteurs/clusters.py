"""Wrong steps of Lloyd's algorithm."""

import numpy as np

from saboteurs.base import Saboteur
from saboteurs.routing import tensor_float32
from wncore.clustering import lloyd


class Starts:
    """Takes the step of each start by itself, (n, r), (k, r) -> (n,), (k, r), (k,), (k,), as a subclass says."""

    def lloyd(self, x, centroids):
        return tuple(map(np.array, zip(*(self.step(x, start) for start in centroids), strict=True)))


def right(x, centroids):
    """The step of one start."""
    return tuple(part[0] for part in lloyd(x, centroids[None]))


def squares(x, centroids):
    """Squared distances (n, k) in the dtype of x."""
    return np.stack([np.square(x - centroid).sum(axis=1) for centroid in centroids], axis=1)


def by_cluster(values, labels, k):
    """Sums of the values (n, ...) of the tokens of each cluster, (k, ...) float64."""
    return np.array([values[labels == c].sum(axis=0, dtype=np.float64) for c in range(k)])


def added(x, centroids, labels):
    """All that follows from the labels."""
    own, k = np.square(x.astype(np.float64) - centroids[labels]).sum(axis=1), len(centroids)
    return labels, by_cluster(x, labels, k), np.bincount(labels, minlength=k), by_cluster(own, labels, k)


class SumsInFloat32(Starts, Saboteur):
    """Adds all tokens up in the dtype of x, one by one."""

    def step(self, x, centroids):
        labels, _, counts, inertia = right(x, centroids)
        sums = [x[labels == c].sum(axis=0) for c in range(len(centroids))]
        return labels, np.array(sums, np.float64), counts, inertia


class InertiaInFloat32(Starts, Saboteur):
    """Adds all squares up in the dtype of x, one by one."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        own = np.square(x - centroids[labels]).sum(axis=1)
        inertia = [own[labels == c].cumsum()[-1:].sum() for c in range(len(centroids))]  # NumPy's sum is by halves
        return labels, sums, counts, np.array(inertia, np.float64)


class TensorFloat32(Starts, Saboteur):
    """Rounds the factors of float32 products to 11 bits."""

    def step(self, x, centroids):
        middle = np.sort(centroids, axis=0)[len(centroids) // 2]
        factors = x - middle, centroids - middle
        if x.dtype == np.float32:
            factors = map(tensor_float32, factors)
        points, offsets = factors
        return added(x, centroids, (np.square(centroids - middle).sum(axis=1) - 2 * points @ offsets.T).argmin(axis=1))


class DistancesFromZero(Starts, Saboteur):
    """|c|^2 - 2 x'c as it stands, which loses the digits of an offset."""

    def step(self, x, centroids):
        return added(x, centroids, (np.square(centroids).sum(axis=1) - 2 * x @ centroids.T).argmin(axis=1))


class DistancesFromTheMean(Starts, Saboteur):
    """From the mean of the centroids, which one far centroid takes along."""

    def step(self, x, centroids):
        middle = centroids.mean(axis=0)
        points, offsets = x - middle, centroids - middle
        return added(x, centroids, (np.square(offsets).sum(axis=1) - 2 * points @ offsets.T).argmin(axis=1))


class LargestProduct(Starts, Saboteur):
    """Ignores |c|^2."""

    def step(self, x, centroids):
        return added(x, centroids, (x.astype(np.float64) @ centroids.T).argmax(axis=1))


class SecondNearest(Starts, Saboteur):
    """Takes the second nearest for one token in a hundred."""

    def step(self, x, centroids):
        order = squares(x.astype(np.float64), centroids).argsort(axis=1, kind="stable")
        return added(x, centroids, np.where(np.arange(len(x)) % 100 == 99, order[:, :2][:, -1], order[:, 0]))


class FirstCentroidForgotten(Starts, Saboteur):
    """Starts from the second."""

    def step(self, x, centroids):
        rest = squares(x.astype(np.float64), centroids[1:] if len(centroids) > 1 else centroids)
        return added(x, centroids, rest.argmin(axis=1) + (len(centroids) > 1))


class TokensOfFullChunksOnly(Starts, Saboteur):
    """The last, partial chunk of 64 tokens has labels, but is not added."""

    def step(self, x, centroids):
        full = len(x) // 64 * 64 if len(x) > 64 else len(x)
        return right(x, centroids)[0], *right(x[:full], centroids)[1:]


class LastOfEachChunkDropped(Starts, Saboteur):
    """Sums 255 tokens of 256."""

    def step(self, x, centroids):
        kept = np.arange(len(x)) % 256 < 255
        labels, _, counts, inertia = right(x, centroids)
        return labels, right(x[kept], centroids)[1], counts, inertia


class RootsOfSquares(Starts, Saboteur):
    """The inertia is not squared."""

    def step(self, x, centroids):
        labels, sums, counts, _ = right(x, centroids)
        own = np.sqrt(np.square(x - centroids.astype(np.float64)[labels]).sum(axis=1))
        return labels, sums, counts, by_cluster(own, labels, len(centroids))


class ExpandedInertia(Starts, Saboteur):
    """|x|^2 - 2 x'c + |c|^2 in the dtype of x, which cancels."""

    def step(self, x, centroids):
        labels, sums, counts, _ = right(x, centroids)
        own = centroids[labels]
        terms = (x * x).sum(axis=1) - 2 * (x * own).sum(axis=1) + (own * own).sum(axis=1)
        return labels, sums, counts, by_cluster(terms, labels, len(centroids))


class InertiaAboutTheMean(Starts, Saboteur):
    """Squares about the mean of each cluster, as if the step were done."""

    def step(self, x, centroids):
        labels, sums, counts, _ = right(x, centroids)
        return added(x, sums / np.maximum(counts, 1)[:, None], labels)


class InertiaOfAMean(Starts, Saboteur):
    """Divides by the count, which does not add up."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        return labels, sums, counts, inertia / np.maximum(counts, 1)


class MeansForSums(Starts, Saboteur):
    """Returns the next centroids; those of empty clusters stay."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        return labels, np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], 0), counts, inertia


class SumsOfDifferences(Starts, Saboteur):
    """Relative to the centroids."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        return labels, sums - counts[:, None] * centroids, counts, inertia


class EmptyClusterIsNaN(Starts, Saboteur):
    """0 / 0 on the way."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        sums[counts == 0] = np.nan
        return labels, sums, counts, inertia


class EmptyClusterGetsAToken(Starts, Saboteur):
    """Moves the first token to the first empty cluster, as some k-means do."""

    def step(self, x, centroids):
        labels, _, counts, _ = right(x, centroids)
        if len(x) and not counts.all():
            labels[0] = counts.argmin()
        return added(x, centroids, labels)


class EmptyClusterKeepsItsCentroid(Starts, Saboteur):
    """The sums of an empty cluster are its centroid, so that dividing by max(count, 1) is safe."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        return labels, np.where(counts[:, None] > 0, sums, centroids), counts, inertia


class CountsOfTheCallBefore(Starts, Saboteur):
    """Hands out a buffer that the next call fills."""

    _before = None

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        before, self._before = self._before, counts
        return labels, sums, counts if before is None or len(before) != len(counts) else before, inertia


class LabelsInInt32(Starts, Saboteur):
    """Half the memory."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        return labels.astype(np.int32), sums, counts, inertia


class Narrows(Starts, Saboteur):
    """Answers in the dtype of x, where the protocol says float64."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        return labels, sums.astype(x.dtype), counts, inertia.astype(x.dtype)


class MovesTheCentroids(Starts, Saboteur):
    """Does the whole step, in place."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        centroids[:] = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)
        return labels, sums, counts, inertia


class OneInertia(Starts, Saboteur):
    """The whole of it, for every cluster."""

    def step(self, x, centroids):
        labels, sums, counts, inertia = right(x, centroids)
        return labels, sums, counts, np.full_like(inertia, inertia.sum())


class FirstStartOnly(Saboteur):
    """Every start takes the step of the first."""

    def lloyd(self, x, centroids):
        return lloyd(x, np.broadcast_to(centroids[:1], centroids.shape))


class SumsOfAllStarts(Saboteur):
    """Adds up over starts what belongs to each."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        return labels, np.broadcast_to(sums.sum(axis=0), sums.shape), counts, inertia
