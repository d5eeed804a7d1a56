"""What is asked of an expansion into sparse experts, and the result: a layer's experts with the report on them."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wncore.errors import InputError
from wncore.experts.disentanglement import Disentanglement
from wncore.experts.experts import Experts
from wncore.experts.fitting import ClusterSpec
from wncore.experts.losses import ExpertErrors
from wncore.experts.router import Labels, Router
from wncore.normal import Float
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import Pattern
from wncore.scoring import LayerScore

Control = Literal["random", "stored"]
PRIOR = 0.1
UNEVEN = 0.05
"""Sizes of balanced clusters farther from equal than this, relatively, are pointed out."""
AUTO = 0
"""In place of a number of experts: as many as help."""


@dataclass(frozen=True)
class ExpandSpec:
    """How to expand: everything but the layers."""

    experts: tuple[int, ...]
    """A run for each number; or `AUTO` alone, doubled from 1 until the held-out error stops falling."""
    prune: PruneSpec
    """Its ridge is replaced by that below."""
    clusters: ClusterSpec = field(default_factory=ClusterSpec)
    prior: float = PRIOR
    """Tokens, in units of d, of the whole layer that stand beside each cluster's own."""
    ridge: float | None = None
    """None: by the number of tokens behind each expert."""
    controls: bool = False
    """Also expand by random clusters, and with experts that together store as many weights as one does."""

    def __post_init__(self) -> None:
        if not self.experts or min(self.experts) < AUTO or (AUTO in self.experts and len(self.experts) > 1):
            raise InputError(f"experts are counted from 1, or found automatically; got {self.experts}")
        if not 0 <= self.prior < np.inf:
            raise InputError(f"the prior is a positive number, or 0; got {self.prior}")


@dataclass(frozen=True, eq=False)
class LayerExpansion:
    """A layer of m neurons and d inputs as k sparse experts, and the report on it."""

    name: str
    shape: tuple[int, int]
    """(m, d)"""
    asked: int
    """Experts that were asked for; fewer if clusters were merged."""
    control: Control | None
    """What it is a control for, if it is one: random clusters, or as many weights stored as by one expert."""
    weights: NDArray | None
    """(k, m, d) in the dtype of the dump; None once they were let go of"""
    bias: NDArray | None
    """(m,)"""
    router: Router | None
    """None for random clusters, which no router finds again"""
    router_of: str
    """The layer whose router it uses: its own, or that of the first layer with the same input."""
    labels: Labels
    """(n,) the expert of each token, those held out last"""
    pattern: Pattern
    spec: ExpandSpec
    tokens_per_expert: NDArray[np.int64]
    """(k,) tokens that pruning saw"""
    holdout_per_expert: NDArray[np.int64]
    merged: int
    explained: float
    """Share of the inputs' variance along the router's components."""
    inertia: float | None
    """Share of the variance along them that is left within clusters; None for random ones."""
    rank: NDArray[np.int64]
    """(k,) of each cluster's inputs"""
    own: Float
    """(k,) weight of each cluster's own Gram matrix"""
    ridge: Float
    """(k,) of the kept weights, as used"""
    zeros_ridge: Float
    """(k,) by which zeros were chosen"""
    raised: NDArray[np.int64]
    """(k,) how often it had to be raised"""
    zeros: NDArray[np.int64]
    """(k,) zero weights of each expert"""
    errors: ExpertErrors
    relative_improvement: Float
    """(m,) RMSE of one expert over that of these, on the tokens that pruning saw"""
    relative_improvement_holdout: Float | None
    dense: LayerScore | None
    """Scores of the dense layer; None if distances were not asked for."""
    disentanglement: Disentanglement | None
    tried: tuple[tuple[int, float], ...] = ()
    """If the number of experts was to be found: each that was tried, and its held-out error, the mean of the layers of
    that input; NaN if it did not fit into memory"""

    @property
    def experts(self) -> Experts | None:
        """What is saved, loaded and run; None if there is no router, or the weights were let go of."""
        if self.weights is None or self.router is None:
            return None
        return Experts(self.name, self.weights, self.bias, self.router, self.tokens_per_expert)

    @property
    def components(self) -> int | None:
        """Principal components that tokens are clustered in; None for random clusters."""
        return None if self.router is None else len(self.router.components) - self.spec.clusters.balanced

    @property
    def stored(self) -> int:
        """Weights that are not zero, of all experts together."""
        return len(self.zeros) * self.shape[0] * self.shape[1] - int(self.zeros.sum())

    @property
    def warnings(self) -> list[str]:
        """Say what the reader should know before trusting the result, one sentence each."""
        found, (_, d), k = [], self.shape, len(self.zeros)
        starved = int(np.count_nonzero(self.tokens_per_expert < d))
        if self.merged:
            found.append(
                f"{self.merged} of {self.asked} clusters had fewer than {self.spec.clusters.least_tokens} tokens or "
                f"none and were merged; {k} left"
            )
        if starved:
            few, share = self.tokens_per_expert.min(), 1 - self.own[self.tokens_per_expert.argmin()]
            told = f"which borrows {share:.0%} of its Gram matrix" if share > 0 else "and borrows nothing"
            found.append(
                f"{starved} of {k} have fewer tokens than there are inputs ({d}); the smallest has {few}, {told}"
            )
        fair = self.tokens_per_expert.sum() / k
        if self.spec.clusters.balanced and np.abs(self.tokens_per_expert - fair).max() > max(1.0, UNEVEN * fair):
            found.append(
                f"clusters could not be made equal: {self.tokens_per_expert.min()} to {self.tokens_per_expert.max()} "
                f"tokens; the inputs lie in groups of other sizes"
            )
        if self.tried and np.isnan(self.tried[-1][1]):
            found.append(f"{self.tried[-1][0]} experts do not fit into the memory that is allowed, and were not tried")
        if self.raised.any():
            found.append(f"the ridge of {np.count_nonzero(self.raised)} of {k} had to be raised")
        return found
