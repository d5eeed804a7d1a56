"""Wrong Gram matrices."""

import numpy as np

from saboteurs.base import Saboteur
from wncore.grams import gram


class GramsInFloat32(Saboteur):
    """Adds all tokens up in the dtype of x, one by one."""

    def gram(self, x, labels, k):
        grams, sums, counts = gram(x, labels, k)
        sums = np.array([x[labels == c].sum(axis=0) for c in range(k)], np.float64)
        return grams, sums, counts


class MeansOfProducts(Saboteur):
    """Divides by the number of tokens, which does not add up."""

    def gram(self, x, labels, k):
        grams, sums, counts = gram(x, labels, k)
        return grams / np.maximum(counts, 1)[:, None, None], sums, counts


class Covariances(Saboteur):
    """Centres the inputs."""

    def gram(self, x, labels, k):
        grams, sums, counts = gram(x, labels, k)
        return grams - sums[:, :, None] * sums[:, None] / np.maximum(counts, 1)[:, None, None], sums, counts


class ClustersIgnored(Saboteur):
    """The Gram matrix of all tokens for every cluster."""

    def gram(self, x, labels, k):
        whole = gram(x, 0 * labels, 1)
        return tuple(np.repeat(part, k, axis=0) for part in whole)


class EmptyClusterIsNaN(Saboteur):
    """0 / 0 on the way."""

    def gram(self, x, labels, k):
        grams, sums, counts = gram(x, labels, k)
        grams[counts == 0] = np.nan
        return grams, sums, counts


class ClustersAsTheyOccur(Saboteur):
    """Numbers the clusters by the labels that occur."""

    def gram(self, x, labels, k):
        return gram(x, np.unique(labels, return_inverse=True)[1], k)


class HalfAGram(Saboteur):
    """The triangle that a symmetric product fills, and zeros."""

    def gram(self, x, labels, k):
        grams, sums, counts = gram(x, labels, k)
        return np.triu(grams), sums, counts


class TokensOfFullChunksOnly(Saboteur):
    """The last, partial chunk of 64 tokens is counted, but not added."""

    def gram(self, x, labels, k):
        full = len(x) // 64 * 64 if len(x) > 64 else len(x)
        return *gram(x[:full], labels[:full], k)[:2], gram(x, labels, k)[2]
