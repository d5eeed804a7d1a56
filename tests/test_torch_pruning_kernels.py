"""Torch's sweep in panels against the definition, and its kernels against their twins, in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wncore.pruning.cells import Cells, cells_of
from wncore.pruning.methods import PruneSpec
from wncore.pruning.methods import prune as define
from wncore.pruning.patterns import SemiStructured, Unstructured

torch = pytest.importorskip("torch", reason="torch is not installed")

from wncore_torch.pruning import prune  # noqa: E402
from wncore_torch.pruning.cells import TorchCells, select  # noqa: E402
from wncore_torch.pruning.panels import Choice, Grid, sweep_panel  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HALF = Unstructured(0.5)
LAYOUTS = {
    "2:4": {"patterns": (SemiStructured(2, 4),)},
    "3:5": {"patterns": (SemiStructured(3, 5),)},  # panels of 125 columns
    "2:64": {"patterns": (SemiStructured(2, 64),)},
    "2:200": {"patterns": (SemiStructured(2, 200),)},  # cells wider than a panel
    "layer": {"patterns": (HALF,), "group": "layer"},
    "row": {"patterns": (HALF,), "group": "row"},
    "block": {"patterns": (HALF,)},
    "blocks of 200": {"patterns": (HALF,), "group": "block", "block": 200},
    "row-blocks of 7": {"patterns": (Unstructured((0.5, 0.0, 1.0, 0.29, 0.7)),), "group": "row-block", "block": 7},
}
BITS = {
    "unrounded": {},
    "4 bits": {"bits": 4},
    "4 bits, 128 columns": {"bits": 4, "bits_group": 128},
    "3 bits, 150 columns": {"bits": 3, "bits_group": 150},
    "3 bits, 12 columns": {"bits": 3, "bits_group": 12},
}


def layer(d, k=2, m=5, seed=0):
    """Weights (k, m, d) and the Gram matrices (k, d, d) of correlated inputs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((k, 3 * d, d)) @ (np.eye(d) + rng.standard_normal((d, d)) / np.sqrt(d))
    return rng.standard_normal((k, m, d)), np.einsum("knd,kne->kde", x, x)


@pytest.mark.parametrize("d", [127, 128, 129, 257])
@pytest.mark.parametrize("bits", BITS.values(), ids=BITS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_sweep_in_panels_is_the_definition(layout, bits, d):
    (w, h), spec = layer(d), PruneSpec(method="sparsegpt", resolve=False, **layout, **bits)
    found = prune(torch.from_numpy(w), torch.from_numpy(h), spec)[0].numpy()
    np.testing.assert_allclose(found, define(w, h, spec)[0], atol=1e-10)  # a wrong mask or level is off by 0.1


@pytest.mark.parametrize("bits", BITS.values(), ids=BITS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_sweep_in_several_strips_is_the_definition(monkeypatch, layout, bits):
    monkeypatch.setattr("wncore_torch.pruning.sweep.PANEL", 16)
    monkeypatch.setattr("wncore_torch.pruning.sweep.STRIP", 40)
    test_a_sweep_in_panels_is_the_definition(layout, bits, 130)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "obs", "admm"])
def test_no_dtype_minds_the_unit_of_the_gram_matrix(method, dtype, scale):
    w, h = (torch.from_numpy(part) for part in layer(24))
    w, spec = w.to(getattr(torch, dtype)), PruneSpec((HALF,), method)
    h[:, :, 3] = h[:, 3] = 0  # a dead input
    found, _, _ = prune(w, h * scale, spec)
    expected, _, _ = prune(w, h, spec)
    assert found.dtype == w.dtype
    torch.testing.assert_close(found, expected, rtol=4 * torch.finfo(w.dtype).eps, atol=1e-6)


def test_only_matrices_that_need_it_get_a_higher_ridge():
    w, h = layer(600, k=3)
    h[1, :, 5], h[1, 5] = h[1, :, 4], h[1, 4]
    h[1, 5, 5] = h[1, 4, 4]
    spec = PruneSpec((HALF,), "wanda", resolve=False, ridge=0.0)
    _, ridge, raised = prune(torch.from_numpy(w), torch.from_numpy(h), spec)
    assert ridge.tolist() == [0.0, 1e-8, 0.0]
    assert raised.tolist() == [0, 1, 0]


# ---- kernels: in a process of their own, since Triton is interpreted from its import on


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_kernels_in_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "its_twin or with_kernels",
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent)
    assert run.returncode == 0, run.stdout


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's assembler is for Linux")
@pytest.mark.parametrize("only", [{}, {"spans": 1, "tiles": 1}], ids=["cells", "one tile"])
@pytest.mark.parametrize(("dtype", "digits"), [("fp32", 4), ("fp64", 8)])
def test_the_kernels_of_wide_cells_compile_for_a_gpu(tmp_path, monkeypatch, dtype, digits, only):
    """To machine code, without a GPU: the interpreter takes what the compiler refuses."""
    triton = pytest.importorskip("triton", reason="triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from wncore_torch.kernels import selection

    types = {"scores": f"*{dtype}", "zeros": "*i32", "counts": "*i32", "last": "*i32", "mask": "*u8"}
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fixed = {"WIDTH": 130, "TILE": selection.WIDE_TILE, "DIGIT": selection.DIGIT, "DIGITS": digits} | only
    kernels = [(selection._count_digits, {"PLACE": place}) for place in (0, digits - 1)] + [(selection._keep, {})]
    for kernel, more in kernels:
        constants = fixed | more
        signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
        assert len(made.asm["cubin"]) > 1000


interpreted = pytest.mark.skipif(not INTERPRETED, reason="test_kernels_in_the_interpreter runs it")


@interpreted
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("chosen", [None, 4, 5, 128], ids=["known", "2:4", "3:5", "wide"])
@pytest.mark.parametrize("c", [1, 17, 128])
def test_the_kernel_of_a_panel_is_its_twin(c, chosen, rounded):
    from wncore_torch.kernels.sweep import sweep_panel as fused

    k, m = 2, 5
    rng = torch.Generator().manual_seed(c)
    panel, kept = torch.randn(k, m, c + 3, generator=rng).double(), torch.rand(k, m, c + 2, generator=rng) < 0.5
    panel[:, 1:3] = panel[:, 1:3].round()  # ties
    ratios = torch.randn(k, c, c, generator=rng).double().triu_() / 8
    choice = None
    if chosen:
        lengths = np.diff([*range(0, c, chosen), c])
        counts = np.random.default_rng(c).integers(0, lengths + 1, (m, len(lengths)))
        cells = TorchCells.of(Cells(chosen, counts), m, panel.device)
        choice = Choice(cells, torch.rand(k, c, generator=rng).double())
    grid = Grid.of(panel, 3) if rounded else None
    results = []
    for run in (fused, sweep_panel):
        swept, mask = panel.clone(), kept.clone()
        run(swept[:, :, 1 : c + 1], ratios, mask[:, :, 2:], choice, grid)
        results.append((swept, mask))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    assert torch.equal(results[0][1], results[1][1])


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("pattern", "group", "block"),
    [
        (SemiStructured(2, 4), "row", 128),
        (SemiStructured(3, 5), "row", 128),
        (SemiStructured(1, 32), "row", 128),
        (SemiStructured(1, 1), "row", 128),
        (Unstructured((0.5, 0.0, 1.0, 0.29, 0.7)), "row-block", 7),
        (HALF, "layer", 128),
        (HALF, "block", 50),
    ],
    ids=str,
)
def test_the_kernel_of_selection_is_its_twin(pattern, group, block, dtype):
    from wncore_torch.kernels.selection import select as fused

    scores = torch.randint(0, 6, (2, 5, 130), generator=torch.Generator().manual_seed(0)).to(dtype)
    cells = TorchCells.of(cells_of(pattern, group, 5, 130, block), 5, scores.device)
    assert torch.equal(fused(scores, cells), select(scores, cells))


@interpreted
@pytest.mark.parametrize(
    ("kind", "share", "width", "dtype"),
    [
        ("distinct", 0.3, 130, torch.float32),
        ("tied", 0.3, 130, torch.float64),
        ("equal", 0.3, 130, torch.float32),
        ("tiny", 0.3, 130, torch.float32),
        ("tied", 0.0, 130, torch.float32),
        ("tied", 1.0, 130, torch.float32),
        ("tied", 0.3, 70, torch.float32),
    ],
)
def test_the_kernel_of_selection_in_several_tiles_is_its_twin(monkeypatch, kind, share, width, dtype):
    from wncore_torch.kernels import selection

    monkeypatch.setattr(selection, "WIDE_TILE", 128)
    scores = torch.rand(2, 3, 130, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores = {"distinct": scores, "tied": (4 * scores).round(), "equal": 0 * scores + 3, "tiny": scores * 1e-42}[kind]
    cells = TorchCells.of(cells_of(Unstructured(share), "block", 3, 130, width), 3, scores.device)
    assert torch.equal(selection.select(scores, cells), select(scores, cells))


@interpreted
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "admm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_pruning_with_kernels_is_pruning_without(method, dtype):
    from wncore_torch.kernels.pruning import prune as fused

    w, h = (torch.from_numpy(part) for part in layer(130, m=3))
    spec = PruneSpec((SemiStructured(2, 4), HALF), method, bits=4, resolve=False, iterations=5)
    for found, expected in zip(fused(w.to(dtype), h, spec), prune(w.to(dtype), h, spec), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
