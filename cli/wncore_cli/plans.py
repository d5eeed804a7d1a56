"""What a run on a model would do, and what it covered: for ``--dry-run``, and beneath the results."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from wncore_cli import echo

if TYPE_CHECKING:
    from wncore.effort import Step
    from wncore_cli.reading import Reading


def extent(layers: Collection[Any], described: dict[str, Any]) -> str:
    """Say how much of the model these layers are, and on what text."""
    order = f", {described['calibration_order']} order" if "calibration_order" in described else ""
    return (
        f"{len(layers)} layers, {described['coverage']:.1%} of the parameters of the model's blocks, on "
        f"{described['windows']} windows of {described['length']} tokens{order}, forward in {described['dtype']}"
    )


def show_plan(
    verb: str, reading: "Reading", described: dict[str, Any], effort: "Sequence[Step]", as_json: bool, disk: int = 0
) -> int:
    """Print what would be done, and what it would take; returns the exit code."""
    from wncore.results import to_json
    from wncore_cli.resource_tables import resources_document, resources_table

    if as_json:
        plan = {"schema": f"wncore.{verb}/1", "source": reading.source, "dry_run": True, **described}
        echo(to_json(plan | {"layers": reading.names} | resources_document(reading.model, None, disk, effort)))
    else:
        table = resources_table(reading.model, None, disk, effort)
        echo(f"would {verb} {extent(reading.names, described)}\n\n{table}")
    return 0
