"""Wrong edges of bins."""

import numpy as np
from scipy.special import ndtri

from saboteurs.base import Saboteur
from wncore.histograms import choose_edges, location_and_scale


class EvenEdges(Saboteur):
    """Equal bins over eight deviations."""

    def choose_edges(self, y, bins):
        mean, spread, _, _ = location_and_scale(y.astype(np.float64))
        return mean[:, None] + spread[:, None] * np.linspace(-8, 8, bins + 1)


class QuantilesOfOneGaussian(Saboteur):
    """As dense as the outputs are expected, and blind to outliers."""

    def choose_edges(self, y, bins):
        mean, spread, _, _ = location_and_scale(y.astype(np.float64))
        return mean[:, None] + spread[:, None] * ndtri(np.linspace(0, 1, bins + 3)[1:-1])


class TooFewTokens(Saboteur):
    """Looks at the first half of the tokens."""

    def choose_edges(self, y, bins):
        return choose_edges(y[: max(1, len(y) // 2)], bins)


class UnbiasedDeviation(Saboteur):
    """Divides by n - 1."""

    def choose_edges(self, y, bins):
        n = len(y)
        if n < 2:
            return choose_edges(y, bins)
        mean = y.mean(axis=0, dtype=np.float64)
        return choose_edges(mean + (y - mean) * np.sqrt(n / (n - 1)), bins)


class EdgesInFloat32(Saboteur):
    """Computes in the outputs' own float32."""

    def choose_edges(self, y, bins):
        return choose_edges(y, bins).astype(np.float32).astype(np.float64)


class ConstantNeuronBesideTheEdge(Saboteur):
    """The middle edge of a constant neuron is where the mixture has it."""

    def choose_edges(self, y, bins):
        edges = choose_edges(y, bins)
        constant = np.ptp(y, axis=0) == 0
        middle = (bins + 1) // 2
        edges[constant, middle] = (edges[constant, middle - 1] + edges[constant, min(middle + 1, bins)]) / 2 * 1.0000001
        return edges


class NoEdgeForOutliers(Saboteur):
    """The ends are those of the body."""

    def choose_edges(self, y, bins):
        edges = choose_edges(y, bins)
        edges[:, 0], edges[:, -1] = edges[:, 1], edges[:, -2]
        return edges


class EdgesThatFall(Saboteur):
    """Two neighbours are exchanged."""

    def choose_edges(self, y, bins):
        edges = choose_edges(y, bins)
        place = max(1, bins // 3)
        edges[:, [place - 1, place]] = edges[:, [place, place - 1]]
        return edges
