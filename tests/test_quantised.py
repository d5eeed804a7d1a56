"""Quantised weights: float8 times its scale is the weight; others are refused."""

import json

import ml_dtypes
import numpy as np
import pytest
import rawfile
from dump_samples import B, W, X, Y, only, refused
from hypothesis import given
from hypothesis import strategies as st
from rawfile import write
from safetensors.numpy import load_file

from wncore.dumps import open_dump

RNG = np.random.default_rng(0)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
M, D = 300, 257
CODES = np.clip(100 * RNG.standard_normal((M, D)), -448, 448).astype(E4M3)
INPUT = RNG.standard_normal((64, D)).astype(np.float32)


def scales(*shape, dtype=np.float32):
    return (2.0 ** RNG.integers(-9, 3, shape) * RNG.uniform(1, 2, shape)).astype(dtype)


def spread(scale, m, d, rows, columns):
    """Give each weight its scale by writing out what the layout says, an element at a time."""
    table = np.asarray(scale, np.float32).reshape(*scale.shape, *[1] * (2 - scale.ndim))
    return np.array([[table[i // rows, j // columns] for j in range(d)] for i in range(m)], np.float32)


LAYOUTS = {  # name, shape of the scale, rows and columns of a block
    "number": ("weight_scale", (), M, D),
    "one": ("weight_scale", (1,), M, D),
    "one of two axes": ("weight_scale_inv", (1, 1), M, D),
    "rows": ("weight_scale", (M, 1), 1, D),
    "rows of one axis": ("scale_weight", (M,), 1, D),
    "columns": ("weight_scale", (1, D), M, 1),
    "blocks": ("weight_scale_inv", (3, 3), 128, 128),
    "blocks of DeepSeek's own": ("scale", (3, 3), 128, 128),
    "each": ("weight_scale", (M, D), 1, 1),
}


class TestScales:
    """Every layout that is certain."""

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
    def test_the_weight_is_multiplied_by_its_scale(self, tmp_path, layout, dtype):
        name, shape, rows, columns = LAYOUTS[layout]
        scale = scales(*shape, dtype=dtype)
        path = write(tmp_path / "a.safetensors", {"fc.weight": CODES, f"fc.{name}": scale, "fc.input": INPUT})
        dump = open_dump(path)
        weight = only(dump).weight
        want = CODES.astype(np.float32) * spread(scale, M, D, rows, columns)
        assert (weight.dtype, weight.rows, weight.columns) == ("F32", M, D)
        assert weight.read().tobytes() == want.tobytes()
        assert dump.notes == ("float8 weights times their scales: fc",)

    @given(data=st.data())
    def test_in_parts_it_is_the_same(self, data, tmp_path_factory):
        layout = data.draw(st.sampled_from(sorted(LAYOUTS)), "layout")
        name, shape, rows, columns = LAYOUTS[layout]
        scale = scales(*shape)
        path = tmp_path_factory.getbasetemp() / "parts.safetensors"
        weight = only(open_dump(write(path, {"fc.weight": CODES, f"fc.{name}": scale, "fc.input": INPUT}))).weight
        want = CODES.astype(np.float32) * spread(scale, M, D, rows, columns)
        part = [slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2), "bounds"))) for n in (M, D)]
        assert weight.read(*part).tobytes() == np.ascontiguousarray(want[tuple(part)]).tobytes()

    @pytest.mark.parametrize("numpy", [ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz])
    def test_every_float8_has_scales(self, tmp_path, numpy):
        codes, scale = W.astype(numpy), scales(2, 1)
        path = write(tmp_path / "a.safetensors", {"fc.weight": codes, "fc.weight_scale": scale, "fc.input": X})
        assert only(open_dump(path)).weight.read().tobytes() == (codes.astype(np.float32) * scale).tobytes()

    def test_powers_of_two_are_scales_of_groups(self, tmp_path):
        codes = np.clip(100 * RNG.standard_normal((5, 96)), -448, 448).astype(E4M3)
        exponents = RNG.integers(100, 140, (5, 3)).astype(np.uint8)
        held = {"fc.weight": codes, "fc.weight_scale": ("F8_E8M0", [5, 3], exponents.tobytes())}
        path = write(tmp_path / "a.safetensors", held | {"fc.output": np.zeros((4, 5), np.float32)})
        want = codes.astype(np.float64) * np.repeat(2.0 ** (exponents.astype(int) - 127), 32, axis=1)
        np.testing.assert_array_equal(only(open_dump(path)).weight.read().astype(np.float64), want)

    def test_a_scale_in_float64_makes_float64(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.weight": CODES, "fc.weight_scale": scales(1, dtype=np.float64)})
        assert only(open_dump(path)).weight.read().dtype == np.float64

    def test_weight_and_scale_may_lie_in_two_shards(self, tmp_path):
        write(tmp_path / "a-1.safetensors", {"fc.weight": CODES, "fc.input": INPUT})
        scale = scales(M, 1)
        write(tmp_path / "a-2.safetensors", {"fc.weight_scale": scale})
        want = CODES.astype(np.float32) * scale
        assert only(open_dump(tmp_path)).weight.read().tobytes() == want.tobytes()
        write(tmp_path / "a-3.safetensors", {"fc.weight_scale": scale})  # twice, and the same
        assert only(open_dump(tmp_path)).weight.read().tobytes() == want.tobytes()
        write(tmp_path / "a-3.safetensors", {"fc.weight_scale": -scale})
        refused(tmp_path, says=r"fc\.weight_scale differs between .*a-2\.safetensors and .*a-3\.safetensors")

    def test_without_a_scale_float8_is_what_it_says(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.weight": CODES, "fc.input": INPUT, "fc.input_scale": scales(1)})
        weight = only(open_dump(path)).weight
        assert (weight.dtype, weight.read().tobytes()) == ("F8_E4M3", CODES.tobytes())

    @pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
    def test_a_weight_that_becomes_infinite_is_named(self, run, tmp_path, value):
        held = {"fc.weight": CODES, "fc.weight_scale": np.array([value], np.float32), "fc.input": INPUT}
        code, _, err = run("score", write(tmp_path / "a.safetensors", held))
        assert code == 1
        assert f"fc.weight{'' if np.isfinite(value) else '_scale'} holds NaN or infinity" in err


class TestRefusals:
    """What is not certain is not guessed."""

    @pytest.mark.parametrize(
        ("held", "says"),
        [
            ({"weight_scale": scales(3, 1)}, r"its scale fc\.weight_scale \(F32 \[3, 1\]\): neither one number, nor"),
            ({"weight_scale": scales(3)}, "neither one number, nor one for each row or block"),
            ({"weight_scale": scales(D)}, "neither one number"),
            ({"weight_scale": scales(D, M)}, "neither one number"),
            ({"weight_scale": scales(2, 2)}, "neither one number"),
            ({"weight_scale": scales(3, 3, 1)}, "neither one number"),
            ({"weight_scale": np.ones((M, 1), np.uint8)}, "of no floating type"),
            ({"weight_scale": scales(1), "weight_scale_inv": scales(1)}, "has two scales, fc.weight_scale"),
            ({"weight_scale": scales(1), "weight_scale_2": scales(1)}, r"is F8_E4M3 beside fc\.weight_scale_2 "),
            ({"weight_scale": scales(1), "weight_zero_point": CODES[:, :1]}, r"beside fc\.weight_zero_point "),
            ({"weight_scale": scales(M, 1), "weight_packed": np.ones((M, 4), np.int32)}, r"beside fc\.weight_packed "),
            ({"weight_scale": scales(1), "pre_quant_scale": scales(D)}, r"beside fc\.pre_quant_scale "),
            ({"input_scale": scales(1), "input": INPUT.astype(E4M3)}, r"fc\.input is F8_E4M3 beside fc\.input_scale"),
            ({"output_scale": scales(1), "output": INPUT[:, :1].astype(E4M3)}, r"beside fc\.output_scale"),
        ],
        ids=lambda held: " ".join(held) if isinstance(held, dict) else "",
    )
    def test_other_scales_of_float8(self, tmp_path, held, says):
        tensors = {"weight": CODES, "input": INPUT} | held
        path = write(tmp_path / "a.safetensors", {f"fc.{name}": array for name, array in tensors.items()})
        refused(path, says=rf"{says}.*; dequantise it first")

    @pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv", "weight_zero_point", "SCB", "qweight"])
    def test_a_wide_weight_with_scales_may_be_dequantised_or_not(self, tmp_path, name):
        held = {"fc.weight": W, f"fc.{name}": W[:, :1].copy(), "fc.input": X}
        refused(
            write(tmp_path / "a.safetensors", held),
            says=rf"fc\.weight is F64 beside fc\.{name}: is it quantised\? dequantise it first; if it is that already, "
            rf"leave fc\.{name} out",
        )

    FORMATS = {  # noqa: RUF012
        "GPTQ": {"qweight": ("I32", [1, 2], bytes(8)), "qzeros": ("I32", [1, 1], bytes(4)), "scales": W,
                 "g_idx": ("I32", [3], bytes(12))},
        "AWQ": {"qweight": ("I32", [3, 1], bytes(12)), "qzeros": ("I32", [1, 1], bytes(4)), "scales": W},
        "compressed-tensors": {"weight_packed": ("I32", [2, 1], bytes(8)), "weight_scale": W,
                               "weight_shape": np.array([2, 3]), "weight_zero_point": W},
        "NVFP4": {"weight_packed": ("U8", [2, 2], bytes(4)), "weight_scale": W.astype(E4M3), "weight_global_scale": B},
        "AQLM": {"codes": ("I16", [2, 3, 1], bytes(12)), "codebooks": np.zeros((1, 8, 1, 8)), "scales": W[:, None]},
        "HQQ": {"W_q": ("U8", [2, 2], bytes(4)), "scale": W, "zero": W},
        "quanto": {"weight._data": CODES[:2, :3].copy(), "weight._scale": W},
        "weight norm": {"weight_v": W, "weight_g": W[:, :1].copy()},
        "masked": {"weight_orig": W, "weight_mask": np.ones_like(W)},
        "LLM.int8": {"weight": np.ones((2, 3), np.int8), "SCB": B},
        "bitsandbytes": {"weight": np.ones((3, 1), np.uint8), "weight.absmax": B, "weight.quant_map": W,
                         "weight.nested_absmax": B, "weight.quant_state.bitsandbytes__nf4": np.ones(9, np.uint8)},
        "MXFP4": {"weight": ("F4", [2, 4], bytes(4)), "weight_scale": ("F8_E8M0", [2, 1], bytes(2))},
    }  # fmt: skip

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("command", ["score", "prune", "expand", "inspect"])
    def test_other_formats_are_refused_by_every_command(self, run, tmp_path, format, command):
        held = {f"fc.{name}": array for name, array in self.FORMATS[format].items()}
        path = write(tmp_path / "a.safetensors", held | {"fc.input": X, "fc.bias": B})
        output = ["-o", tmp_path / "out.safetensors"] if command in ("prune", "expand") else []
        code, _, err = run(command, path, *output, "--quiet", "--backend", "numpy")
        assert code == 1
        assert "dequantise it first" in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out.safetensors").exists()

    @pytest.mark.parametrize("format", FORMATS)
    def test_other_layers_go_on(self, run, tmp_path, format):
        held = {f"fc.{name}": array for name, array in self.FORMATS[format].items()}
        path = write(tmp_path / "a.safetensors", held | {"fc.input": X, "other.output": Y})
        code, out, err = run("score", path, "--json", "--backend", "numpy")
        document = json.loads(out)
        assert code == 1
        assert [layer["name"] for layer in document["layers"]] == ["other"]
        assert [failure["name"] for failure in document["failed"]] == ["fc"]
        assert "dequantise it first" in err


class TestCommands:
    """Commands see the weight as it is, and write it so that it needs no scale."""

    @pytest.fixture
    def dumps(self, tmp_path):
        """Write a layer as float8 with scales by block, and as float32."""
        x = RNG.standard_normal((400, 256)).astype(np.float32)
        codes = np.clip(100 * RNG.standard_normal((160, 256)), -448, 448).astype(E4M3)
        scale = np.array([[1.0, 0.01], [0.05, 1.0]], np.float32) / 100
        wide = codes.astype(np.float32) * np.kron(scale, np.ones((128, 128), np.float32))[:160]
        narrow = write(
            tmp_path / "narrow.safetensors", {"fc.input": x, "fc.weight": codes, "fc.weight_scale_inv": scale}
        )
        return narrow, write(tmp_path / "wide.safetensors", {"fc.input": x, "fc.weight": wide}), wide

    def test_scores_are_those_of_the_wide_weight(self, run, dumps):
        narrow, wide, _ = dumps
        found = [json.loads(run("score", path, "--json", "--quiet")[1])["layers"] for path in (narrow, wide)]
        assert found[0] == found[1]

    def test_stored_outputs_come_with_the_norms_of_the_wide_weight(self, run, dumps, tmp_path):
        found = []
        for path in dumps[:2]:
            parts, _ = rawfile.read(path)
            held = {name: part for name, part in parts.items() if name != "fc.input"}
            both = write(tmp_path / "both.safetensors", held | {"fc.output": np.eye(9, 160, dtype=np.float32)})
            assert run("score", both, "-o", tmp_path / "scores.csv", "--force")[0] == 0
            found.append((tmp_path / "scores.csv").read_text())
        assert found[0] == found[1]

    @pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
    def test_pruned_weights_need_no_scale(self, run, dumps, tmp_path, sparsity):
        narrow, wide, weight = dumps
        reports = []
        for path in (narrow, wide):
            output = tmp_path / f"pruned-{path.name}"
            code, out, err = run("prune", path, "-o", output, "--sparsity", sparsity, "--json", "--quiet")
            assert (code, err) == (0, "")
            reports.append(json.loads(out)["layers"])
        pruned = [load_file(tmp_path / f"pruned-{path.name}") for path in (narrow, wide)]
        assert reports[0] == reports[1]
        assert list(pruned[0]) == ["fc.weight"]
        assert pruned[0]["fc.weight"].dtype == np.float32
        assert pruned[0]["fc.weight"].tobytes() == pruned[1]["fc.weight"].tobytes()
        kept = pruned[0]["fc.weight"] != 0
        assert np.count_nonzero(kept) <= weight.size // 2

    def test_experts_need_no_scale_and_are_verified(self, run, dumps, tmp_path):
        narrow, _, _ = dumps
        output = tmp_path / "experts.safetensors"
        arguments = ["--experts", "2", "--sparsity", "0.5", "--no-wasserstein", "--quiet", "--threads", "1"]
        assert run("expand", narrow, "-o", output, *arguments)[0] == 0
        assert load_file(output)["fc.experts"].dtype == np.float32
        code, _, err = run("verify", output, "--against", narrow, "--quiet")
        assert (code, err) == (0, "")

    def test_inspect_compares_outputs_with_the_wide_weight(self, run, dumps, tmp_path):
        parts, _ = rawfile.read(dumps[0])
        x = np.frombuffer(parts["fc.input"][2], np.float32).reshape(400, 256)
        path = write(tmp_path / "all.safetensors", parts | {"fc.output": x @ dumps[2].T})
        code, out, _ = run("inspect", path)
        assert code == 0
        assert "fc: output agrees with input x weight" in out
