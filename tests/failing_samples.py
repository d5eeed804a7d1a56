"""Layers of which some fail, and what the commands need for the others: shared by the tests of failing layers."""

from pathlib import Path

import numpy as np
from rawfile import write

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 8)).astype(np.float32)
W = RNG.standard_normal((6, 8)).astype(np.float32)
QUICK = ["--experts", "2", "--pairs", "9", "--restarts", "1"]
WORK = {"score": [], "prune": ["--iterations", "2"], "expand": QUICK}


def broken(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[3, 4] = np.inf
    return array


FAULTS = {
    "nan in the input": {"input": broken(X), "weight": W},
    "nan in the weight": {"input": X, "weight": broken(W)},
    "shapes": {"input": X, "weight": W[:, :5].copy()},
    "integers": {"input": X, "weight": W.astype(np.int8)},
    "two names": {"input": X, "inputs": X, "weight": W},
}


def dump(path: Path, layers: dict[str, dict[str, np.ndarray]], **metadata: str) -> Path:
    tensors = {f"{name}.{part}": array for name, parts in layers.items() for part, array in parts.items()}
    return write(path, tensors, **metadata)


def fit(seed: float = 1) -> dict[str, np.ndarray]:
    return {"input": X * np.float32(seed), "weight": W}


def layers_of(document: dict) -> list[str]:
    return [layer["name"] for layer in document["layers"]]
