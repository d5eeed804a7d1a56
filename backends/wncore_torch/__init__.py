"""The torch backend, for the CPU and CUDA devices; importing this module does not import torch."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from wncore.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from wncore.pruning.methods import PruneSpec

Kernels = Literal["fused", "plain"]


class TorchBackend:
    """Torch on one device (default: the current CUDA device, else the CPU).

    With `kernels` "fused", the default on CUDA, operations have kernels where those pay; with "plain" all are in plain
    torch. What runs each is in `operations`, and in the certificate. `tf32` lets float32 products round their factors
    to 11 bits, which no certificate allows.
    """

    name: ClassVar[str] = "torch"
    dtypes: ClassVar[tuple[str, ...]] = ("float64", "float32", "float16", "bfloat16")
    install_hint: ClassVar[str] = "pip install 'wncore[torch]'"

    def __init__(self, device: str | None = None, tf32: bool = False, kernels: Kernels | None = None) -> None:
        import torch

        from wncore_torch.devices import find_device
        from wncore_torch.plain import OPERATIONS

        self.torch = torch
        self.device = find_device(device)
        self.tf32 = tf32
        self._run = dict(OPERATIONS)
        self.operations = dict.fromkeys(OPERATIONS, "plain torch")
        if kernels not in (None, "fused", "plain"):
            raise InputError(f"kernels are 'fused' or 'plain'; got {kernels!r}")
        if (kernels or ("fused" if self.device.type == "cuda" else "plain")) == "fused":
            from wncore_torch.kernels import operations

            for operation, (run, how) in operations(self.device).items():
                self._run[operation], self.operations[operation] = run, how

    @property
    def device_name(self) -> str:
        """The device as a certificate names it: "cuda (NVIDIA H200)"."""
        if self.device.type != "cuda":
            return str(self.device)
        return f"{self.device} ({self.torch.cuda.get_device_name(self.device)})"

    @property
    def versions(self) -> dict[str, str]:
        """What a certificate names beside wncore's own versions: CUDA, its driver, Triton."""
        found = {"cuda": str(self.torch.version.cuda)} if self.device.type == "cuda" else {}
        driver = Path("/sys/module/nvidia/version")
        if found and driver.exists():
            found["driver"] = driver.read_text().strip()
        if "triton" in sys.modules:
            found["triton"] = sys.modules["triton"].__version__
        return found

    def working_memory(self, m: int, d: int, spec: "PruneSpec") -> int:
        """Return the bytes that pruning (m, d) holds beside matrices and weights.

        A step that is recorded, and, to re-solve, a block of rows' systems, gathered by an index, and their factors.
        """
        from wncore_torch.pruning.least_squares import BLOCK

        recorded = 4 * 4 * m * d if spec.method == "admm" and self.device.type == "cuda" else 0
        return recorded + (3 * 8 * min(max(BLOCK, d * d), m * d * d) if spec.resolved else 0)

    def asarray(self, x: Any, dtype: str) -> "Tensor":
        """Take an array, or a tensor, to the device; floats become `dtype`, integers int64."""
        torch = self.torch
        if not isinstance(x, torch.Tensor):
            array = np.asarray(x)
            if array.dtype.kind == "V":  # torch knows no ml_dtypes
                array = array.astype(np.float32)
            if not array.flags.writeable or any(step < 0 for step in array.strides):  # nor such arrays
                array = array.copy()
            x = torch.from_numpy(array)
        return x.to(self.device, getattr(torch, dtype) if x.is_floating_point() else torch.int64)

    def to_numpy(self, x: "Tensor") -> np.ndarray:
        """Copy to the host; on the CPU memory is shared, unless NumPy lacks the dtype."""
        host = x.detach().cpu()
        if host.dtype != self.torch.bfloat16:
            return host.numpy()
        import ml_dtypes

        return host.float().numpy().astype(ml_dtypes.bfloat16)

    def gaussian_distance(self, y: "Tensor") -> "Tensor":
        return self._run["gaussian_distance"](y)

    def choose_edges(self, y: "Tensor", bins: int) -> "Tensor":
        return self._run["choose_edges"](y, bins)

    def histogram(self, y: "Tensor", edges: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
        return self._run["histogram"](y, edges)

    def histogram_runs(
        self, y: "Tensor", edges: "Tensor", starts: "Tensor", factor: int
    ) -> tuple["Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor"]:
        return self._run["histogram_runs"](y, edges, starts, factor)

    def distance_bounds(
        self, edges: "Tensor", counts: "Tensor", sums: "Tensor", powers: "Tensor"
    ) -> tuple["Tensor", "Tensor"]:
        return self._run["distance_bounds"](edges, counts, sums, powers)

    def mapping_difficulty(self, x: "Tensor", y: "Tensor", left: "Tensor", right: "Tensor") -> "Tensor":
        return self._run["mapping_difficulty"](x, y, left, right)

    def routed_linear(self, x: "Tensor", weights: "Tensor", bias: "Tensor | None", labels: "Tensor") -> "Tensor":
        with self._products():
            return self._run["routed_linear"](x, weights, bias, labels)

    def linear_histogram(
        self, x: "Tensor", weights: "Tensor", bias: "Tensor | None", labels: "Tensor", edges: "Tensor"
    ) -> tuple["Tensor", "Tensor", "Tensor"]:
        with self._products():
            return self._run["linear_histogram"](x, weights, bias, labels, edges)

    def gram(self, x: "Tensor", labels: "Tensor", k: int) -> tuple["Tensor", "Tensor", "Tensor"]:
        with self._products():
            return self._run["gram"](x, labels, k)

    def lloyd(self, x: "Tensor", centroids: "Tensor") -> tuple["Tensor", "Tensor", "Tensor", "Tensor"]:
        return self._run["lloyd"](x, centroids)  # labels are never by TF32

    def prune(self, w: "Tensor", h: "Tensor", spec: "PruneSpec") -> tuple["Tensor", "Tensor", "Tensor"]:
        with self._products():
            return self._run["prune"](w, h, spec)

    def resolve(self, w: "Tensor", h: "Tensor", mask: "Tensor") -> "Tensor":
        with self._products():
            return self._run["resolve"](w, h, mask)

    def neuron_losses(self, w: "Tensor", h: "Tensor") -> "Tensor":
        return self._run["neuron_losses"](w, h)

    def _products(self) -> AbstractContextManager[None]:
        from wncore_torch.precision import full_precision

        return full_precision(self.tf32)
