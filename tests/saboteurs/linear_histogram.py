"""Wrong histograms of a product's outputs."""

import numpy as np

from saboteurs.base import Saboteur
from saboteurs.histogram import ClosedOnTheLeft as CountsOnTheLeft
from saboteurs.histogram import OuterBinsTakeTheTails, PowersAboutTheFirstEdge, SumsFromZero
from saboteurs.routing import tensor_float32
from wncore.histograms import histogram, linear_histogram
from wncore.routing import routed_linear


class BiasForgotten(Saboteur):
    """W x."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        return linear_histogram(x, weights, None, labels, edges)


class AlwaysExpertZero(Saboteur):
    """Ignores the labels."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        return linear_histogram(x, weights, bias, 0 * labels, edges)


class OutputsInHalf(Saboteur):
    """Rounds the outputs to bfloat16 on their way."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        return histogram(routed_linear(x, weights, bias, labels).astype("bfloat16"), edges)


class TensorFloat32(Saboteur):
    """Rounds the factors of float32 products to 11 bits."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        factors = (tensor_float32(x), tensor_float32(weights)) if x.dtype == np.float32 else (x, weights)
        return linear_histogram(*factors, bias, labels, edges)


class TokensOfFullTilesOnly(Saboteur):
    """The last, partial tile of 64 tokens is dropped."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        full = len(x) // 64 * 64 if len(x) > 64 else len(x)
        return linear_histogram(x[:full], weights, bias, labels[:full], edges)


class PaddingIsCounted(Saboteur):
    """The last tile of 64 tokens is filled up with zeros, whose outputs, the bias, are counted."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        padded = np.pad(x, ((0, -len(x) % 64), (0, 0)))
        return linear_histogram(padded, weights, bias, np.pad(labels, (0, len(padded) - len(x))), edges)


class LastInputDropped(Saboteur):
    """An odd number of inputs is cut to an even one."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        even = max(1, x.shape[1] // 2 * 2)
        return linear_histogram(x[:, :even], weights[..., :even], bias, labels, edges)


class ClosedOnTheLeft(Saboteur):
    """left <= y < right."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        return CountsOnTheLeft().histogram(routed_linear(x, weights, bias, labels), edges)


class TailsInTheOuterBins(Saboteur):
    """Outputs beyond the edges are clipped into the outer bins."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        return OuterBinsTakeTheTails().histogram(routed_linear(x, weights, bias, labels), edges)


class PowersOfAnotherCentre(Saboteur):
    """t = (y - first edge) / unit."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        return PowersAboutTheFirstEdge().histogram(routed_linear(x, weights, bias, labels), edges)


class SumsOfOutputs(Saboteur):
    """Sums of y, not of y above the left edge."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        return SumsFromZero().histogram(routed_linear(x, weights, bias, labels), edges)


class HeightsOfMiddles(Saboteur):
    """Takes every output for the middle of its bin."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        counts, sums, powers = linear_histogram(x, weights, bias, labels, edges)
        sums[:, 1:-1] = counts[:, 1:-1] * np.diff(edges, axis=1) / 2
        return counts, sums, powers


class SumsInFloat32(Saboteur):
    """Keeps the sums in float32, whatever the outputs are in."""

    def linear_histogram(self, x, weights, bias, labels, edges):
        counts, sums, powers = linear_histogram(x, weights, bias, labels, edges)
        return counts, sums.astype(np.float32).astype(np.float64), powers.astype(np.float32).astype(np.float64)
