"""What the options of ``wncore expand`` ask for: a specification, and the files it is written to."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wncore_cli import pruning_options

if TYPE_CHECKING:
    from wncore.experts.expansion import ExpandSpec


def read_spec(
    chosen: dict[str, Any],
    experts: tuple[int, ...],
    patterns: tuple,
    by_neuron: Path | None,
    plot: Path | None,
    packed: bool,
    output: Path | None,
) -> "ExpandSpec":
    """Build the specification from the options that were given; refuse those that do not go together."""
    from wncore.experts.expansion import PRIOR, ExpandSpec
    from wncore.experts.fitting import ClusterSpec

    prune = pruning_options.read_spec(chosen, patterns, by_neuron, plot)

    def given(name: str) -> bool:
        source = click.get_current_context().get_parameter_source(name.replace("-", "_"))
        return source is ParameterSource.COMMANDLINE

    for idle, what in (
        (packed and not output, "--packed has no effect without -o"),
        (given("pairs") and not chosen["wasserstein"], "--pairs has no effect with --no-wasserstein"),
        (experts == (0,) and len(patterns) > 1, "--experts auto finds one number, and there are several sparsities"),
        (experts == (1,) and chosen["controls"], "--controls has no effect on one expert"),
    ):
        if idle:
            raise click.UsageError(f"{what}; leave one of the two out")
    clusters = ClusterSpec(
        components=chosen["components"],
        restarts=chosen["restarts"],
        seed=chosen["seed"],
        balanced=chosen["balanced"],
        least_tokens=chosen["min_tokens"],
    )
    prior = chosen["prior"]
    if prior is None:
        prior = 0.0 if chosen["published"] else PRIOR
    return ExpandSpec(experts, prune, clusters, prior, chosen["ridge"], chosen["controls"])


def name_files(output: Path | None, spec: "ExpandSpec") -> list[Path]:
    """Name a file for each run that is no control."""
    from wncore.files import sweep_paths

    if output is None:
        return []
    numbers, patterns = [str(k) for k in spec.experts], [str(pattern) for pattern in spec.prune.patterns]
    parts = [[k] * (len(numbers) > 1) + [each] * (len(patterns) > 1) for k in numbers for each in patterns]
    return sweep_paths(output, ["-".join(part) for part in parts])
