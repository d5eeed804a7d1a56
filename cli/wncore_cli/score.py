"""``wncore score``: distances, errors and statistics of every neuron."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import options, printable
from wncore_cli.tables import number, table

if TYPE_CHECKING:
    from wncore.scoring import LayerScore


@click.command(short_help="Score the neurons of a dump.")
@click.argument("sources", nargs=-1, required=True, type=options.SOURCE)
@click.option(
    "-o", "--output", type=options.SOURCE, help="Write all neurons to a .parquet, .csv, .json or .safetensors file."
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document in place of tables.")
@click.option("--against", type=options.SOURCE, help="A second dump of the same layers: report each neuron's change.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(0), help="Neurons to list.")
@click.option("--layer", "layers", multiple=True, metavar="GLOB", help="Only layers that match; may be repeated.")
@click.option("--plot", type=options.SOURCE, metavar="DIR", help="Draw the scores into this folder.")
@click.option(
    "--estimator",
    type=click.Choice(["exact", "streaming", "sampled"]),
    default="exact",
    show_default=True,
    help="sampled: the paper's, against a Gaussian sample.",
)
@click.option("--streaming", is_flag=True, help="One pass, certified bounds: --estimator streaming.")
@click.option(
    "--pairs",
    default=50_000,
    show_default=True,
    type=click.IntRange(0),
    help="Pairs of tokens for the mapping difficulty; 0: none.",
)
@click.option(
    "--skip-tokens",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Leave out the first tokens of every sequence.",
)
@click.option("--length", type=click.IntRange(1), help="Tokens of a sequence, for dumps that do not say.")
@options.common
def score(
    sources: tuple[Path, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
    against: Path | None,
    top: int,
    layers: tuple[str, ...],
    plot: Path | None,
    estimator: str,
    streaming: bool,
    pairs: int,
    skip_tokens: int,
    length: int | None,
    backend: str,
    device: str | None,
    seed: int,
    memory: int,
    threads: int | None,
    quiet: bool,
) -> None:
    r"""Score every neuron by the Wasserstein distance of its outputs to a Gaussian.

    SOURCES are safetensors dumps: files, an index of shards, or folders of them, taken together as one dump.

    The distance (WD) is 0 for a Gaussian and at most 1.4142; a Gaussian neuron stays under the noise floor 19 times in
    20. MD, the mapping difficulty, needs the layer's inputs. Wasserstein neurons are the top 1 to 3 % of a layer.

    \b
    wncore score acts.safetensors
    wncore score dump/ --layer '*.up_proj' --top 20 -o scores.parquet
    wncore score dense.safetensors --against sparse.safetensors
    """
    from wncore.dumps import open_dump
    from wncore.results import check_target, score_document, to_json, write_scores

    estimator = "streaming" if streaming else estimator
    if output:
        check_target(output, force)
    dump = open_dump(*sources, length=length)
    chosen = _choose(dump, layers)
    pictures = _pictures(plot, [layer.name for layer in chosen], force)
    other = open_dump(against, length=length) if against else None
    rivals = _rivals(chosen, other) if other else {}
    engine = options.make_backend(backend, device, threads)
    settings = {"seed": seed, "skip_tokens": skip_tokens, "pairs": pairs, "estimator": estimator, "memory": memory}

    if not quiet:
        for note in [*dump.notes[:20], *_left_out(dump, layers, chosen)]:
            click.echo(f"note: {printable(note)}", err=True)
    scores = _run([*chosen, *rivals.values()], engine, settings, quiet)
    dense, sparse = scores[: len(chosen)], {score.name: score for score in scores[len(chosen) :]}
    described = {"version": _version(), "backend": backend, **{k: v for k, v in settings.items() if k != "memory"}}
    second = (str(against), sparse) if other else None
    document = score_document(dump.source, dense, described, second)
    if output:
        write_scores(output, dense, document, force)
    if pictures:
        from wncore_cli import plots

        for layer, result, files in zip(chosen, dense, pictures, strict=True):
            plots.draw(layer, result, engine, settings, files, force)
    if as_json:
        click.echo(to_json(document))
    else:
        _print(dense, sparse, top)


def _choose(dump: Any, patterns: tuple[str, ...]) -> list:
    from wncore.dumps.dump import scorable_layers

    return scorable_layers(dump, options.match_layers(list(dump.layers), patterns))


def _left_out(dump: Any, patterns: tuple[str, ...], chosen: list) -> list[str]:
    names = {layer.name for layer in chosen}
    rest = [name for name in options.match_layers(list(dump.layers), patterns) if name not in names]
    return [f"{len(rest)} layers have weights only and are left out: {', '.join(rest[:3])}"] if rest else []


def _rivals(chosen: list, other: Any) -> dict[str, Any]:
    """Find the chosen layers in the second dump."""
    from wncore.dumps.dump import scorable_layers
    from wncore.errors import InputError

    missing = [layer.name for layer in chosen if layer.name not in other.layers]
    if missing:
        raise InputError(
            f"--against {other.source} lacks {', '.join(missing[:3])}; choose layers that both have: --layer"
        )
    rivals = {layer.name: layer for layer in scorable_layers(other, [layer.name for layer in chosen])}
    for layer in chosen:
        if layer.name not in rivals:
            raise InputError(f"--against {other.source} has no outputs of {layer.name}")
        if rivals[layer.name].neurons != layer.neurons:
            raise InputError(
                f"{layer.name} has {layer.neurons} neurons, and {rivals[layer.name].neurons} in {other.source}"
            )
    return rivals


def _pictures(folder: Path | None, names: list[str], force: bool) -> list[dict[str, Path]]:
    if folder is None:
        return []
    from wncore_cli import plots

    return plots.targets(folder, names, force)


def _run(layers: list, engine: Any, settings: dict[str, Any], quiet: bool) -> list["LayerScore"]:
    from tqdm import tqdm

    from wncore.scoring import score_layer

    total = sum(layer.rows * layer.neurons for layer in layers)
    bar = tqdm(total=total, unit=" outputs", unit_scale=True, delay=2, disable=True if quiet else None, leave=False)
    with closing(bar):
        results = []
        for layer in layers:
            bar.set_description(printable(layer.name), refresh=False)
            results.append(score_layer(layer, engine, progress=bar.update, **settings))
    return results


def _print(scores: Sequence["LayerScore"], against: dict[str, "LayerScore"], top: int) -> None:
    import numpy as np

    head = ["layer", "neurons", "tokens", "median WD", "largest WD", "noise floor", "above it"]
    rows = []
    for one in scores:
        live = one.wasserstein[~one.constant]
        middle, largest = (float(np.median(live)), float(live.max())) if len(live) else (None, None)
        share = one.share_above_floor()
        rows.append(
            [
                one.name,
                f"{one.neurons}",
                f"{one.tokens}",
                number(middle),
                number(largest),
                number(one.noise_floor),
                "-" if share != share else f"{share:.1%}",
            ]
        )
    click.echo(table(head, rows))
    if top:
        click.echo("\n" + _top_table(scores, top))
    if against:
        click.echo("\n" + _change_table(scores, against, top))
    for one in scores:
        for flag, meaning in (
            ("constant", "are constant"),
            ("first_token", "change without the first token of a sequence"),
        ):
            found = np.flatnonzero(getattr(one, flag))
            if len(found):
                shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
                click.echo(f"{printable(one.name)}: {len(found)} neurons {meaning}: {shown}")


def _top_table(scores: Sequence["LayerScore"], top: int) -> str:
    ranked = sorted(((one.wasserstein[i], one, i) for one in scores for i in one.top(top)), key=lambda item: -item[0])
    bounded = any((one.wasserstein_low != one.wasserstein_high)[~one.constant].any() for one in scores)
    mapped = any(one.mapping_difficulty is not None for one in scores)
    head = [
        "most entangled",
        "neuron",
        "WD",
        "+-",
        *(["low", "high"] if bounded else []),
        *(["MD", "MD shuffled"] if mapped else []),
        "skewness",
        "kurtosis",
    ]
    rows = []
    for distance, one, i in ranked[:top]:
        row = [one.name, f"{i}", number(distance), number(one.wasserstein_error[i])]
        row += [number(one.wasserstein_low[i]), number(one.wasserstein_high[i])] if bounded else []
        row += (
            [
                number(None if column is None else column[i], 2)
                for column in (one.mapping_difficulty, one.mapping_difficulty_shuffled)
            ]
            if mapped
            else []
        )
        rows.append([*row, number(one.skewness[i], 2), number(one.excess_kurtosis[i], 2)])
    return table(head, rows)


def _change_table(scores: Sequence["LayerScore"], against: dict[str, "LayerScore"], top: int) -> str:
    import numpy as np

    from wncore.results import change

    summary, ranked = [], []
    for one in scores:
        other = against[one.name]
        delta = change(one, other)
        known = np.flatnonzero(np.isfinite(delta))
        middle = float(np.median(delta[known])) if len(known) else None
        falls = float(np.mean(delta[known] < 0)) if len(known) else None
        summary.append([one.name, number(middle), "-" if falls is None else f"{falls:.1%}"])
        ranked += [(delta[i], one, other, i) for i in known[np.argsort(-np.abs(delta[known]), kind="stable")][:top]]
    ranked.sort(key=lambda item: -abs(item[0]))
    rows = [
        [
            one.name,
            f"{i}",
            number(one.wasserstein[i]),
            number(other.wasserstein[i]),
            f"{gap:+.4f}",
            number(float(np.hypot(one.wasserstein_error[i], other.wasserstein_error[i]))),
        ]
        for gap, one, other, i in ranked[:top]
    ]
    parts = [table(["change", "median", "falls for"], summary)]
    if rows:
        parts.append(table(["most changed", "neuron", "WD", "against", "change", "+-"], rows))
    return "\n\n".join(parts)


def _version() -> str:
    from importlib.metadata import version

    return version("wncore")
