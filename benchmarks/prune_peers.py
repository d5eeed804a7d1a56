"""What `benchmarks/prune.py` measures against: the published SparseGPT loop, and OBS as it is defined."""

import numpy as np
import torch
from numpy.typing import NDArray


def published_sparsegpt(
    w: torch.Tensor, h: torch.Tensor, sparsity: float = 0.0, n: int = 0, m: int = 0, blocksize: int = 128
) -> torch.Tensor:
    """Prune by the loop of arXiv:2301.00774: a share of each block of columns, or n of every m weights."""
    w, h = w.clone(), h.clone()
    columns = w.shape[1]
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    diagonal = torch.arange(columns)
    h[diagonal, diagonal] += 0.01 * torch.mean(torch.diag(h))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    factor = torch.linalg.cholesky(inverse, upper=True)
    for first in range(0, columns, blocksize):
        last = min(first + blocksize, columns)
        block, u = w[:, first:last].clone(), factor[first:last, first:last]
        pruned, errors = torch.zeros_like(block), torch.zeros_like(block)
        mask = torch.zeros_like(block, dtype=torch.bool)
        if not n:
            scores = block**2 / torch.diag(u).reshape(1, -1) ** 2
            mask = scores <= torch.sort(scores.flatten())[0][int(scores.numel() * sparsity)]
        for j in range(last - first):
            if n and j % m == 0:
                scores = block[:, j : j + m] ** 2 / torch.diag(u)[j : j + m].reshape(1, -1) ** 2
                mask.scatter_(1, j + torch.topk(scores, n, dim=1, largest=False)[1], True)
            column = block[:, j].clone()
            column[mask[:, j]] = 0
            pruned[:, j] = column
            error = (block[:, j] - column) / u[j, j]
            block[:, j:] -= error.unsqueeze(1) @ u[j, j:].unsqueeze(0)
            errors[:, j] = error
        w[:, first:last] = pruned
        w[:, last:] -= errors @ factor[first:last, last:]
    return w


def greedy_obs(w: NDArray, h: NDArray, count: int) -> NDArray:
    """Prune `count` weights of each row, one at a time, with an inverse for each row that loses a row and a column."""
    start = np.linalg.inv(h)
    out = w.astype(np.float64)
    for row in out:
        inverse, open_ = start.copy(), np.ones(len(row), bool)
        for _ in range(count):
            diagonal = np.where(open_, inverse.diagonal(), 1.0)
            q = np.argmin(np.where(open_, row**2 / diagonal, np.inf))
            column = inverse[:, q] / inverse[q, q]
            row -= row[q] * column
            inverse -= np.outer(column, inverse[q])
            open_[q] = False
            row[~open_] = 0.0
    return out
