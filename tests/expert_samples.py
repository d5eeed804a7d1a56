"""A dump, a file of experts made from it step by step, and ways to change the file."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import rawfile

from wncore.dumps import open_dump, write_dump
from wncore.experts.conditions import conditions
from wncore.experts.digests import source_digests
from wncore.experts.experts import Experts
from wncore.experts.files import save_experts
from wncore.experts.losses import expert_errors
from wncore.experts.router import Router
from wncore.experts.tokens import label_tokens
from wncore.fast import NumbaBackend
from wncore.layers.activations import open_layer
from wncore.pruning.methods import PruneSpec, prune
from wncore.pruning.patterns import parse_pattern
from wncore.results import number, numbers
from wncore.sums import sum_clusters

MEMORY, HOLDOUT, SKIP, LENGTH = 2**26, 0.1, 1, 20
TOKENS, D, R = 400, 11, 2


@dataclass(frozen=True)
class Sample:
    """A file of experts and the dump behind it."""

    path: Path
    dump: Path
    layers: list[Experts]
    document: dict[str, Any]


def router(rng: np.random.Generator, k: int, d: int = D, dtype: str = "float32") -> Router:
    """Draw a router."""
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    return Router(draw(d), draw(R, d), draw(k, R))


def experts(seed: int = 0, k: int = 3, m: int = 5, d: int = D, dtype: Any = np.float32, bias: bool = True) -> Experts:
    """Draw experts of which half the weights are zero, some of them negative zeros."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((k, m, d)).astype(dtype)
    weights[rng.random((k, m, d)) < 0.5] = 0.0
    if not np.dtype(dtype).name.endswith("fnuz"):  # they have no negative zero
        weights[rng.random((k, m, d)) < 0.1] = -0.0
    offsets = rng.standard_normal(m).astype(dtype) if bias else None
    return Experts("a.up", weights, offsets, router(rng, k, d), rng.integers(1, 9, k))


def write_source(folder: Path, seed: int = 0, dtype: str = "float32") -> Path:
    """Write a dump: two layers that share an input, one with a bias, and padding."""
    rng = np.random.default_rng(seed)
    path = folder / f"dump-{seed}.safetensors"
    tensors = {
        "a.up.input": rng.standard_normal((TOKENS, D)).astype(dtype),
        "a.up.weight": rng.standard_normal((5, D)).astype(dtype),
        "a.up.bias": rng.standard_normal(5).astype(dtype),
        "a.gate.weight": rng.standard_normal((4, D)).astype(dtype),
        "tokens.mask": rng.random(TOKENS) < 0.9,
    }
    write_dump(path, tensors, sequence_length=LENGTH, shared_inputs={"a.gate": "a.up"}, force=True)
    return path


def write_sample(
    folder: Path,
    k: int = 3,
    packed: bool = False,
    seed: int = 0,
    pattern: str = "0.5",
    backend: Any = None,
    dtype: str = "float32",
    chosen: Router | None = None,
    source: Path | None = None,
) -> Sample:
    """Prune an expert for each cluster of a random router, and write down what `wncore expand` would."""
    engine = backend or NumbaBackend(threads=2)
    dump = source or write_source(folder, 0, dtype)
    layers = [open_dump(dump).layers[name] for name in ("a.up", "a.gate")]
    one = chosen or router(np.random.default_rng([seed, 7]), k, dtype="float64" if dtype == "float64" else "float32")
    opened = open_layer(layers[0], engine, skip_tokens=SKIP, holdout=HOLDOUT, memory=MEMORY)
    labels = label_tokens(opened, one)
    sums = sum_clusters(opened, labels, k)
    spec = PruneSpec((parse_pattern(pattern),), method="admm", iterations=5)
    made, described = [], []
    for layer in layers:
        dense = layer.weight.read()
        weights = prune(np.broadcast_to(dense, (k, *dense.shape)), sums.grams, spec)[0][0].astype(dense.dtype)
        errors = expert_errors(weights, dense, sums, engine)
        bias = None if layer.bias is None else layer.bias.read()[:, 0]
        made.append(Experts(layer.name, weights, bias, one, sums.tokens))
        described.append(
            {
                "name": layer.name,
                "shape": list(dense.shape),
                "experts": k,
                "router": "a.up",
                "tokens": int(sums.tokens.sum()),
                "tokens_holdout": int(sums.holdout_tokens.sum()),
                "tokens_per_expert": sums.tokens.tolist(),
                "holdout_per_expert": sums.holdout_tokens.tolist(),
                "pattern": pattern,
                "group": None if ":" in pattern else "layer",
                "zeros": int(np.count_nonzero(weights == 0)),
                "zeros_per_expert": np.count_nonzero(weights == 0, axis=(1, 2)).tolist(),
                "relative_error": number(errors.relative_error),
                "relative_error_holdout": number(errors.relative_error_holdout),
                "relative_error_per_expert": numbers(errors.expert_error),
                "relative_error_holdout_per_expert": numbers(errors.expert_error_holdout),
            }
        )
    document = {"schema": "wncore.expand/1", "source": str(dump), **conditions(engine, MEMORY)}
    document |= {"seed": seed, "holdout": HOLDOUT, "skip_tokens": SKIP, "length": None}
    document |= {"layers": described, "inputs": source_digests(layers)}
    path = folder / f"experts-{seed}.safetensors"
    save_experts(path, made, document, packed, force=True)
    return Sample(path, dump, made, document)


def rewrite(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> Path:
    """Write a file with other tensors, or under another name, that says of itself what it said before."""
    return rawfile.write(path, tensors, **{key.removeprefix("wncore."): text for key, text in metadata.items()})


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take a file apart: (dtype, shape, bytes) by name, and the document."""
    tensors, metadata = rawfile.read(path)
    return tensors, json.loads(metadata["wncore.expand"])


def put_together(path: Path, tensors: dict[str, Any], document: Any, sealed: bool = True) -> Path:
    """Write a file of parts; `sealed`: with the hashes of whoever wants to be believed."""
    if sealed:
        document = {**document, "tensors": {name: sha256(part[2]).hexdigest() for name, part in tensors.items()}}
        document |= {"dtypes": {name: part[0] for name, part in tensors.items()}}
    return write_text(path, tensors, document if isinstance(document, str) else json.dumps(document))


def write_text(path: Path, tensors: dict[str, Any], text: str) -> Path:
    """Write a file whose document is any text, with the hash of that."""
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return rawfile.write(path, tensors, **{"schema": "1", "expand": text, "expand.sha256": digest})


def failures(run: Any, *arguments: Any) -> list[str]:
    """Run the command; return the checks that failed, "a.up zeros", after looking at the form of its answer."""
    code, out, err = run("verify", "--quiet", "--json", *arguments)
    document = json.loads(out, parse_constant=lambda constant: 1 / 0)
    assert document["schema"] == "wncore.verify/1"
    failed = [f"{one['layer']} {one['name']}".strip() for one in document["checks"] if one["passed"] is False]
    assert document["passed"] == (not failed)
    assert code == bool(failed)
    if failed:
        assert err.count("\n") == 1
        assert f" fails {len(failed)} of {len(document['checks'])} checks: {failed[0]}: " in err
    else:
        assert not err
    return failed
