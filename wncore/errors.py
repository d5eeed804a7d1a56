"""Every exception that wncore raises on purpose.

* WncoreError
  x ShapeError             (also a ValueError)
  x InputError             (also a ValueError)
    - DumpError
    - NonFiniteError
    - TooFewTokensError
  x MemoryBudgetError      (also a MemoryError)
  x OutputExistsError      (also a FileExistsError)
  x WriteError
  x BackendError
    - BackendNotFound      (also a LookupError)
    - BackendUnavailable   (also an ImportError)
    - BackendAmbiguous

A message has three parts: what is wrong, what there is, what to type or do.
"""

from collections.abc import Sequence


class WncoreError(Exception):
    """Base of every exception that wncore raises on purpose."""


class ShapeError(WncoreError, ValueError):
    """An array has the wrong shape or dtype."""


class InputError(WncoreError, ValueError):
    """What was handed in cannot be used: an option's value, a file, its contents."""


class DumpError(InputError):
    """A dump is damaged, or does not hold what the command needs."""


class NonFiniteError(InputError):
    """A tensor holds NaN or infinity."""


class TooFewTokensError(InputError):
    """A layer is empty, or fewer than 2 of its tokens count: an expert of a mixture that no token was sent to."""


class MemoryBudgetError(WncoreError, MemoryError):
    """The work does not fit into the memory that was allowed."""


class OutputExistsError(WncoreError, FileExistsError):
    """The file to be written is there already."""


class WriteError(WncoreError):
    """Something could not be written: the disk is full, say."""


class BackendError(WncoreError):
    """A backend cannot be used."""


class BackendNotFound(BackendError, LookupError):
    """No installed distribution registers that name."""


class BackendUnavailable(BackendError, ImportError):
    """The backend is registered, but what it needs is not installed."""


class BackendAmbiguous(BackendError):
    """Two distributions register one name."""


def listed(names: Sequence[str], most: int = 10) -> str:
    """List names for a message.

    >>> listed(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
