"""Reading a dump, schema 1: which tensors are what, and that their values are exact."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from dump_samples import B, W, X, Y, only, refused
from rawfile import layout, write
from safetensors.numpy import load_file

from wncore.dumps import open_dump
from wncore.dumps.selection import choose
from wncore.dumps.tensor import as_floats, finite
from wncore.errors import DumpError

FORMATS = {  # exponent bits, mantissa bits, bias, and how infinity and NaN are spelled
    "F16": (5, 10, 15, "ieee"),
    "BF16": (8, 7, 127, "ieee"),
    "F8_E5M2": (5, 2, 15, "ieee"),
    "F8_E4M3": (4, 3, 7, "all ones"),
    "F8_E4M3FNUZ": (4, 3, 8, "negative zero"),
    "F8_E5M2FNUZ": (5, 2, 16, "negative zero"),
}


class TestDtypes:
    """Values are read exactly."""

    @staticmethod
    def value(bits: int, exponent_bits: int, mantissa_bits: int, bias: int, special: str) -> float:
        """Evaluate a bit pattern by the definition of its format."""
        mantissa = bits & (2**mantissa_bits - 1)
        exponent = bits >> mantissa_bits & (2**exponent_bits - 1)
        sign = -1 if bits >> (mantissa_bits + exponent_bits) else 1
        if special == "ieee" and exponent == 2**exponent_bits - 1:
            return float("nan") if mantissa else sign * float("inf")
        if special == "all ones" and exponent == 2**exponent_bits - 1 and mantissa == 2**mantissa_bits - 1:
            return float("nan")
        if special == "negative zero" and sign < 0 and not exponent and not mantissa:
            return float("nan")
        significand = Fraction(mantissa, 2**mantissa_bits) + (1 if exponent else 0)
        return sign * float(significand * Fraction(2) ** (max(exponent, 1) - bias))

    @pytest.mark.parametrize("dtype", FORMATS)
    def test_every_bit_pattern_of_a_narrow_float_has_the_value_that_its_format_defines(self, tmp_path, dtype):
        bits = 1 + sum(FORMATS[dtype][:2])
        raw = np.arange(2**bits, dtype=np.uint16 if bits == 16 else np.uint8)
        path = write(tmp_path / "a.safetensors", {"a.output": (dtype, [2**bits // 16, 16], raw.tobytes())})
        want = np.array([self.value(i, *FORMATS[dtype]) for i in range(2**bits)]).reshape(-1, 16)
        stored = only(open_dump(path)).output.read()
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            got = as_floats(stored)
            wide = got.astype(np.float64)
        np.testing.assert_array_equal(finite(stored), np.isfinite(want))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(wide, want)

    @pytest.mark.parametrize(("dtype", "numpy"), [("F32", np.float32), ("F64", np.float64)])
    def test_wide_floats_keep_every_bit(self, tmp_path, dtype, numpy):
        raw = np.random.default_rng(1).bytes(4096)
        path = write(tmp_path / "a.safetensors", {"a.output": (dtype, [len(raw) // 8, 8 // numpy().itemsize], raw)})
        got = as_floats(only(open_dump(path)).output.read())
        assert got.dtype == numpy
        assert got.tobytes() == raw

    @pytest.mark.parametrize("numpy", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
    def test_the_safetensors_library_reads_the_same(self, tmp_path, numpy):
        path = write(tmp_path / "a.safetensors", {"a.output": Y.astype(numpy)})
        got, want = only(open_dump(path)).output.read(), load_file(path)["a.output"]
        assert got.dtype == want.dtype == numpy
        assert got.tobytes() == want.tobytes()

    @pytest.mark.parametrize("dtype", ["I32", "I64", "U8", "BOOL", "F4", "F8_E8M0"])
    def test_an_input_that_is_not_floating_is_refused_with_the_remedy(self, tmp_path, dtype):
        count = {"I32": 32, "I64": 64, "F4": 4}.get(dtype, 8) * 16 // 8
        path = write(tmp_path / "a.safetensors", {"a.input": (dtype, [8, 2], bytes(count))})
        refused(path, says=f"a.input in .* has type {dtype}; .*dequantise")

    def test_other_tensors_that_are_not_floating_are_passed_over_with_a_note(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"a.output": Y, "ids": np.zeros((2, 3), np.int64)})
        dump = open_dump(path)
        assert list(dump.layers) == ["a"]
        assert dump.notes == ("ids is passed over: its type is I64",)


class TestNames:
    """Which tensor is what of which layer."""

    def test_the_parts_of_a_layer_are_told_by_their_suffix(self, tmp_path):
        parts = {"input": X, "output": Y, "weight": W, "bias": B, "gram": X.T @ X}
        layer = only(open_dump(write(tmp_path / "a.safetensors", {f"m.0.fc.{part}": parts[part] for part in parts})))
        assert layer.name == "m.0.fc"
        for part in ("input", "output", "weight", "gram"):
            np.testing.assert_array_equal(getattr(layer, part).read(), parts[part])
        np.testing.assert_array_equal(layer.bias.read()[:, 0], B)
        assert (layer.rows, layer.neurons, layer.scorable) == (6, 2, True)

    def test_the_plural_is_understood(self, tmp_path):
        layer = only(open_dump(write(tmp_path / "a.safetensors", {"fc.inputs": X, "fc.outputs": Y})))
        assert (layer.input.name, layer.output.name) == ("fc.inputs", "fc.outputs")

    def test_singular_and_plural_together_are_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.input": X, "fc.inputs": X})
        refused(path, says="holds fc.inputs? and fc.inputs?, two names for one tensor; keep one")

    @pytest.mark.parametrize("name", ["blocks.3.mlp.hook_pre", "model.layers[3].mlp.up_proj.value", "activations"])
    def test_a_floating_tensor_with_an_unknown_suffix_is_the_output_of_a_layer_of_that_name(self, tmp_path, name):
        layer = only(open_dump(write(tmp_path / "a.safetensors", {name: Y})))
        assert (layer.name, layer.output.name) == (name, name)
        np.testing.assert_array_equal(layer.output.read(), Y)

    def test_bare_names_make_one_layer_without_a_name_of_its_own(self, tmp_path):
        layer = only(open_dump(write(tmp_path / "a.safetensors", {"input": X, "output": Y, "weight": W, "bias": B})))
        assert layer.name == "layer"
        assert None not in (layer.input, layer.output, layer.weight, layer.bias)

    def test_layers_are_listed_in_the_order_of_their_numbers(self, tmp_path):
        names = ["h.0.fc", "h.2.fc", "h.9.fc", "h.10.fc", "h.10.proj", "head"]
        path = write(tmp_path / "a.safetensors", {f"{name}.output": Y for name in sorted(names)})
        assert list(open_dump(path).layers) == names

    def test_a_name_of_a_thousand_digits_is_a_name(self, tmp_path):
        assert only(open_dump(write(tmp_path / "a.safetensors", {"9" * 990: Y}))).name == "9" * 990

    def test_vectors_and_weights_of_three_axes_are_passed_over_with_a_note(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"norm.weight": B, "conv.weight": W[None], "scale": B, "fc.output": Y})
        dump = open_dump(path)
        assert list(dump.layers) == ["fc"]
        assert [note.split()[0] for note in dump.notes] == ["norm.weight", "conv.weight", "scale"]

    def test_a_dump_without_a_layer_is_refused(self, tmp_path):
        refused(write(tmp_path / "a.safetensors", {"norm.weight": B}), says="holds no layer")

    def test_a_layer_with_an_input_only_is_refused_when_it_is_to_be_scored(self, tmp_path):
        dump = open_dump(write(tmp_path / "a.safetensors", {"fc.input": X, "other.output": Y}))
        found = choose(dump, ["fc", "other"], "scorable")
        assert [layer.name for layer in found.ready] == ["other"]
        assert [failure.name for failure in found.failed] == ["fc"]
        with pytest.raises(DumpError, match="fc has an input but no weight and no output"):
            choose(dump, ["fc"], "scorable")

    def test_weights_alone_are_refused_when_they_are_to_be_scored(self, tmp_path):
        dump = open_dump(write(tmp_path / "a.safetensors", {"fc.weight": W}))
        with pytest.raises(DumpError, match="holds weights but no activations of fc"):
            choose(dump, ["fc"], "scorable")


class TestShapes:
    """The tensors of a layer must be of one layer and one run."""

    @pytest.mark.parametrize(
        ("tensors", "says"),
        [
            ({"input": X, "output": Y[:5]}, "input has 6 tokens, output 5"),
            ({"input": X, "weight": W.T}, "input has 3 channels, weight 2 columns"),
            ({"output": Y, "weight": W.T}, "output has 2 neurons, weight 3 rows"),
            ({"output": Y, "bias": X[0]}, "bias has 3 entries for 2 neurons"),
            ({"weight": W, "gram": W @ W.T}, "gram is 2 x 2 for 3 inputs"),
            ({"output": Y, "gram": X}, "gram is 6 x 3 for 3 inputs"),
        ],
    )
    def test_tensors_that_disagree_are_refused_with_their_sizes(self, tmp_path, tensors, says):
        path = write(tmp_path / "a.safetensors", {f"fc.{part}": array for part, array in tensors.items()})
        refused(path, says=f"fc: {says}; the tensors are not of one layer and one run")

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3)])
    def test_an_empty_tensor_is_refused(self, tmp_path, shape):
        refused(write(tmp_path / "a.safetensors", {"fc.output": np.zeros(shape)}), says="fc.output in .* is empty")


def test_the_helper_that_writes_raw_files_writes_what_the_library_reads(tmp_path):
    header, _ = layout({"a": X, "b": np.ones(3, bool)})
    loaded = load_file(write(tmp_path / "a.safetensors", {"a": X, "b": np.ones(3, bool)}, model="m"))
    assert list(header) == ["a", "b"]
    np.testing.assert_array_equal(loaded["a"], X)
    assert loaded["b"].tolist() == [True] * 3
