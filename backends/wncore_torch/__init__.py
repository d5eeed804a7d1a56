"""The torch backend, for the CPU and CUDA devices; importing this module does not import torch.

Plain torch, and only operations that give the same answer twice on every device: sums over sorted runs where one would
scatter. Sorting and products stay in the input's dtype, all else is float64. Work goes in blocks of neurons, so that
memory beside the arguments stays bounded.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wncore.errors import InputError
from wncore.normal import quantile_cells

if TYPE_CHECKING:
    from torch import Tensor

    from wncore.pruning.methods import PruneSpec

BLOCK = 2**22
"""Outputs in a block of neurons: 32 MiB for each float64 array of them."""
CHUNK = 2**10
"""Tokens whose products are summed in the input's dtype."""


class TorchBackend:
    """Torch on one device (default: the current CUDA device, else the CPU)."""

    name: ClassVar[str] = "torch"
    dtypes: ClassVar[tuple[str, ...]] = ("float64", "float32")
    install_hint: ClassVar[str] = "pip install 'wncore[torch]'"

    def __init__(self, device: str | None = None) -> None:
        import torch

        self.torch = torch
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(0, dtype=torch.float64, device=self.device)
        except (RuntimeError, TypeError, AssertionError) as error:
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise InputError(f"torch cannot use the device {device!r}: {reason}; 'cpu' always works") from error

    @property
    def device_name(self) -> str:
        """The device as a certificate names it: "cuda (NVIDIA H200)"."""
        if self.device.type != "cuda":
            return str(self.device)
        return f"{self.device} ({self.torch.cuda.get_device_name(self.device)})"

    def asarray(self, x: Any, dtype: str) -> "Tensor":
        """Take an array, or a tensor, to the device; floats become `dtype`, integers int64."""
        torch = self.torch
        if not isinstance(x, torch.Tensor):
            array = np.asarray(x)
            if array.dtype.kind == "V":  # torch knows no ml_dtypes
                array = array.astype(dtype)
            if not array.flags.writeable or any(step < 0 for step in array.strides):  # nor such arrays
                array = array.copy()
            x = torch.from_numpy(array)
        return x.to(self.device, getattr(torch, dtype) if x.is_floating_point() else torch.int64)

    def to_numpy(self, x: "Tensor") -> np.ndarray:
        """Copy to the host; on the CPU memory is shared."""
        return x.detach().cpu().numpy()

    def gaussian_distance(self, y: "Tensor") -> "Tensor":
        """Sort each neuron, then sum over the cells of the Gaussian as the definition does."""
        torch, n = self.torch, len(y)
        edges, means = (self.asarray(array, "float64") for array in quantile_cells(n))
        low, high, ends = edges[:-1], edges[1:], _density(edges)
        middles = 2 * torch.arange(n, dtype=torch.float64, device=y.device) + 1

        def work(rows: "Tensor") -> "Tensor":
            z = rows.sort(dim=1).values.double()
            constant = z[:, :1] == z[:, -1:]
            z = z - z[:, n // 2, None]  # no digits are lost to an offset
            z = z / torch.where(constant, 1.0, z.abs().amax(1, keepdim=True))  # squares stay in range
            z = z - z.mean(1, keepdim=True)
            z = z / torch.where(constant, 1.0, z.square().mean(1, keepdim=True).sqrt())
            inside = z * (2 * torch.special.ndtr(z) - middles / n) + 2 * _density(z) - ends[:-1] - ends[1:]
            cells = torch.where((low < z) & (z < high), inside, (z / n - means).abs())
            return torch.where(constant[:, 0], 0.0, cells.sum(1))

        return self._blocks(work, y)

    def histogram(self, y: "Tensor", edges: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
        """Sort each neuron, find the edges among its outputs, sum run by run."""
        torch, n, bins = self.torch, len(y), edges.shape[1] - 1

        def work(rows: "Tensor", edges: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
            rows = rows.sort(dim=1).values.double()
            place = torch.searchsorted(rows, edges, right=True)  # how many outputs are <= the edge
            counts = torch.diff(place, dim=1, prepend=place[:, :1] * 0, append=place[:, :1] * 0 + n)
            left = torch.cat([edges[:, :1], edges], dim=1)
            lengths = counts.flatten()
            heights = rows.flatten() - left.flatten().repeat_interleave(lengths, output_size=rows.numel())
            sums = torch.segment_reduce(heights, "sum", lengths=lengths, initial=0.0, unsafe=True)
            t = (rows - edges[:, (bins + 1) // 2, None]) / (edges[:, -1:] - edges[:, :1])
            powers = torch.stack([t.sum(1), (t**2).sum(1), (t**3).sum(1), (t**4).sum(1)], dim=1)
            return counts, sums.reshape(counts.shape), powers

        return self._blocks(work, y, edges)

    def distance_bounds(
        self, edges: "Tensor", counts: "Tensor", sums: "Tensor", powers: "Tensor"
    ) -> tuple["Tensor", "Tensor"]:
        """Follow `wncore.streaming.distance_bounds` line by line; that module explains it."""
        torch, real = self.torch, self.torch.finfo(self.torch.float64)
        n, bins = counts.sum(1, keepdim=True), edges.shape[1] - 1
        centre, unit = edges[:, (bins + 1) // 2, None], edges[:, -1:] - edges[:, :1]
        first, second = powers[:, :1] / n, powers[:, 1:2] / n
        variance = second - first**2
        known = variance > 4 * real.eps * n * second
        variance = torch.where(known, variance, 1.0)
        std = unit * variance.sqrt()
        z, heights = ((edges - centre) - unit * first) / std, sums / (n * std)

        f = counts[:, :-1].cumsum(1).double() / n  # sums of integers are exact on every device
        g, g_integral, h = torch.special.ndtr(z), _cdf_integral(torch, z), z.diff(dim=1)
        a, b, c, d = f[:, :-1], f[:, 1:], g[:, :-1], g[:, 1:]
        gap = (b * h - heights[:, 1:-1] - g_integral.diff(dim=1)).abs()

        rise = (d - c).clamp(min=real.tiny)
        alpha, beta = (c - a).clamp(min=0), (b - d).clamp(min=0)
        s = h * (beta + rise / 2) / (alpha + beta + rise)
        cross = alpha * s + rise * s**2 / (2 * h).clamp(min=real.tiny)
        cross = torch.where(b < d, torch.minimum(cross, (b - c) ** 2 * h / (2 * rise)), cross)
        cross = torch.where(a > c, torch.minimum(cross, (d - a) ** 2 * h / (2 * rise)), cross)
        cross = torch.minimum(cross + h**3 / 12 * 0.25, torch.minimum(b - c, d - a) * h)
        open_area = torch.where((b <= c) | (d <= a), 0.0, 2 * cross)

        tails = torch.stack([-heights[:, 0], heights[:, -1]])
        gauss = torch.stack([g_integral[:, 0], _cdf_integral(torch, -z[:, -1])])
        low = gap.sum(1) + (tails - gauss).abs().sum(0)
        high = (gap + open_area).sum(1) + (tails + gauss).sum(0)
        reach = 1 + z.abs().amax(1) + (second / variance)[:, 0]
        rounding = 4 * real.eps * (n[:, 0] + bins) * reach
        low, high = (low - rounding).clamp(min=0), (high + rounding).clamp(max=math.sqrt(2))
        unknown = (second[:, 0] > 0).double() * math.sqrt(2)
        return torch.where(known[:, 0], low, 0.0), torch.where(known[:, 0], high, unknown)

    def mapping_difficulty(self, x: "Tensor", y: "Tensor", left: "Tensor", right: "Tensor") -> "Tensor":
        """Take medians from sorted differences: torch.median is the lower of two middles."""
        torch, pairs = self.torch, len(left)
        if pairs < 2:
            return torch.zeros(y.shape[1], dtype=torch.float64, device=y.device)
        dx = torch.linalg.vector_norm(x[left] - x[right], dim=1, dtype=torch.float64)
        closeness = dx.max() / dx

        def work(rows: "Tensor") -> "Tensor":
            dy = (rows[:, left] - rows[:, right]).abs().double()
            order = dy.sort(dim=1).values
            median = (order[:, (pairs - 1) // 2] + order[:, pairs // 2]) / 2
            defined = median > 0
            return torch.where(defined, (dy * closeness).mean(1) / torch.where(defined, median, 1.0), 0.0)

        return self._blocks(work, y)

    def routed_linear(self, x: "Tensor", weights: "Tensor", bias: "Tensor | None", labels: "Tensor") -> "Tensor":
        """Sort the tokens by expert: one product for each."""
        torch = self.torch
        with _full_precision(torch):
            if len(weights) == 1:
                out = x @ weights[0].T
            else:
                order = labels.argsort(stable=True)
                sizes = labels.bincount(minlength=len(weights)).tolist()
                parts = [part @ weight.T for part, weight in zip(x[order].split(sizes), weights, strict=True)]
                out = x.new_empty(len(x), weights.shape[1])
                out[order] = torch.cat(parts)
        return out if bias is None else out + bias

    def gram(self, x: "Tensor", labels: "Tensor", k: int) -> tuple["Tensor", "Tensor", "Tensor"]:
        """Sum the products of a thousand tokens in the input's dtype, all else in float64."""
        torch, d = self.torch, x.shape[1]
        grams, sums = (torch.zeros(k, *shape, dtype=torch.float64, device=x.device) for shape in ((d, d), (d,)))
        counts = labels.bincount(minlength=k)
        clusters: list[Any] = [x.split(CHUNK)]  # one expert copies nothing
        if k > 1:
            order = labels.argsort(stable=True).split(counts.tolist())
            clusters = [(x[tokens] for tokens in cluster.split(CHUNK)) for cluster in order]
        with _full_precision(torch):
            for c, chunks in enumerate(clusters):
                for chunk in chunks:
                    grams[c] += chunk.T @ chunk
                    sums[c] += chunk.sum(0, dtype=torch.float64)
        return grams, sums, counts

    def lloyd(self, x: "Tensor", centroids: "Tensor") -> tuple["Tensor", "Tensor", "Tensor", "Tensor"]:
        """Compare ||c||^2 - 2 x'c, seen from amid the centroids; sum by products with a row of 0 and 1 a cluster."""
        torch, (k, r) = self.torch, centroids.shape
        middle = centroids.sort(dim=0).values[k // 2]
        offsets, wide, clusters = centroids - middle, centroids.double(), torch.arange(k, device=x.device)[:, None]
        norms, labels = offsets.double().square().sum(1).to(x.dtype), torch.empty_like(x[:, 0], dtype=torch.int64)
        sums, counts, inertia = torch.zeros_like(wide), torch.zeros_like(clusters[:, 0]), torch.zeros_like(wide[:, 0])
        with _full_precision(torch):
            for part, nearest in zip(*(array.split(max(1, BLOCK // max(k, r))) for array in (x, labels)), strict=True):
                nearest[:] = torch.addmm(norms, part - middle, offsets.T, alpha=-2).argmin(dim=1)
                mine, points = nearest == clusters, part.double()
                sums += mine.double() @ points
                counts += mine.sum(1)
                inertia += mine.double() @ (points - wide[nearest]).square().sum(1)
        return labels, sums, counts, inertia

    def prune(self, w: "Tensor", h: "Tensor", spec: "PruneSpec") -> tuple["Tensor", "Tensor", "Tensor"]:
        """Factorise in float64; `wncore_torch.pruning` says why."""
        from wncore_torch.pruning import prune

        with _full_precision(self.torch):
            return prune(w, h, spec)

    def resolve(self, w: "Tensor", h: "Tensor", mask: "Tensor") -> "Tensor":
        """Solve the systems of many rows at once, in float64."""
        from wncore_torch.pruning import resolve

        with _full_precision(self.torch):
            return resolve(w, h, mask)

    def _blocks(self, work: Callable[..., Any], y: "Tensor", *others: "Tensor") -> Any:
        """Do `work` on blocks of neurons, the outputs (n, m) transposed to rows, and join its answers."""
        width = max(1, BLOCK // len(y))
        done = []
        for first in range(0, max(1, y.shape[1]), width):
            rows = y[:, first : first + width].T.contiguous()
            done.append(work(rows, *(other[first : first + width] for other in others)))
        if isinstance(done[0], tuple):
            return tuple(self.torch.cat(answers) for answers in zip(*done, strict=True))
        return self.torch.cat(done)


def _density(t: "Tensor") -> "Tensor":
    return (-0.5 * t * t).exp() / math.sqrt(2 * math.pi)


def _cdf_integral(torch: Any, t: "Tensor") -> "Tensor":
    return t * torch.special.ndtr(t) + _density(t)


@contextmanager
def _full_precision(torch: Any) -> Iterator[None]:
    """Keep TF32 and bfloat16 out of float32 products, whatever the program around has allowed."""
    products, name, full = [torch.backends.cuda.matmul], "allow_tf32", False
    if hasattr(products[0], "fp32_precision"):  # since torch 2.9
        products, name, full = [*products, torch.backends.mkldnn.matmul], "fp32_precision", "ieee"
    before = [getattr(product, name) for product in products]
    try:
        for product in products:
            setattr(product, name, full)
        yield
    finally:
        for product, held in zip(products, before, strict=True):
            setattr(product, name, held)
