"""Wrong products."""

import numpy as np

from saboteurs.base import Saboteur
from wncore.routing import routed_linear


class AlwaysExpertZero(Saboteur):
    """Ignores the labels."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, bias, 0 * labels).astype(x.dtype)


class EmptyExpertsAreSkipped(Saboteur):
    """Numbers the experts by the labels that occur."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, bias, np.unique(labels, return_inverse=True)[1]).astype(x.dtype)


class SortedByExpert(Saboteur):
    """Groups the tokens by expert and forgets to put them back."""

    def routed_linear(self, x, weights, bias, labels):
        order = np.argsort(labels, kind="stable")
        return routed_linear(x[order], weights, bias, labels[order]).astype(x.dtype)


class BiasForgotten(Saboteur):
    """W x."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, None, labels).astype(x.dtype)


class BiasTwice(Saboteur):
    """W x + 2 b."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, None if bias is None else 2 * bias, labels).astype(x.dtype)


def tensor_float32(a):
    """Round float32 numbers to 11 bits, as a GPU does with the factors of a product where TF32 is switched on."""
    bits = np.ascontiguousarray(a).view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000).view(np.float32)


class TensorFloat32(Saboteur):
    """Rounds the factors of float32 products to 11 bits."""

    def routed_linear(self, x, weights, bias, labels):
        factors = (tensor_float32(x), tensor_float32(weights)) if x.dtype == np.float32 else (x, weights)
        return routed_linear(*factors, bias, labels).astype(x.dtype)


class HalfAccumulation(Saboteur):
    """Adds float32 products up in float16."""

    def routed_linear(self, x, weights, bias, labels):
        out = routed_linear(x, weights, bias, labels)
        if x.dtype == np.float32:
            size = np.abs(out).max(initial=1e-30)
            out = (out / size).astype(np.float16) * size
        return out.astype(x.dtype)


class Widens(Saboteur):
    """Answers float32 with float64."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, bias, labels)


class RenamedParameter(Saboteur):
    """Calls the weights experts."""

    def routed_linear(self, x, experts, bias, labels):
        return routed_linear(x, experts, bias, labels).astype(x.dtype)
