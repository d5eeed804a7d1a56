"""What is written down of a run: the largest share of the budget used, what was left out, and on what it ran."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import entry_points, packages_distributions, version
from math import isfinite
from typing import Any

from wncore.backend import GROUP, arrays_of
from wncore.testing.contracts import CONTRACTS

SCHEMA = "wncore.certificate/1"


@dataclass
class Ledger:
    """What the tests note while they run."""

    used: dict[str, dict[str, float]] = field(default_factory=dict)
    """operation -> dtype of the arguments -> largest share of the budget."""
    unsupported: dict[str, str] = field(default_factory=dict)
    """operation -> the reason that the backend gave."""
    failed: list[str] = field(default_factory=list)
    deselected: int = 0

    def note(self, operation: str, dtype: str, used: float) -> None:
        """Keep the largest share."""
        shares = self.used.setdefault(operation, {})
        shares[dtype] = max(shares.get(dtype, 0.0), used)

    def add(self, other: "Ledger") -> None:
        """Take over what tests in another process noted."""
        for operation, shares in other.used.items():
            for dtype, used in shares.items():
                self.note(operation, dtype, used)
        self.unsupported.update(other.unsupported)
        self.failed += other.failed
        self.deselected = max(self.deselected, other.deselected)  # each process leaves out the same tests

    def complete(self) -> bool:
        """Say whether every test ran and every operation was judged or declared unsupported, not all of them."""
        seen = {*self.used, *self.unsupported}
        return bool(self.used) and not self.deselected and seen == {contract.operation for contract in CONTRACTS}


def facts(name: str, backend: Any) -> dict[str, Any]:
    """Say what a backend is and on what it ran."""
    kind = type(backend)
    return {
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "package": package_of(name, kind.__module__),
        "device": getattr(backend, "device_name", str(getattr(backend, "device", "cpu"))),
        "arrays": arrays_of(backend),
        "dtypes": list(backend.dtypes),
        "versions": {
            "wncore": version("wncore"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            **getattr(backend, "versions", {}),
        },
        "operations": dict(getattr(backend, "operations", {})),
    }


def certificate(
    name: str, found: Mapping[str, Any], options: Mapping[str, Any], examples: int, ledger: Ledger, passed: bool
) -> dict[str, Any]:
    """Return the document, with the `facts` found: strings, numbers, null for a share that is not finite."""
    return {
        "schema": SCHEMA,
        "backend": name,
        "options": dict(options),
        **found,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "examples": examples,
        "passed": passed and ledger.complete(),
        "complete": ledger.complete(),
        "failed": ledger.failed,
        "unsupported": ledger.unsupported,
        "budget_used": {
            operation: {dtype: share if isfinite(share) else None for dtype, share in shares.items()}
            for operation, shares in ledger.used.items()
        },
    }


def package_of(name: str, module: str) -> str | None:
    """Name the distribution and version that declares a backend, or that holds its module; None if none does."""
    for point in entry_points(group=GROUP, name=name):
        if point.dist and point.module == module:
            return f"{point.dist.name} {point.dist.version}"
    found = packages_distributions().get(module.partition(".")[0], [])
    return f"{found[0]} {version(found[0])}" if found else None
