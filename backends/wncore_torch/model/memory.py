"""What the system says of memory: the peak of a run on host and device, and that there is none left."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from wncore.errors import MemoryBudgetError
from wncore.resources import Memory, forget_highest, highest, resident

NONE_LEFT = "can't allocate memory", "not enough memory"
"""How torch's allocators on the host say it."""


def begin_measuring(device: torch.device) -> Memory:
    """Let peaks begin anew; returns what is in use.

    A few operations are run before, so that what libraries take once is part of these, and not of the work.
    """
    x = torch.ones(1, 1, 64, 64, device=device)
    cross_entropy(scaled_dot_product_attention(x, x, x)[0, 0] @ x[0, 0], torch.zeros(64, dtype=torch.int64).to(device))
    del x
    forget_highest()
    if device.type != "cuda":
        return Memory(resident())
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return Memory(resident(), torch.cuda.memory_allocated(device))  # cuBLAS has its workspace there


def peak(device: torch.device) -> Memory:
    """Return the most that was in use since; on a device, what torch had allocated."""
    return Memory(highest(), torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0)


def room(device: torch.device) -> int | None:
    """Return the bytes that are free on a CUDA device, those that torch keeps among them; None for any other."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


@contextmanager
def saying_what_to_change(predicted: Memory) -> Iterator[None]:
    """Turn it into an error that names options when memory does not suffice within the block."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
        on_device = isinstance(error, torch.cuda.OutOfMemoryError)
        if not (on_device or isinstance(error, MemoryError) or any(text in str(error) for text in NONE_LEFT)):
            raise
        where, size = ("device", predicted.device) if on_device else ("host", predicted.host)
        raise MemoryBudgetError(
            f"the {where} is out of memory, and {size / 2**20:.0f} MiB were foretold; give a smaller --batch, --length "
            f"or --windows, or a narrower --dtype"
        ) from error
