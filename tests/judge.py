"""The judge of what the command line makes of a dump.

Every command must end in a right answer, or in exit code 1 and one line that names what is wrong.
"""

import json
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import rawfile
from safetensors import SafetensorError, deserialize

from wncore.wasserstein import gaussian_distance
from wncore_cli import main, printable

SECONDS = 10
"""After which a case hangs."""
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
          "U8": np.uint8, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
          "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz}  # fmt: skip


class Hang(BaseException):
    """Nothing may catch it but the judge."""


@contextmanager
def alarm() -> Iterator[None]:
    """Raise `Hang` when a case takes too long."""

    def ring(*args: object) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str, str, str]:
    """Run a command in this process: exit code or what it raised, stdout, stderr."""
    try:
        with alarm():
            code: int | str = main([str(argument) for argument in arguments])
    except BaseException as error:
        code = f"raised {error!r}"
    return code, *capsys.readouterr()


def problem(
    capsys: pytest.CaptureFixture[str], *sources: Path, names: str = "", options: tuple[str, ...] = ()
) -> str | None:
    """Say what is wrong with the answers of the commands, or None; `names`: also names the culprit."""
    common = ["--json", "--quiet", "--backend", "numpy", *options, *sources]
    code, out, err = run(capsys, "score", *common)
    fault = wrong_failure(code, out, err, sources, names) if code else err
    fault = fault or (wrong_scores(out, sources) if out else None)
    if fault:
        return f"score: {fault}"
    inspected, out, err = run(capsys, "inspect", *common)
    fault = wrong_failure(inspected, out, err, sources, names) if inspected else err or _not_json(out)
    unsound = "NaN or infinity" in err or "overflow" in err  # of tensors that score has no use for
    if fault is None and inspected and not code and not unsound:
        fault = f"refuses what score accepts: {err}"
    if fault:
        return f"inspect: {fault}"
    code, out, err = run(capsys, "prune", "--iterations", "2", *common)
    fault = wrong_failure(code, out, err, sources, names) if code else err
    fault = fault or (wrong_prunings(out) if out else None)
    return f"prune: {fault}" if fault else None


def refusal(capsys: pytest.CaptureFixture[str], *sources: Path) -> str:
    """Return the line that ``score`` refuses these sources with."""
    assert problem(capsys, *sources) is None
    code, _, err = run(capsys, "score", "--quiet", "--backend", "numpy", *sources)
    assert code == 1
    return err


def scores(capsys: pytest.CaptureFixture[str], *sources: Path) -> list[dict[str, Any]] | None:
    """Return the layers of the document, or None if there is none."""
    code, out, _ = run(capsys, "score", "--json", "--quiet", "--backend", "numpy", *sources)
    return json.loads(out)["layers"] if code == 0 else None


def wrong_failure(code: int | str, out: str, err: str, sources: tuple[Path, ...], names: str = "") -> str | None:
    """Say why a failure is not reported as it should be: of everything, or of layers that the document names."""
    if not out:
        return wrong_error(code, out, err, sources, names)
    failed = None if _not_json(out) else json.loads(out).get("failed")
    if not failed or len(failed) != err.count("\n"):
        return f"ended with {code}, {out[:80]!r} on stdout and {failed} failed, {err[:300]!r} on stderr"
    faults = (wrong_error(code, "", line, sources, names) for line in err.splitlines(keepends=True))
    return next(filter(None, faults), None)


def wrong_error(code: int | str, out: str, err: str, sources: tuple[Path, ...], names: str = "") -> str | None:
    """Say why a failure is not reported as it should be, or None."""
    if code != 1 or out:
        return f"ended with {code}, {out[:80]!r} on stdout, {err[:300]!r} on stderr"
    if not err.startswith("wncore: error: ") or err.count("\n") != 1 or not err.endswith("\n"):
        return f"is no single line: {err[:300]!r}"
    if not err[:-1].isprintable() or len(err) > 2000 + max(len(str(source)) for source in sources):
        return f"is no line for a terminal: {err[:300]!r} of {len(err)}"
    if "bug in wncore" in err or "Traceback" in err:
        return f"is a bug: {err!r}"
    culprits = {*map(str, sources), *(name for source in sources for name in _names(source)), names} - {""}
    if not any(printable(culprit)[:60] in err for culprit in culprits):
        return f"names no culprit: {err!r}"
    return None


def _names(source: Path) -> set[str]:
    """Name the tensors of a file, as far as its header can be read, their layers, and its metadata."""
    try:
        tensors, metadata = rawfile.read(source) if source.is_file() else ({}, {})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error):
        return set()
    layers = {name.rpartition(".")[0] or "layer" for name in tensors}
    return {*tensors, *layers, *(metadata if isinstance(metadata, dict) else ())}


def _not_json(out: str) -> str | None:
    try:
        json.loads(out, parse_constant=lambda constant: 1 / 0)
    except (ValueError, ZeroDivisionError) as error:
        return f"printed no strict JSON: {error}"
    return None


def wrong_scores(out: str, sources: tuple[Path, ...]) -> str | None:
    """Compare with the definition, applied to what the safetensors library reads from the same file."""
    if _not_json(out):
        return _not_json(out)
    document = json.loads(out)
    if len(sources) != 1 or sources[0].suffix != ".safetensors":
        return None
    try:
        loaded = deserialize(sources[0].read_bytes())
    except SafetensorError as error:
        return f"accepted what the library refuses: {error}"
    arrays = {name: _array(part) for name, part in loaded}
    mask = arrays.get("tokens.mask")
    for layer in document["layers"]:
        y = _outputs(layer["name"], arrays)
        y = y if mask is None else y[mask.reshape(-1).astype(bool)]
        if (layer["tokens"], layer["neurons"]) != y.shape:
            return f"{layer['name']} has {layer['tokens']} tokens and {layer['neurons']} neurons, not {y.shape}"
        if not np.isfinite(y).all():
            return f"{layer['name']} was scored with NaN or infinity in it"
        low, high = (np.array(layer[f"wasserstein_{end}"], float) for end in ("low", "high"))
        want, wide = gaussian_distance(y), y.astype(np.float64)
        varied = np.ptp(wide, axis=0) > 1e-6 * np.abs(wide).max(axis=0)  # others may count as constant
        if not ((low - 1e-5 <= want) & (want <= high + 1e-5))[varied].all():
            return f"{layer['name']} has distances from {low} to {high}, not {want}"
    return None


def wrong_prunings(out: str) -> str | None:
    """Look for errors that are none, and for zeros that are missing."""
    if _not_json(out):
        return _not_json(out)
    for layer in json.loads(out)["layers"]:
        m, d = layer["shape"]
        if layer["zeros"] < m * d // 2:
            return f"{layer['name']} has {layer['zeros']} zeros, of {m} x {d}"
        if any(layer[key] is None or layer[key] < 0 for key in ("relative_error", "relative_error_holdout")):
            return f"{layer['name']} has errors {layer['relative_error']}, {layer['relative_error_holdout']}"
    return None


def _array(part: dict[str, Any]) -> np.ndarray:
    if part["dtype"] not in DTYPES or len(part["shape"]) > 64:  # NumPy knows no more axes
        return np.empty(0)
    return np.frombuffer(part["data"], DTYPES[part["dtype"]]).reshape(part["shape"])


def _outputs(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    def find(*suffixes: str) -> np.ndarray | None:
        called = [f"{name}.{suffix}" for suffix in suffixes] + [f".{suffix}" for suffix in suffixes if name == "layer"]
        called += list(suffixes) if name == "layer" else []
        return next(
            (arrays[one] for one in called if one in arrays and arrays[one].ndim > (suffixes != ("bias",))), None
        )

    stored = find("output", "outputs")
    stored = arrays.get(name) if stored is None else stored
    if stored is not None:
        return stored.reshape(-1, stored.shape[-1]).astype(np.float64 if stored.dtype == np.float64 else np.float32)
    x, w, b = find("input", "inputs"), find("weight"), find("bias")
    assert x is not None
    assert w is not None
    wide = any(one is not None and one.dtype == np.float64 for one in (x, w, b))
    with np.errstate(all="ignore"):  # padding may hold anything
        y = x.reshape(-1, x.shape[-1]).astype(np.float64) @ w.astype(np.float64).T
        y = y if b is None else y + b.reshape(-1).astype(np.float64)
        return y.astype(np.float64 if wide else np.float32)
