"""Experts against the dump that they were made from: its tokens routed again, every reported number recomputed.

Under the conditions that the file records, numbers must be equal to the bit. Elsewhere they may differ by rounding, and
by the tokens that rounding may send to another expert (`wncore.experts.borderline`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.dumps.dump import Dump
from wncore.dumps.header import DTYPES
from wncore.dumps.layer import Layer
from wncore.errors import DumpError, MemoryBudgetError, NonFiniteError, WncoreError
from wncore.experts.allowances import allowances
from wncore.experts.borderline import Borderline, find_borderline
from wncore.experts.conditions import conditions, differences
from wncore.experts.digests import source_digests, source_tensors
from wncore.experts.document import StoredLayer
from wncore.experts.experts import Experts
from wncore.experts.files import ExpertFile
from wncore.experts.losses import ExpertErrors, expert_errors
from wncore.experts.tokens import label_tokens
from wncore.experts.verification import Check
from wncore.layers.activations import Activations, open_layer
from wncore.results import number, numbers
from wncore.sums import ClusterSums, sum_clusters
from wncore.tick import Tick, idle


@dataclass(frozen=True)
class Verification:
    """What became of checking a file of experts against its source."""

    source: str
    exact: bool
    """Whether numbers had to be equal to the bit; if not, they had to be within the error budget."""
    differences: tuple[str, ...]
    """The conditions that are not those recorded, for which reason they did not have to."""
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class _Run:
    """What is needed to recompute any layer."""

    file: ExpertFile
    dump: Dump
    digests: Mapping[str, str]
    exact: bool
    reading: dict[str, Any]
    """How a layer is opened"""
    recent: dict[str, tuple[Activations, ClusterSums]] = field(default_factory=dict)
    """The last layer that was routed, by the name of its router: the next may share both"""


def verify_against(
    file: ExpertFile, dump: Dump, backend: Backend, *, memory: int | None = None, tick: Tick = idle
) -> Verification:
    """Check hashes of the source, tokens by expert and errors; `memory` is the recorded one unless it is given.

    Raises
    ------
    DumpError
        If the file does not say which tokens were left out or held out.
    MemoryBudgetError
        If a layer's Gram matrices and experts do not fit into `memory`.
    WncoreError
        If the source cannot be read: a file that changed meanwhile, say.
    """
    for key in ("holdout", "skip_tokens"):
        if key not in file.document:
            raise DumpError(f"{file.path} does not say {key}, so that no number can be recomputed; expand again")
    memory = int(memory or file.document.get("memory") or 2**30)
    layers = [dump.layers[name] for name in file.layers.described if name in dump.layers]
    changed = differences(dict(file.document), conditions(backend, memory))
    reading = {key: file.document[key] for key in ("skip_tokens", "holdout")}
    reading |= {"backend": backend, "memory": memory, "tick": tick}
    run = _Run(file, dump, source_digests(layers, tick), not changed, reading)
    checks: list[Check] = []
    for stored in file.layers.described.values():
        try:
            checks += _layer(run, stored)
        except (DumpError, NonFiniteError) as error:  # of this layer alone: NaN among its inputs, say
            checks.append(Check(stored.name, "source", False, str(error)))
        tick(1)
    return Verification(dump.source, not changed, tuple(changed), (*checks, _inputs(run)))


def _inputs(run: _Run) -> Check:
    """Look for tensors that were read then, and are not there now."""
    gone = sorted(run.file.document.get("inputs", {}).keys() - run.digests.keys())
    finding = f"{len(run.digests)} tensors" if not gone else f"{gone[0][:80]} was read, and the source does not have it"
    return Check("", "list of inputs", not gone, finding)


def _layer(run: _Run, stored: StoredLayer) -> list[Check]:
    layer = run.dump.layers.get(stored.name)
    wrong = None if layer is None else layer.fault or layer.empty
    if wrong:
        return [Check(stored.name, "source", False, wrong)]
    if layer is None or layer.input is None or layer.weight is None:
        return [Check(stored.name, "source", False, "the source has no such layer, or not its input and weight")]
    if (layer.weight.rows, layer.weight.columns) != stored.shape:
        shape = f"{layer.weight.rows} x {layer.weight.columns}"
        return [Check(stored.name, "source", False, f"the weight is {shape} in the source")]
    try:
        experts = run.file.layers[stored.name]
    except WncoreError as error:
        return [Check(stored.name, "source", False, str(error))]
    return [
        _source(run, layer),
        _bias(layer, experts),
        *_numbers(run, open_layer(layer, **run.reading), stored, experts),
    ]


def _source(run: _Run, layer: Layer) -> Check:
    """Compare the hash of everything that the experts were made from."""
    recorded, names = run.file.document.get("inputs"), list(source_tensors(layer))
    if recorded is None:
        return Check(layer.name, "source", None, "the document does not say what was read")
    changed = [name for name in names if run.digests[name] != recorded.get(name)]
    finding = f"SHA-256 of {len(names)} tensors"
    if changed:
        finding = f"SHA-256 of {', '.join(name[:80] for name in changed)} is not the recorded one"
    return Check(layer.name, "source", not changed, finding)


def _bias(layer: Layer, experts: Experts) -> Check:
    """Compare the bias with the source's: experts share it, and it is not pruned."""
    there = None if layer.bias is None else layer.bias.read()[:, 0]
    if there is None or experts.bias is None:
        passed = there is None and experts.bias is None
        return Check(layer.name, "bias", passed, "none" if passed else "only one of file and source has one")
    same = there.dtype == experts.bias.dtype and there.tobytes() == experts.bias.tobytes()
    return Check(layer.name, "bias", same, "that of the source" if same else "not that of the source")


def _numbers(run: _Run, activations: Activations, stored: StoredLayer, experts: Experts) -> list[Check]:
    """Route the tokens again, and compare all that was reported of them."""
    _check_memory(run, stored)
    name, sums, dense = stored.name, _sums(run, activations, stored, experts), activations.read_weight()
    found = _recomputed(sums, expert_errors(experts.weights, dense, sums, activations.backend))
    if run.exact:
        return [_compare(name, key, stored.described, found[key], np.zeros(2)) for key in found]
    near, limits = _limits(activations, experts, dense, sums)
    told = f"{near.tokens.sum()} tokens may go to another expert"
    checks = [_compare(name, key, stored.described, found[key], limits[key]) for key in found]
    return [Check(name, "borderline", True, told), *checks]


def _check_memory(run: _Run, stored: StoredLayer) -> None:
    """Raise if Gram matrices, for both halves of the tokens and as they are added up, and experts do not fit."""
    k, (m, d), memory = stored.experts, stored.shape, run.reading["memory"]
    size = DTYPES[run.file.layers.dtype(stored)].itemsize
    need = 8 * (3 * k * d * d + 4 * m * d) + size * k * m * d
    if need > memory:
        raise MemoryBudgetError(
            f"{stored.name}: checking {k} experts of {m} neurons and {d} inputs takes {need / 2**20:.0f} MiB or more, "
            f"and {memory / 2**20:.0f} are allowed; give --memory {-(-need // 2**20)}MiB"
        )


def _sums(run: _Run, activations: Activations, stored: StoredLayer, experts: Experts) -> ClusterSums:
    """Route all tokens and sum them up, or take what a layer with the same router and tokens got."""
    known = run.recent.get(stored.router)
    if known is not None and known[0].shares_input(activations):
        return known[1]
    run.recent.clear()
    sums = sum_clusters(activations, label_tokens(activations, experts.router), stored.experts)
    run.recent[stored.router] = activations, sums
    return sums


def _recomputed(sums: ClusterSums, errors: ExpertErrors) -> dict[str, Any]:
    """Return what a document says of a layer, as it says it."""
    held = errors.expert_error_holdout
    return {
        "tokens_per_expert": sums.tokens.tolist(),
        "holdout_per_expert": sums.holdout_tokens.tolist(),
        "relative_error": number(errors.relative_error),
        "relative_error_holdout": number(errors.relative_error_holdout),
        "relative_error_per_expert": numbers(errors.expert_error),
        "relative_error_holdout_per_expert": None if held is None else numbers(held),
    }


def _limits(
    activations: Activations, experts: Experts, dense: NDArray, sums: ClusterSums
) -> tuple[Borderline, dict[str, NDArray]]:
    """Find the borderline tokens, and how far each number may be off, below and above: (2,) or (2, k)."""
    near = find_borderline(activations, experts.router, experts.weights, dense)
    slack = allowances(experts.weights, dense, sums, near, activations.dtype)
    counts = np.stack([sums.tokens, sums.holdout_tokens])
    below, above = counts - near.certain, near.possible - counts
    limits = {"tokens_per_expert": np.stack([below[0], above[0]])}
    limits["holdout_per_expert"] = np.stack([below[1], above[1]])
    for half, tail in enumerate(("", "_holdout")):
        limits[f"relative_error{tail}"] = np.full(2, slack.error[half])
        limits[f"relative_error{tail}_per_expert"] = np.tile(slack.expert_error[half], (2, 1))
    return near, limits


def _compare(layer: str, key: str, said: Mapping[str, Any], got: Any, limits: NDArray) -> Check:
    """Compare a recorded number, or one for each expert, with the recomputed one; limits (2,) or (2, k)."""
    if key not in said:
        return Check(layer, key, None, "not recorded", None, got)
    want = said[key]
    recorded, recomputed = (np.array(value, np.float64).reshape(-1) for value in (want, got))  # null becomes NaN
    if recorded.shape != recomputed.shape:
        return Check(layer, key, False, f"{recorded.size} numbers, and {recomputed.size} were found", want, got)
    gap = recorded - recomputed
    gap = np.where(np.isnan(recorded) & np.isnan(recomputed), 0.0, np.where(np.isnan(gap), np.inf, gap))
    low, high = np.broadcast_to(limits.reshape(2, -1), (2, gap.size))
    allowed = np.where(gap < 0, low, high)
    passed = bool(np.all(np.abs(gap) <= allowed))
    with np.errstate(divide="ignore", invalid="ignore"):
        worst = int(np.argmax(np.where(gap == 0, 0.0, np.abs(gap) / allowed)))
    off, most = float(np.abs(gap).max()), float(allowed[worst])
    finding = "equal" if off == 0 else f"off by {np.abs(gap[worst]):.3g}, {most:.3g} allowed"
    return Check(layer, key, passed, finding, want, got, off, most)
