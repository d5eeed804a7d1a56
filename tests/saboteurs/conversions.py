"""Wrong conversions, and a backend that does nothing."""

import numpy as np

from saboteurs.base import Saboteur


class IgnoresStrides(Saboteur):
    """Takes the buffer for rows."""

    def asarray(self, x, dtype):
        array = np.asarray(x)
        return super().asarray(np.frombuffer(array.tobytes("A"), array.dtype).reshape(array.shape), dtype)


class KeepsIntegers(Saboteur):
    """int32 labels stay int32."""

    def asarray(self, x, dtype):
        array = np.asarray(x)
        return array if array.dtype.kind in "iub" else super().asarray(x, dtype)


class RoundsOnTheWay(Saboteur):
    """Everything passes through float32."""

    def asarray(self, x, dtype):
        array = super().asarray(x, dtype)
        return array.astype(np.float32).astype(array.dtype) if array.dtype.kind == "f" else array


class RefusesEverything(Saboteur):
    """Declares all of it unsupported: there is nothing to certify."""

    def _refuse(self, *args):
        raise NotImplementedError("not yet")

    def gaussian_distance(self, y):
        self._refuse()

    def choose_edges(self, y, bins):
        self._refuse()

    def histogram(self, y, edges):
        self._refuse()

    def distance_bounds(self, edges, counts, sums, powers):
        self._refuse()

    def mapping_difficulty(self, x, y, left, right):
        self._refuse()

    def routed_linear(self, x, weights, bias, labels):
        self._refuse()

    def linear_histogram(self, x, weights, bias, labels, edges):
        self._refuse()

    def gram(self, x, labels, k):
        self._refuse()

    def lloyd(self, x, centroids):
        self._refuse()

    def prune(self, w, h, spec):
        self._refuse()

    def resolve(self, w, h, mask):
        self._refuse()
