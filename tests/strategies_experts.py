"""Inputs that fall into clusters, dumps of them, what experts lose as a loop over tokens, and short ways to ask."""

import numpy as np

from wncore.dumps import open_dump, write_dump
from wncore.experts.expansion import ExpandSpec
from wncore.experts.fitting import ClusterSpec, Projection, fit_routing
from wncore.experts.layers import expand_layers
from wncore.experts.router import Router
from wncore.layers.activations import open_layers
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import parse_pattern
from wncore.reference import NumpyBackend


def clustered(tokens=300, d=12, blobs=4, seed=0, apart=12.0, dtype="float32"):
    """Inputs (n, d) in blobs along a line, each with a covariance of its own; and the blob of each token."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(blobs), rng.integers(blobs, size=tokens)])[:tokens]  # none is empty
    mixing = np.eye(d) + rng.standard_normal((blobs, d, d)) / np.sqrt(d)
    noise = np.einsum("ni,nij->nj", rng.standard_normal((tokens, d)), mixing[labels])
    line = rng.standard_normal(d)
    line /= np.linalg.norm(line)
    return (noise / 2 + apart * (labels[:, None] - blobs / 2) * line).astype(dtype), labels


def weights(m=8, d=12, seed=0, dtype="float32"):
    """Dense weights (m, d)."""
    return np.random.default_rng([seed, 1]).standard_normal((m, d)).astype(dtype)


def dump_of(folder, tensors, **options):
    """Write a dump of the layer "l", names with a dot as they are; return its layers by name."""
    folder.mkdir(exist_ok=True)
    path = folder / "acts.safetensors"
    write_dump(path, {name if "." in name else f"l.{name}": value for name, value in tensors.items()}, **options)
    return open_dump(path).layers


def same_partition(a, b):
    """Whether two labellings differ by the names of the clusters alone."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def routing_of(points, k, spec, calibration=None):
    """Fit a router to points that need no projecting."""
    base = Router(np.zeros(2), np.zeros((points.shape[1], 2)), np.zeros((1, points.shape[1])))
    return fit_routing(Projection(points, calibration or len(points), base, 1.0), k, spec, NumpyBackend())


def losses(experts, dense, x, labels):
    """Sums of squared changes of the outputs, token by token, and of squares of what there was: (k, m), (k, m)."""
    lost, whole = (np.zeros((len(experts), len(dense))) for _ in range(2))
    for token, c in zip(np.asarray(x, np.float64), labels, strict=True):
        lost[c] += np.square((experts[c].astype(np.float64) - dense.astype(np.float64)) @ token)
        whole[c] += np.square(dense.astype(np.float64) @ token)
    return lost, whole


def expanded(layers, backend, k=4, pattern="0.5", controls=False, prior=0.25, ridge=None, clusters=None, **settings):
    """Expand layers, without scores of their outputs; return the runs of each."""
    prune = PruneSpec(tuple(map(parse_pattern, pattern.split(","))), **settings.pop("prune", {}))
    numbers = k if isinstance(k, tuple) else (k,)
    spec = ExpandSpec(numbers, prune, clusters or ClusterSpec(), prior, ridge, controls)
    layers = list(layers)
    keys = ("skip_tokens", "holdout", "memory", "tick")
    opened = open_layers(layers, backend, **{key: settings.pop(key) for key in keys if key in settings})
    return list(expand_layers(opened, [spec] * len(layers), **({"wasserstein": False} | settings)))


def expanded_one(layer, backend, *arguments, **settings):
    """Expand one layer in one run."""
    ((run,),) = expanded([layer], backend, *arguments, **settings)
    return run
