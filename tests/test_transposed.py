"""Weights that lie (inputs, outputs): called transposed, square ones found by the outputs, right ones never refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from dump_samples import only, refused
from hypothesis import given, settings
from hypothesis import strategies as st
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

    @pytest.mark.parametrize("near", [False, True])
    @pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
    def test_inspect_judges_as_they_do(self, run, tmp_path, near, dtype):
        x, w = np.random.default_rng(0).standard_normal((2, N, D))
        w = w[:D] / 50 + np.eye(D) if near else w[:D]
        tensors = {"l.input": x.astype(dtype), "l.weight": w.astype(dtype), "l.output": (x @ w).astype(dtype)}
        path = write(tmp_path / "a.safetensors", tensors)
        says = "l: output is not input x l.weight, it fits if the weight is transposed, (inputs, outputs) as in GPT-2's"
        code, out, err = run("inspect", path)
        assert code == 1
        assert f"error: {says}" in out
        assert f"wncore: error: {says}" in err
        assert says in run("score", path)[2]
        assert "different runs" not in out
        assert "agrees" not in out
        code, out, _ = run("inspect", path, "--json")
        (one,) = json.loads(out)["layers"]
        assert json.loads(out)["failed"][0]["error"].startswith(says)
        assert (code, one["transposed"], one["warnings"]) == (1, True, [])

    def test_its_transpose_is_taken(self, run, tmp_path):
        tensors = layer()
        tensors["l.weight"] = np.ascontiguousarray(tensors["l.weight"].T)
        path = write(tmp_path / "a.safetensors", tensors)
        assert run("score", path)[0] == run("prune", path)[0] == 0

    def test_two_tokens_tell_if_rounding_is_fine(self, tmp_path):
        x, w = np.random.default_rng(0).standard_normal((2, 8, 8))
        for dtype, told in ((np.float64, True), (ml_dtypes.float8_e5m2, False)):
            tensors = {"l.input": x[:2].astype(dtype), "l.weight": w.astype(dtype)}
            product = tensors["l.input"].astype(float) @ tensors["l.weight"].astype(float)
            assert verdict(tmp_path, tensors | {"l.output": product.astype(dtype)}) == told

    @pytest.mark.parametrize("dtype", [BFLOAT16, np.float16, ml_dtypes.float8_e4m3fn])
    def test_one_half_of_a_weight_may_be_the_other_rounded_as_outputs_are(self, tmp_path, dtype):
        w = np.triu(np.random.default_rng(0).standard_normal((D, D)), 1)
        w = w + w.astype(dtype).astype(float).T + np.eye(D)
        x = np.eye(D)[np.arange(N) % D]  # so that outputs are single weights, rounded: those across the diagonal
        assert not verdict(tmp_path, {"l.input": x, "l.weight": w, "l.output": (x @ w.T).astype(dtype)})

    def test_outputs_whose_squares_overflow(self, tmp_path):
        x, w = np.random.default_rng(0).standard_normal((2, N, D))
        tensors = {"l.input": x * 1e192, "l.weight": w[:D] * 1e8}
        assert verdict(tmp_path, tensors | {"l.output": x @ w[:D] * 1e200})
        assert not verdict(tmp_path, tensors | {"l.output": x @ w[:D].T * 1e200})
        assert not verdict(tmp_path, tensors | {"l.output": w * 1e200})
        assert not verdict(tmp_path, tensors | {"l.input": x * 1e303, "l.output": w * 1e307})

    @pytest.mark.parametrize(("name", "noted"), [("h.0.attn.c_proj", True), ("h.0.attn.o_proj", False)])
    def test_names_of_gpt2_get_a_word_where_no_output_tells(self, tmp_path, name, noted):
        tensors = {f"{name}.{key[2:]}": value for key, value in layer().items() if key != "l.output"}
        notes = open_dump(write(tmp_path / "a.safetensors", tensors)).notes
        assert any("GPT-2 stores square weights" in note for note in notes) == noted


ACTIVATIONS = {
    "none": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky": lambda z: np.where(z > 0, z, z / 100),
    "squared": lambda z: np.maximum(z, 0) ** 2,
    "silu": lambda z: z / (1 + np.exp(-np.clip(z, -500, None))),
    "tanh": np.tanh,
    "clipped": lambda z: np.clip(z, 0, 6),
}
WEIGHTS = {
    "any": lambda v: v,
    "rows of many sizes": lambda v: v * 2.0 ** (np.arange(len(v)) % 8)[:, None],
    "near the identity": lambda v: np.eye(len(v)) + v / 50,
    "nearer": lambda v: np.eye(len(v)) + v / 1000,
    "symmetric": lambda v: v + v.T,
    "nearly symmetric": lambda v: v + v.T + v / 1000,
    "as nearly as float32 tells": lambda v: v + v.T + 1e-6 * v,
    "turning": lambda v: v - v.T,
    "low rank": lambda v: np.eye(len(v)) + np.outer(v[0], v[1]),
}
INPUTS = {
    "any": lambda x: x,
    "positive": np.abs,
    "one channel that outweighs": lambda x: x * np.where(np.arange(x.shape[1]) == 1, 1000, 1),
    "one that hardly changes": lambda x: x + np.where(np.arange(x.shape[1]) == 1, 1000, 0),
    "one token that outweighs": lambda x: x * np.where(np.arange(len(x)) == 0, 1000, 1)[:, None],
}
FLOATS = [np.float64, np.float32, np.float16, BFLOAT16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


def rounded(values, dtype):
    """Values that a dtype holds, none of them infinite."""
    most = float(ml_dtypes.finfo(dtype).max)
    return np.clip(values, -most, most).astype(dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


class TestAnyLayer:
    """Of layers of any kind, rounded in any way."""

    @settings(max_examples=4 * settings.default.max_examples)
    @given(data=st.data())
    def test_a_right_weight_is_never_refused(self, folder, data):
        def draw(from_what, label):
            return data.draw(st.sampled_from(list(from_what)), label=label)

        d, n, seed = draw([2, 3, 5, 8, 24], "d"), draw([2, 3, 5, 16, 40], "n"), data.draw(st.integers(0, 2**32 - 1))
        rng, dtype = np.random.default_rng(seed), draw(FLOATS, "dtype")
        x = INPUTS[draw(INPUTS, "inputs")](rng.standard_normal((n, d)))
        w = WEIGHTS[draw(WEIGHTS, "weights")](rng.standard_normal((d, d)))
        b = draw([0, 1, 100], "bias") * rng.standard_normal(d)
        stored = {"l.input": rounded(x, dtype), "l.weight": rounded(w, dtype)}
        if draw([False, True], "stored as read"):
            x, w = stored["l.input"].astype(float), stored["l.weight"].astype(float)
        y = rounded(ACTIVATIONS[draw(ACTIVATIONS, "activation")](x @ w.T + b), dtype)
        if draw([False, True], "widened"):
            y = y.astype(np.float64)
        assert not verdict(folder, stored | {"l.output": y})

    @given(
        d=st.sampled_from([8, 24, 64]),
        n=st.sampled_from([16, 40]),
        seed=st.integers(0, 2**32 - 1),
        dtype=st.sampled_from(FLOATS[:4]),
        weights=st.sampled_from(["any", "rows of many sizes", "near the identity", "turning", "low rank"]),
        activation=st.sampled_from(["none", "relu"]),
        bias=st.sampled_from([0, 1]),
    )
    def test_a_transposed_one_is_found(self, folder, d, n, seed, dtype, weights, activation, bias):
        rng = np.random.default_rng(seed)
        x, w = rng.standard_normal((n, d)).astype(dtype), rng.standard_normal((d, d))
        stored = {"l.input": x, "l.weight": rounded(WEIGHTS[weights](w), dtype)}
        y = x.astype(float) @ stored["l.weight"].astype(float) + bias * rng.standard_normal(d)
        assert verdict(folder, stored | {"l.output": rounded(ACTIVATIONS[activation](y), dtype)})
