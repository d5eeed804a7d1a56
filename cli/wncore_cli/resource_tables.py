"""The memory and disk that work on a model takes, foretold and measured: as lines, and as a document."""

from typing import TYPE_CHECKING, Any

from wncore.resources import size
from wncore_cli.tables import table

if TYPE_CHECKING:
    from wncore.resources import Memory
    from wncore.sources import Work


def resources_document(work: "Work[Any, Any]", measured: "Memory | None", disk: int = 0) -> dict[str, Any]:
    """Return bytes; null are those of a device that the host is, and what was not measured."""
    found: dict[str, Any] = {"disk": disk, "device": work.device}
    for name, memory in (("at_start", work.base), ("predicted", work.predicted), ("measured", measured)):
        found[name] = None if memory is None else {"host": memory.host, "device": _of_device(work, memory)}
    return {"resources": found}


def _of_device(work: "Work[Any, Any]", memory: "Memory") -> int | None:
    return None if work.device == "cpu" else memory.device


def resources_table(work: "Work[Any, Any]", measured: "Memory | None", disk: int = 0) -> str:
    """Show what is foretold, beside what was measured; before a run also the disk."""
    columns = {"at the start": work.base, "predicted": work.predicted}
    if measured is not None:
        columns["measured"] = measured
    rows = [["host", *(size(memory.host) for memory in columns.values())]]
    if work.device != "cpu":
        rows.append([work.device, *(size(memory.device) for memory in columns.values())])
    text = table(["peak memory", *columns], rows)
    return f"{text}\ndisk: {size(disk)}" if measured is None else text
