"""Options of the commands that prune: what is asked for, by which method, and which of them go together."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wncore_cli import options

if TYPE_CHECKING:
    from wncore.pruning.methods import PruneSpec

PUBLISHED = {"method": "sparsegpt", "group": "block", "damping": "published", "resolve": False}
"""The program of arXiv:2301.00774, but for its counts: it prunes one weight more in each block, and more at ties."""

HOW = {"method", "group", "damping", "resolve", "bits", "bits_group", "iterations", "published", "ridge"}
HOW |= {"wasserstein", "ranks"}
"""Options that say how a layer is pruned; others say what is read, and by whom."""

HOLDOUT = click.option(
    "--holdout",
    default=0.1,
    show_default=True,
    type=options.Number(0, 1, max_open=True),
    help="Share of the tokens, the last ones, that only judge.",
)


def pruning(command: Callable) -> Callable:
    """Add the options that say how to prune."""
    for option in reversed(
        [
            click.option(
                "--sparsity",
                default="0.5",
                show_default=True,
                type=options.Patterns(),
                help="Share of zeros, or N:M: N of every M inputs are kept. A list (0.5,2:4) gives a file for each.",
            ),
            click.option(
                "--by-neuron",
                type=options.SOURCE,
                metavar="FILE",
                help="In place of --sparsity: a safetensors file with {layer}.sparsity, a share for each neuron.",
            ),
            click.option(
                "--method",
                type=click.Choice(["admm", "sparsegpt", "obs", "wanda", "magnitude"]),
                help="[default: admm, which has the lowest error]  obs takes d^3 steps a neuron.",
            ),
            click.option(
                "--group",
                type=click.Choice(["layer", "row", "block", "row-block"]),
                help="Where weights are compared. [default: layer; wanda row; sparsegpt block]",
            ),
            click.option(
                "--resolve/--no-resolve",
                default=None,
                help="Move the kept weights to the least-squares optimum. [default: yes]",
            ),
            click.option(
                "--bits", type=click.IntRange(2, 8), help="Round kept weights to 2^bits levels in the same sweep."
            ),
            click.option(
                "--bits-group", type=click.IntRange(1), help="Inputs that share a grid. [default: the whole row]"
            ),
            click.option(
                "--damping",
                type=click.Choice(["unit-diagonal", "published"]),
                help="Ridge on each input's own scale, or on the mean of all. [default: unit-diagonal]",
            ),
            click.option(
                "--ridge", type=options.Number(0), help="[default: inputs / tokens, from 0.01 to 1; published 0.01]"
            ),
            click.option(
                "--published", is_flag=True, help="SparseGPT as published: method, groups, damping, no re-solve."
            ),
            click.option("--iterations", type=click.IntRange(2), help="Of admm. [default: 60]"),
        ]
    ):
        command = option(command)
    return command


def read_spec(chosen: dict[str, Any], patterns: tuple, by_neuron: Path | None, plot: Path | None) -> "PruneSpec":
    """Build the specification from the options that were given; refuse those that do not go together."""
    from wncore.pruning.methods import PruneSpec

    _refuse_idle(chosen, patterns, by_neuron, plot)
    if by_neuron and click.get_current_context().get_parameter_source("sparsity") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--by-neuron takes the place of --sparsity; leave one of the two out")
    return PruneSpec(patterns, **_method(chosen))


def specs_of(neurons: Mapping[str, int], spec: "PruneSpec", by_neuron: Path | None) -> dict[str, "PruneSpec"]:
    """Give each layer its specification, by name: its own sparsities from a file, if there is one."""
    return {name: _by_neuron(by_neuron, name, m, spec) if by_neuron else spec for name, m in neurons.items()}


def check_files(files: list[Path], sources: list[Path], force: bool) -> None:
    """Raise before any work for files that cannot be written: no .safetensors, or read themselves."""
    from wncore.errors import InputError
    from wncore.files import check_output

    read = {path.resolve() for path in sources}
    for path in files:
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: weights are written as .safetensors; name such a file")
        if path.resolve() in read:
            raise InputError(f"{path} is read itself; write the result to another file")
        check_output(path, force)


def _refuse_idle(chosen: dict[str, Any], patterns: tuple, by_neuron: Path | None, plot: Path | None) -> None:
    """Raise for options that would have no effect: whoever gave them expects one."""
    from wncore.pruning.patterns import SemiStructured

    method = "sparsegpt" if chosen["published"] else chosen["method"] or "admm"
    only_nm = not by_neuron and all(isinstance(pattern, SemiStructured) for pattern in patterns)
    for idle, what in (
        (chosen["bits_group"] and not chosen["bits"], "--bits-group has no effect without --bits"),
        (chosen["iterations"] and method != "admm", f"--iterations has no effect on {method}, it is for admm"),
        (method == "obs" and chosen["resolve"] is False, "--no-resolve has no effect on obs, which ends re-solved"),
        (chosen["group"] and only_nm, "--group has no effect on N:M, which compares M inputs of a neuron"),
        (plot and chosen["wasserstein"] is False, "--plot shows distances, and --no-wasserstein leaves them out"),
        (chosen["published"] and by_neuron, "--published compares neurons with each other, --by-neuron does not"),
    ):
        if idle:
            raise click.UsageError(f"{what}; leave one of the two out")


def _method(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return what the specification needs, of the options that were given."""
    given = {key: chosen[key] for key in ("method", "group", "damping", "resolve", "bits", "bits_group", "iterations")}
    given = {key: value for key, value in given.items() if value is not None}
    if chosen["published"]:
        clash = sorted((given.keys() & PUBLISHED.keys()) | ({"ridge"} if chosen["ridge"] is not None else set()))
        if clash:
            raise click.UsageError(f"--published sets --{', --'.join(clash)} itself; leave one of the two out")
        return given | PUBLISHED
    if "bits" in given:
        if given.get("resolve"):
            raise click.UsageError("--resolve would move weights off the grid of --bits; leave one of the two out")
        given["resolve"] = False
    return given


def _by_neuron(path: Path, name: str, m: int, spec: "PruneSpec") -> "PruneSpec":
    """Read a layer's sparsities; neurons that have one each are not compared with each other."""
    from wncore.dumps.columns import read_column
    from wncore.pruning.patterns import Unstructured

    shares = read_column(path, name, "sparsity", m)
    return replace(spec, patterns=(Unstructured(tuple(shares.tolist())),), group=spec.group or "row")
