"""Devices by their names."""

import torch

from wncore.errors import InputError


def find_device(name: str | None) -> torch.device:
    """Return a device that works; the current CUDA device, else the CPU, unless one is named.

    Raises
    ------
    InputError
        If torch cannot use it.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InputError(f"torch cannot use the device {name!r}: {reason}; 'cpu' always works") from error
    return device
