"""The memory and disk that work on a model takes, foretold and measured: as lines, and as a document."""

from typing import TYPE_CHECKING, Any

from wncore_cli.tables import table

if TYPE_CHECKING:
    from wncore.resources import Memory
    from wncore.sources import Work


def resources_document(work: "Work[Any, Any]", measured: "Memory | None", disk: int = 0) -> dict[str, Any]:
    """Return bytes; null are those of a device that the host is, and what was not measured."""
    found = {"disk": disk, "device": work.device, "base": work.base, "predicted": _bytes(work, work.predicted)}
    return {"resources": found | {"measured": None if measured is None else _bytes(work, measured)}}


def _bytes(work: "Work[Any, Any]", memory: "Memory") -> dict[str, int | None]:
    return {"host": memory.host, "device": None if work.device == "cpu" else memory.device}


def resources_table(work: "Work[Any, Any]", measured: "Memory | None", disk: int = 0) -> str:
    """Show what is foretold, beside what was measured; before a run also the disk."""
    head = ["peak memory", "at the start", "predicted", *(["measured"] if measured else [])]
    rows = [["host", size(work.base), size(work.predicted.host), *([size(measured.host)] if measured else [])]]
    if work.device != "cpu":
        rows.append([work.device, size(0), size(work.predicted.device), *([size(measured.device)] if measured else [])])
    text = table(head, rows)
    return text if measured else f"{text}\ndisk: {size(disk)}"


def size(count: int) -> str:
    """Write a number of bytes.

    >>> size(0), size(3 * 2**20), size(5 * 2**30)
    ('0 MiB', '3 MiB', '5.00 GiB')
    """
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
