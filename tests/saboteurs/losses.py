"""Wrong quadratic forms."""

import numpy as np

from saboteurs.base import Saboteur
from wncore.pruning.loss import neuron_losses


class LossesInFloat32(Saboteur):
    """Multiplies in float32."""

    def neuron_losses(self, w, h):
        narrow = w.astype(np.float32) @ h.astype(np.float32)
        return np.maximum((narrow * w).sum(axis=2), 0.0)


class LossesOfChannelsAlone(Saboteur):
    """The diagonal of H, as if inputs were independent."""

    def neuron_losses(self, w, h):
        return (w**2 * h.diagonal(axis1=1, axis2=2)[:, None]).sum(axis=2)


class TriangleForLosses(Saboteur):
    """One triangle of H, as a symmetric product fills it."""

    def neuron_losses(self, w, h):
        return super().neuron_losses(w, np.triu(h))


class NegativeLosses(Saboteur):
    """Leaves below zero what rounding took there."""

    def neuron_losses(self, w, h):
        return ((w @ h) * w).sum(axis=2)


class RootsOfLosses(Saboteur):
    """Norms for their squares."""

    def neuron_losses(self, w, h):
        return np.sqrt(super().neuron_losses(w, h))


class LossOfTheLayer(Saboteur):
    """The mean over neurons for each."""

    def neuron_losses(self, w, h):
        losses = super().neuron_losses(w, h)
        return np.broadcast_to(losses.mean(axis=1, keepdims=True), losses.shape).copy()


class LossesOnTheFirstExpert(Saboteur):
    """One Gram matrix for all."""

    def neuron_losses(self, w, h):
        return np.array([neuron_losses(one, h[0]) for one in w])
