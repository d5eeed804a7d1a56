"""The same step many times: on a GPU recorded once and replayed, as launching a step takes longer than running it."""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from threading import Lock

import torch

FEW = 4
"""As many steps are not worth recording."""


def repeat(step: Callable[[], None], times: int, device: torch.device) -> None:
    """Do a step so many times; it leaves what it finds in tensors that were there before, and asks the host nothing.

    Where memory does not suffice to record it, which takes as much again as running it, it is run step by step.
    """
    if device.type != "cuda" or times <= FEW:
        for _ in range(times):
            step()
        return
    step()  # compiles kernels, which cannot be recorded
    recorder = _recorder(torch.cuda.current_device() if device.index is None else device.index)
    with recorder.alone:
        try:
            again: Callable[[], object] = recorder.record(step).replay
        except torch.cuda.OutOfMemoryError:  # recording does nothing yet
            again = step
        for _ in range(times - 1):
            again()


@lru_cache(maxsize=16)
def _recorder(device: int) -> "_Recorder":
    return _Recorder(torch.device("cuda", device))


class _Recorder:
    """What recordings on a device share: a stream, and memory, which the next recording takes over from the last.

    So the last one is kept: memory that no recording holds is of no use to anybody until the device is full.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream, self._memory = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self._last: torch.cuda.CUDAGraph | None = None
        self.alone = Lock()
        """Held while a step is recorded and replayed."""

    def record(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record a step; the one before is lost."""
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
            try:
                step()
            except BaseException:
                with suppress(RuntimeError):  # the first error is the one that tells
                    graph.capture_end()
                raise
            graph.capture_end()
        here.wait_stream(self._stream)
        self._last = graph
        return graph
