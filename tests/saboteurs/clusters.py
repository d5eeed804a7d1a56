"""Wrong steps of Lloyd's algorithm."""

import numpy as np

from saboteurs.base import Saboteur
from saboteurs.routing import tensor_float32
from wncore.clustering import lloyd


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


class SumsInFloat32(Saboteur):
    """Adds all tokens up in the dtype of x, one by one."""

    def lloyd(self, x, centroids):
        labels, _, counts, inertia = lloyd(x, centroids)
        sums = [x[labels == c].sum(axis=0) for c in range(len(centroids))]
        return labels, np.array(sums, np.float64), counts, inertia


class InertiaInFloat32(Saboteur):
    """Adds all squares up in the dtype of x, one by one."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        own = np.square(x - centroids[labels]).sum(axis=1)
        inertia = [own[labels == c].cumsum()[-1:].sum() for c in range(len(centroids))]  # NumPy's sum is by halves
        return labels, sums, counts, np.array(inertia, np.float64)


class TensorFloat32(Saboteur):
    """Rounds the factors of float32 products to 11 bits."""

    def lloyd(self, x, centroids):
        middle = np.sort(centroids, axis=0)[len(centroids) // 2]
        factors = x - middle, centroids - middle
        if x.dtype == np.float32:
            factors = map(tensor_float32, factors)
        points, offsets = factors
        return added(x, centroids, (np.square(centroids - middle).sum(axis=1) - 2 * points @ offsets.T).argmin(axis=1))


class DistancesFromZero(Saboteur):
    """|c|^2 - 2 x'c as it stands, which loses the digits of an offset."""

    def lloyd(self, x, centroids):
        return added(x, centroids, (np.square(centroids).sum(axis=1) - 2 * x @ centroids.T).argmin(axis=1))


class DistancesFromTheMean(Saboteur):
    """From the mean of the centroids, which one far centroid takes along."""

    def lloyd(self, x, centroids):
        middle = centroids.mean(axis=0)
        points, offsets = x - middle, centroids - middle
        return added(x, centroids, (np.square(offsets).sum(axis=1) - 2 * points @ offsets.T).argmin(axis=1))


class LargestProduct(Saboteur):
    """Ignores |c|^2."""

    def lloyd(self, x, centroids):
        return added(x, centroids, (x.astype(np.float64) @ centroids.T).argmax(axis=1))


class SecondNearest(Saboteur):
    """Takes the second nearest for one token in a hundred."""

    def lloyd(self, x, centroids):
        order = squares(x.astype(np.float64), centroids).argsort(axis=1, kind="stable")
        return added(x, centroids, np.where(np.arange(len(x)) % 100 == 99, order[:, :2][:, -1], order[:, 0]))


class FirstCentroidForgotten(Saboteur):
    """Starts from the second."""

    def lloyd(self, x, centroids):
        rest = squares(x.astype(np.float64), centroids[1:] if len(centroids) > 1 else centroids)
        return added(x, centroids, rest.argmin(axis=1) + (len(centroids) > 1))


class TokensOfFullChunksOnly(Saboteur):
    """The last, partial chunk of 64 tokens has labels, but is not added."""

    def lloyd(self, x, centroids):
        full = len(x) // 64 * 64 if len(x) > 64 else len(x)
        return lloyd(x, centroids)[0], *lloyd(x[:full], centroids)[1:]


class LastOfEachChunkDropped(Saboteur):
    """Sums 255 tokens of 256."""

    def lloyd(self, x, centroids):
        kept = np.arange(len(x)) % 256 < 255
        labels, _, counts, inertia = lloyd(x, centroids)
        return labels, lloyd(x[kept], centroids)[1], counts, inertia


class RootsOfSquares(Saboteur):
    """The inertia is not squared."""

    def lloyd(self, x, centroids):
        labels, sums, counts, _ = lloyd(x, centroids)
        own = np.sqrt(np.square(x - centroids.astype(np.float64)[labels]).sum(axis=1))
        return labels, sums, counts, by_cluster(own, labels, len(centroids))


class ExpandedInertia(Saboteur):
    """|x|^2 - 2 x'c + |c|^2 in the dtype of x, which cancels."""

    def lloyd(self, x, centroids):
        labels, sums, counts, _ = lloyd(x, centroids)
        own = centroids[labels]
        terms = (x * x).sum(axis=1) - 2 * (x * own).sum(axis=1) + (own * own).sum(axis=1)
        return labels, sums, counts, by_cluster(terms, labels, len(centroids))


class InertiaAboutTheMean(Saboteur):
    """Squares about the mean of each cluster, as if the step were done."""

    def lloyd(self, x, centroids):
        labels, sums, counts, _ = lloyd(x, centroids)
        return added(x, sums / np.maximum(counts, 1)[:, None], labels)


class InertiaOfAMean(Saboteur):
    """Divides by the count, which does not add up."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        return labels, sums, counts, inertia / np.maximum(counts, 1)


class MeansForSums(Saboteur):
    """Returns the next centroids; those of empty clusters stay."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        return labels, np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], 0), counts, inertia


class SumsOfDifferences(Saboteur):
    """Relative to the centroids."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        return labels, sums - counts[:, None] * centroids, counts, inertia


class EmptyClusterIsNaN(Saboteur):
    """0 / 0 on the way."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        sums[counts == 0] = np.nan
        return labels, sums, counts, inertia


class EmptyClusterGetsAToken(Saboteur):
    """Moves the first token to the first empty cluster, as some k-means do."""

    def lloyd(self, x, centroids):
        labels, _, counts, _ = lloyd(x, centroids)
        if len(x) and not counts.all():
            labels[0] = counts.argmin()
        return added(x, centroids, labels)


class EmptyClusterKeepsItsCentroid(Saboteur):
    """The sums of an empty cluster are its centroid, so that dividing by max(count, 1) is safe."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        return labels, np.where(counts[:, None] > 0, sums, centroids), counts, inertia


class CountsOfTheCallBefore(Saboteur):
    """Hands out a buffer that the next call fills."""

    _before = None

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        before, self._before = self._before, counts
        return labels, sums, counts if before is None or len(before) != len(counts) else before, inertia


class LabelsInInt32(Saboteur):
    """Half the memory."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        return labels.astype(np.int32), sums, counts, inertia


class Narrows(Saboteur):
    """Answers in the dtype of x, where the protocol says float64."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        return labels, sums.astype(x.dtype), counts, inertia.astype(x.dtype)


class MovesTheCentroids(Saboteur):
    """Does the whole step, in place."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        centroids[:] = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)
        return labels, sums, counts, inertia


class OneInertia(Saboteur):
    """The whole of it, for every cluster."""

    def lloyd(self, x, centroids):
        labels, sums, counts, inertia = lloyd(x, centroids)
        return labels, sums, counts, np.full_like(inertia, inertia.sum())
