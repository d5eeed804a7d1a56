"""Weights that lie (inputs, outputs): called transposed, square ones found by the outputs, right ones never refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from dump_samples import only, refused
from rawfile import write

from wncore.dumps import open_dump
from wncore.dumps.orientation import transposed_values

D, N = 24, 200
BFLOAT16 = ml_dtypes.bfloat16


def layer(seed=0, turned=True, bias=None, dtype=np.float32, symmetry=0.0):
    """A square layer; `turned`: the outputs are those of x W in place of x W'."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((N, D)), rng.standard_normal((D, D)) * np.exp(rng.standard_normal((D, 1)))
    w = ((1 - symmetry) * w + symmetry * (w + w.T) / 2).astype(dtype)
    x = x.astype(dtype)
    y = x.astype(float) @ (w.astype(float) if turned else w.astype(float).T)
    y = y if bias is None else y + bias
    return {"l.input": x, "l.weight": w, "l.output": y.astype(dtype)}


def verdict(tmp_path, tensors):
    one = only(open_dump(write(tmp_path / "a.safetensors", tensors)))
    return transposed_values(one, one.tokens())


class TestShape:
    """(d, m) where (m, d) is needed."""

    X, W, Y = np.ones((9, 3)), np.ones((3, 2)), np.ones((9, 2))

    @pytest.mark.parametrize(
        "more",
        [
            {"l.input": X},
            {"l.output": Y},
            {"l.input": X, "l.output": Y},
            {"l.gram": np.eye(3)},
            {"l.input": X, "l.bias": np.ones(2)},
            {"l.input": np.ones((3, 3, 3))},
        ],
    )
    def test_it_is_called_transposed(self, tmp_path, more):
        path = write(tmp_path / "a.safetensors", {"l.weight": self.W, **more})
        refused(path, says=r"l: .*, or the weight is transposed, .* Conv1D: store weight\.T")

    def test_heads_are_counted_together(self, tmp_path):
        tensors = {"o.input": np.ones((2, 3, 4, 5)), "o.weight": np.ones((20, 7))}
        refused(write(tmp_path / "a.safetensors", tensors), says="the weight is transposed")

    def test_sizes_that_fit_neither_way_are_not(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"l.input": self.X, "l.weight": np.ones((2, 4))})
        refused(path, says="input has 3 channels, weight 4 columns; the tensors are not of one layer and one run$")


class TestSquare:
    """The outputs tell which way a square weight lies."""

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, BFLOAT16])
    @pytest.mark.parametrize("bias", [None, 0.5, np.linspace(-3, 3, D)])  # not stored, and so unknown
    @pytest.mark.parametrize("turned", [True, False])
    def test_in_every_dtype_with_and_without_a_bias(self, tmp_path, dtype, bias, turned):
        assert verdict(tmp_path, layer(dtype=dtype, bias=bias, turned=turned)) == turned

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("symmetry", [0.0, 0.9, 0.99, 1 - 1e-4, 1.0])
    @pytest.mark.parametrize("dtype", [np.float64, np.float32, BFLOAT16])
    def test_a_right_weight_is_never_refused_however_symmetric(self, tmp_path, seed, symmetry, dtype):
        assert not verdict(tmp_path, layer(seed, turned=False, dtype=dtype, symmetry=symmetry))

    @pytest.mark.parametrize("special", [np.eye(D), np.zeros((D, D)), np.diag(np.arange(float(D))), np.ones((D, D))])
    def test_weights_that_are_their_own_transpose(self, tmp_path, special):
        x = np.random.default_rng(0).standard_normal((N, D))
        assert not verdict(tmp_path, {"l.input": x, "l.weight": special, "l.output": x @ special})

    def test_outputs_that_neither_way_explains_are_left_to_inspect(self, run, tmp_path):
        tensors = layer() | {"l.output": np.random.default_rng(9).standard_normal((N, D)).astype(np.float32)}
        assert not verdict(tmp_path, tensors)
        assert run("score", tmp_path / "a.safetensors")[0] == 0
        assert "they are of different runs" in run("inspect", tmp_path / "a.safetensors")[1]

    def test_padding_does_not_count(self, tmp_path):
        tensors, mask = layer(turned=False), np.arange(N) % 3 > 0
        for name in ("l.input", "l.output"):
            tensors[name][~mask] = np.nan
        assert not verdict(tmp_path, tensors | {"tokens.mask": mask})
        tensors["l.weight"] = np.ascontiguousarray(tensors["l.weight"].T)
        assert verdict(tmp_path, tensors | {"tokens.mask": mask})

    @pytest.mark.parametrize("command", ["score", "prune", "expand"])
    def test_the_verbs_refuse_it_and_write_nothing(self, run, tmp_path, command):
        path = write(tmp_path / "a.safetensors", layer())
        out = tmp_path / "out.safetensors"
        more = ["--experts", 2, "--sparsity", 0.5] if command == "expand" else []
        code, _, err = run(command, path, "-o", out, *more)
        assert code == 1
        assert "l: output is not input x l.weight, it fits if the weight is transposed" in err
        assert not out.exists()

    def test_inspect_says_so(self, run, tmp_path):
        path = write(tmp_path / "a.safetensors", layer())
        code, out, _ = run("inspect", path, "--json")
        (one,) = json.loads(out)["layers"]
        assert (code, one["transposed"]) == (0, True)
        assert one["warnings"] == [
            "output and input x weight disagree, and fit if the weight is transposed, (inputs, outputs) as in GPT-2's "
            "Conv1D: store weight.T"
        ]

    def test_its_transpose_is_taken(self, run, tmp_path):
        tensors = layer()
        tensors["l.weight"] = np.ascontiguousarray(tensors["l.weight"].T)
        path = write(tmp_path / "a.safetensors", tensors)
        assert run("score", path)[0] == run("prune", path)[0] == 0

    @pytest.mark.parametrize(("name", "noted"), [("h.0.attn.c_proj", True), ("h.0.attn.o_proj", False)])
    def test_names_of_gpt2_get_a_word_where_no_output_tells(self, tmp_path, name, noted):
        tensors = {f"{name}.{key[2:]}": value for key, value in layer().items() if key != "l.output"}
        notes = open_dump(write(tmp_path / "a.safetensors", tensors)).notes
        assert any("GPT-2 stores square weights" in note for note in notes) == noted
