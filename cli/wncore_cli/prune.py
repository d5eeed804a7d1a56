"""``wncore prune``: sparse weights from a dump or a model, and the report on them."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import model_options, options, printable, pruning_options
from wncore_cli.reading import Reading, open_reading

if TYPE_CHECKING:
    from wncore.pruning.methods import PruneSpec

SEED = 0
"""Of the places of a model's windows."""


@dataclass(frozen=True)
class Job:
    """What is pruned, how, and what becomes of it."""

    reading: Reading
    specs: "dict[str, PruneSpec]"
    """Of each layer, by name."""
    settings: dict[str, Any]
    """What the document says of all layers."""
    output: Path | None
    force: bool
    as_json: bool
    top: int
    plot: Path | None
    ridge: float | None
    wasserstein: bool | None
    ranks: bool | None
    strict: bool
    memory: int
    read: list[Path]
    """Files that no result may replace."""
    quiet: bool


@click.command(short_help="Prune the layers of a dump or a model.")
@click.argument("sources", nargs=-1, required=True, type=options.SOURCE)
@click.option(
    "-o", "--output", type=options.SOURCE, help="Write the weights to this .safetensors file; of a model, a folder."
)
@options.FORCE
@options.JSON
@pruning_options.pruning
@options.LAYERS
@pruning_options.HOLDOUT
@click.option(
    "--wasserstein/--no-wasserstein",
    default=None,
    help="Score each neuron's outputs before and after.  [default: yes for dumps, no for models]",
)
@click.option(
    "--ranks/--no-ranks",
    default=None,
    help="Report rank and condition, an eigenproblem for each input.  [default: yes for dumps, no for models]",
)
@click.option("--top", default=5, show_default=True, type=click.IntRange(0), help="Neurons to list.")
@click.option("--plot", type=options.SOURCE, metavar="DIR", help="Draw errors and outputs into this folder.")
@click.option(
    "--strict", is_flag=True, help="What is a warning otherwise is an error: rank, dead inputs, idle experts."
)
@options.SKIP_TOKENS
@options.LENGTH
@model_options.PRUNING
@model_options.BESIDE_DUMPS
@options.common
def prune(
    sources: tuple[Path, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
    sparsity: tuple,
    by_neuron: Path | None,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    top: int,
    plot: Path | None,
    strict: bool,
    quiet: bool,
    **chosen: Any,
) -> int:
    """Prune linear layers by the inputs that they read: those of a dump, or of a model that reads --text.

    SOURCES are safetensors dumps, as for score. The error is that of the layer's outputs, ||(W'-W)X||^2 / ||WX||^2,
    on the tokens that pruning saw and on those held out.

    Or one folder of a Hugging Face model: then --layer and --exclude also take mlp, the default, attention and all, and
    the result is a folder that is its copy but for the weights that were pruned. Errors are of the kind of text that
    calibrated; --evaluate judges by another.

    \b
    wncore prune acts.safetensors -o pruned.safetensors --sparsity 0.5
    wncore prune acts.safetensors --sparsity 0.5,0.6,0.7,0.8
    wncore prune dump/ --layer '*.up_proj' --sparsity 2:4 --published
    wncore prune model/ --text text.txt -o pruned/ --evaluate other.txt
    """  # noqa: D301
    from wncore_cli import prune_dumps, prune_models

    spec = pruning_options.read_spec(chosen, sparsity, by_neuron, plot)
    given = {name: value for name, value in chosen.items() if name not in pruning_options.HOW}
    asked = {"layers": layers, "exclude": exclude, "quiet": quiet, "parts": ("input",)}
    asked |= {"default": ("mlp",), "default_seed": SEED}
    reading = open_reading(sources, "prunable", **asked, **given)
    settings = {"version": version("wncore"), "backend": reading.backend}
    settings |= {key: given[key] for key in ("holdout", "skip_tokens")}
    settings |= {"by_neuron": printable(str(by_neuron))} if by_neuron else {}
    job = Job(
        reading=reading,
        specs=pruning_options.specs_of(reading.neurons, spec, by_neuron),
        settings=settings,
        output=output,
        force=force,
        as_json=as_json,
        top=top,
        plot=plot,
        ridge=chosen["ridge"],
        wasserstein=chosen["wasserstein"],
        ranks=chosen["ranks"],
        strict=strict,
        memory=given["memory"],
        read=[by_neuron] if by_neuron else [],
        quiet=quiet,
    )
    return prune_models.prune(job, given) if reading.model else prune_dumps.prune(job)
