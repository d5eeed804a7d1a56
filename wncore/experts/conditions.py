"""On what experts were computed: all that may change the last bit of a number."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from wncore.backend import Backend, arrays_of
from wncore.layers.pieces import ORDER


def conditions(backend: Backend, memory: int) -> dict[str, Any]:
    """Return what a document on experts records of its run; memory changes no bit, but is what `verify` will need."""
    device = getattr(backend, "device", None)
    return {
        "version": version("wncore"),
        "backend": backend.name,
        "device": None if device is None else str(device),
        "threads": getattr(backend, "threads", None),
        "memory": memory,
        "order": ORDER,
        "environment": environment(backend),
    }


def environment(backend: Backend) -> dict[str, Any]:
    """Return the versions of what computes, and the processor."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "numba")},
        "arrays": arrays_of(backend),
        "pool_threads": max((pool["num_threads"] for pool in threadpool_info()), default=1),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "accelerator": getattr(backend, "device_name", None),
    }


def differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in which conditions two runs differ: "numpy 2.0.1, not 1.26.4"."""
    flat = [{**(run.get("environment") or {}), **run} for run in (now, recorded)]
    keys = sorted((now.keys() | now["environment"].keys()) - {"environment", "memory"})
    return [f"{key} {flat[0].get(key)}, not {flat[1].get(key)}" for key in keys if flat[0].get(key) != flat[1].get(key)]


def _processor() -> str:
    """Name the model of the processor, which decides what kernels BLAS picks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor()
