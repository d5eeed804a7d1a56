"""Every exception that wncore raises on purpose.

* WncoreError
  x ShapeError             (also a ValueError)
  x InputError             (also a ValueError)
    - DumpError
    - NonFiniteError
  x MemoryBudgetError      (also a MemoryError)
  x OutputExistsError      (also a FileExistsError)
  x BackendError
    - BackendNotFound      (also a LookupError)
    - BackendUnavailable   (also an ImportError)
    - BackendAmbiguous

A message has three parts: what is wrong, what there is, what to type or do.
"""


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


class MemoryBudgetError(WncoreError, MemoryError):
    """The work does not fit into the memory that was allowed."""


class OutputExistsError(WncoreError, FileExistsError):
    """The file to be written is there already."""


class BackendError(WncoreError):
    """A backend cannot be used."""


class BackendNotFound(BackendError, LookupError):
    """No installed distribution registers that name."""


class BackendUnavailable(BackendError, ImportError):
    """The backend is registered, but what it needs is not installed."""


class BackendAmbiguous(BackendError):
    """Two distributions register one name."""
