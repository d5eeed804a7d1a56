"""CUDA C++ beside this file, compiled at first use by the compiler that torch brings along."""

from functools import lru_cache
from importlib.resources import files
from typing import Any

import torch

from wncore.errors import InputError

STORED = {
    torch.float64: ("double", "v"),
    torch.float32: ("float", "v"),
    torch.bfloat16: ("unsigned short", "__uint_as_float((unsigned)v << 16)"),
    torch.float16: ("unsigned short", "half_to_float(v)"),
}
"""How a number lies in memory, and how it is read."""
HEAD = """
typedef unsigned long long u64;
typedef long long i64;

__device__ float half_to_float(unsigned short v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
}
"""


def launch(
    name: str, dtype: torch.dtype, grid: tuple[int, int], threads: int, shared: int, args: list[Any], **defined: int
) -> None:
    """Run a kernel on the current device; integers are 32 bits wide.

    VALUE and READ(v) are defined for the dtype of what is read, beside the names given.

    Raises
    ------
    InputError
        If a number does not fit.
    """
    if any(isinstance(number, int) and number >= 2**31 for number in args):
        raise InputError(f"the {name} kernel counts up to 2^31; give the tokens in several parts")
    kernel = _compiled(name, dtype, torch.cuda.current_device(), tuple(defined.items()))
    kernel(grid=(*grid, 1), block=(threads, 1, 1), args=args, shared_mem=shared)


@lru_cache
def shared_memory(device: torch.device) -> int:
    """Return how many bytes of shared memory a block may have."""
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


@lru_cache
def processors(device: torch.device) -> int:
    """Return how many multiprocessors a device has."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@lru_cache(maxsize=256)
def _compiled(name: str, dtype: torch.dtype, device: int, defined: tuple[tuple[str, int], ...]) -> Any:
    """Compile for a device, which must be the current one, with leave to take all shared memory."""
    stored, read = STORED[dtype]
    chosen = {"VALUE": stored, "READ(v)": read, **dict(defined)}
    source = files("wncore_torch.kernels").joinpath(f"{name}.cu").read_text()
    head = "".join(f"#define {key} {value}\n" for key, value in chosen.items()) + HEAD
    kernel = torch.cuda._compile_kernel(head + source, name)  # pyright: ignore[reportAttributeAccessIssue]
    kernel.set_shared_memory_config(shared_memory(torch.device("cuda", device)))
    return kernel
