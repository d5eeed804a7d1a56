"""Memory that work takes at its peak: foretold by whoever does it, measured by the operating system."""

import ctypes
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers of the options."""
LARGE, LARGER = 2**20, 2**24
"""Bytes of an array that goes back at once: of those of a forward, and where statistics make many small ones."""


@dataclass(frozen=True)
class Memory:
    """Bytes that are held at once, on the host and on the device; 0 there where the host does the work."""

    host: int = 0
    device: int = 0

    def __add__(self, other: "Memory") -> "Memory":
        """Hold both at once."""
        return Memory(self.host + other.host, self.device + other.device)

    def __or__(self, other: "Memory") -> "Memory":
        """Hold one after the other: the larger of each.

        >>> Memory(3, 1) + Memory(1, 1) | Memory(2, 5)
        Memory(host=4, device=5)
        """
        return Memory(max(self.host, other.host), max(self.device, other.device))


def size(count: int) -> str:
    """Write a number of bytes, for people.

    >>> size(0), size(5 * 2**10), size(3 * 2**20), size(5 * 2**30)
    ('0 MiB', '5 KiB', '3 MiB', '5.00 GiB')
    """
    if 0 < count < 2**20:
        return f"{count / 2**10:.0f} KiB"
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def give_back_at_once(large: int = LARGE) -> None:
    """Let arrays from `large` bytes on go back to the system when freed, where its allocator can be told so.

    By itself glibc keeps freed arrays of up to 32 MiB in a heap with holes, and peaks were up to 75 % over what was in
    use. New pages cost small models 15 to 40 % of their time; so smaller arrays are kept, up to eight large ones.
    """
    with suppress(AttributeError, OSError, TypeError):  # another system, another allocator
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, large)
        library.mallopt(M_TRIM_THRESHOLD, 8 * large)


def give_back() -> None:
    """Return to the system what was freed, and lies in holes of a heap, where its allocator can be asked to.

    Without it the heap of a model of 60 blocks of 64 MiB grew by 16 to 40 MiB with each block.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Return the bytes that this process has in memory, pages of mapped files among them."""
    return _status("VmRSS") or highest()


def forget_highest() -> None:
    """Let `highest` begin anew, where Linux allows it; elsewhere it is that of the whole process."""
    with suppress(OSError):
        FORGET.write_text("5")


def highest() -> int:
    """Return the most bytes that this process had in memory at once."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _status(name: str) -> int:
    """Return a line of the process' status in bytes; 0 where there is none, as on macOS."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)
