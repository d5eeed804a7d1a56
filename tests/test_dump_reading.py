"""Reading a dump, schema 1: what is recognised, how it is laid out as tokens, and that nothing is read too early."""

import json
import os
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rawfile import layout, pack, write
from safetensors.numpy import load_file

from wncore.dumps import open_dump
from wncore.dumps.dump import scorable_layers
from wncore.dumps.layer import Layer
from wncore.dumps.tensor import as_floats, finite
from wncore.errors import DumpError, InputError, ShapeError

RNG = np.random.default_rng(0)
X, Y, W, B = (
    RNG.standard_normal((6, 3)),
    RNG.standard_normal((6, 2)),
    RNG.standard_normal((2, 3)),
    RNG.standard_normal(2),
)


def only(dump) -> Layer:
    (layer,) = dump.layers.values()
    return layer


def refused(*sources, says: str, **options) -> None:
    with pytest.raises(DumpError, match=says):
        open_dump(*sources, **options)


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
        raw = RNG.bytes(4096)
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
        with pytest.raises(DumpError, match="fc has an input but no weight and no output"):
            scorable_layers(dump, ["fc", "other"])

    def test_weights_alone_are_refused_when_they_are_to_be_scored(self, tmp_path):
        dump = open_dump(write(tmp_path / "a.safetensors", {"fc.weight": W}))
        with pytest.raises(DumpError, match="holds weights but no activations of fc"):
            scorable_layers(dump, ["fc"])


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


class TestTokens:
    """Leading axes are tokens; a mask and the length of a sequence say which of them count."""

    def test_leading_axes_are_flattened_in_order(self, tmp_path):
        y = RNG.standard_normal((2, 3, 4, 5))
        layer = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": y})))
        np.testing.assert_array_equal(layer.output.read(), y.reshape(24, 5))

    def test_the_axis_before_the_last_is_the_sequence(self, tmp_path):
        y = RNG.standard_normal((2, 3, 5))
        tokens = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": y}), length=4)).tokens()
        assert tokens.sequence.tolist() == [0, 0, 0, 1, 1, 1]
        assert tokens.first.tolist() == [True, False, False] * 2

    def test_the_metadata_name_the_length_and_come_before_the_option(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y}, sequence_length="4")
        assert only(open_dump(path, length=3)).tokens().sequence.tolist() == [0, 0, 0, 0, 1, 1]

    def test_the_option_names_the_length_where_the_dump_does_not(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        assert only(open_dump(path, length=3)).tokens().sequence.tolist() == [0, 0, 0, 1, 1, 1]

    def test_without_a_length_every_token_is_its_own_and_none_is_first(self, tmp_path):
        layer = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": Y})))
        assert layer.tokens().sequence.tolist() == list(range(6))
        assert not layer.tokens().first.any()
        with pytest.raises(
            InputError, match=r"fc: --skip-tokens needs the length .* wncore.sequence_length .* --length"
        ):
            layer.tokens(1)

    @pytest.mark.parametrize("text", ["", "0", "-3", "3.0", "1e3", " 3", "\u0663", "9" * 30, "1" * 5000, "null"])
    def test_a_length_that_is_no_positive_number_is_refused(self, tmp_path, text):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y}, sequence_length=text)
        refused(path, says="wncore.sequence_length is .*; it must be a positive number")

    @pytest.mark.parametrize("length", [0, -1])
    def test_an_option_that_is_no_positive_number_is_refused(self, tmp_path, length):
        with pytest.raises(InputError, match="at least one token"):
            open_dump(write(tmp_path / "a.safetensors", {"fc.output": Y}), length=length)

    @pytest.mark.parametrize("dtype", [bool, np.uint8])
    @pytest.mark.parametrize("shape", [(6,), (2, 3)])
    def test_a_mask_leaves_padding_out(self, tmp_path, dtype, shape):
        mask = np.array([1, 1, 0, 1, 0, 0], dtype).reshape(shape)
        layer = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": Y, "tokens.mask": mask})))
        tokens = layer.tokens()
        assert tokens.keep.tolist() == [True, True, False, True, False, False]
        assert (tokens.count, tokens.all_kept) == (3, False)

    @settings(deadline=None)
    @given(data=st.data())
    def test_tokens_are_counted_as_by_hand_whatever_the_padding(self, data, tmp_path_factory):
        batch = data.draw(st.integers(1, 4), "sequences")
        length = data.draw(st.integers(1, 5), "length")
        skip = data.draw(st.integers(0, 3), "skip")
        mask = data.draw(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length), "mask")
        grid = np.array(mask).reshape(batch, length)
        want = [(b, p, rank) for b in range(batch) for rank, p in enumerate(np.flatnonzero(grid[b])) if rank >= skip]
        path = tmp_path_factory.mktemp("tokens") / "a.safetensors"
        write(path, {"fc.output": np.zeros((batch, length, 2)), "tokens.mask": grid})
        layer = only(open_dump(path))
        if len(want) < 2:
            with pytest.raises(
                InputError, match=f"fc has {len(want)} tokens that count, of {batch * length}; at least 2"
            ):
                layer.tokens(skip)
            return
        tokens = layer.tokens(skip)
        assert np.flatnonzero(tokens.keep).tolist() == [b * length + p for b, p, _ in want]
        assert tokens.sequence.tolist() == [b for b, _, _ in want]
        assert tokens.first.tolist() == [rank == 0 for _, _, rank in want]

    @pytest.mark.parametrize("padded", [[0, 0, 1, 1, 0, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1, 0]], ids=["left", "right"])
    def test_skipping_counts_from_the_first_token_that_is_not_padding(self, tmp_path, padded):
        tensors = {"fc.output": np.zeros((2, 4, 2)), "tokens.mask": np.array(padded, np.uint8).reshape(2, 4)}
        tokens = only(open_dump(write(tmp_path / "a.safetensors", tensors))).tokens(skip=1)
        real = np.flatnonzero(padded)
        assert np.flatnonzero(tokens.keep).tolist() == [int(real[1]), int(real[3]), int(real[4])]

    def test_a_negative_skip_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="cannot be negative; got -1"):
            only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": Y}))).tokens(-1)

    def test_a_mask_of_another_length_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y, "tokens.mask": np.ones(5, bool)})
        refused(path, says="tokens.mask in .* has 5 positions for the 6 tokens of fc.output; write one for each")

    def test_a_mask_of_another_type_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y, "tokens.mask": np.ones(6, np.int64)})
        refused(path, says="tokens.mask in .* has type I64; a mask must be BOOL or U8")

    @pytest.mark.parametrize("dtype", ["BOOL", "U8"])
    def test_a_mask_that_holds_anything_but_0_and_1_is_refused(self, tmp_path, dtype):
        path = write(
            tmp_path / "a.safetensors", {"fc.output": Y, "tokens.mask": (dtype, [6], bytes([1, 1, 1, 0, 0, 7]))}
        )
        with pytest.raises(DumpError, match=r"tokens\.mask holds 7; only 0"):
            only(open_dump(path)).tokens()


class TestSharedInputs:
    """An input that two layers read is stored once."""

    def tensors(self):
        return {"up.input": X, "up.weight": W, "gate.weight": W + 1}

    def test_a_layer_reads_the_input_of_another(self, tmp_path):
        path = write(tmp_path / "a.safetensors", self.tensors(), shared_inputs='{"gate": "up"}', sequence_length="3")
        gate = open_dump(path).layers["gate"]
        np.testing.assert_array_equal(gate.input.read(), X)
        np.testing.assert_array_equal(gate.weight.read(), W + 1)
        assert gate.tokens().sequence.tolist() == [0, 0, 0, 1, 1, 1]

    def test_its_mask_comes_with_it(self, tmp_path):
        tensors = self.tensors() | {"tokens.mask": np.array([1, 1, 1, 0, 1, 0], bool)}
        dump = open_dump(write(tmp_path / "a.safetensors", tensors, shared_inputs='{"gate": "up"}'))
        assert dump.layers["gate"].tokens().keep.tolist() == dump.layers["up"].tokens().keep.tolist()

    def test_an_input_of_its_own_comes_first(self, tmp_path):
        tensors = self.tensors() | {"gate.input": X + 1}
        dump = open_dump(write(tmp_path / "a.safetensors", tensors, shared_inputs='{"gate": "up"}'))
        np.testing.assert_array_equal(dump.layers["gate"].input.read(), X + 1)

    def test_the_input_must_fit_its_second_reader_too(self, tmp_path):
        tensors = self.tensors() | {"gate.weight": W[:, :2].copy()}
        path = write(tmp_path / "a.safetensors", tensors, shared_inputs='{"gate": "up"}')
        refused(path, says="gate: input has 3 channels, weight 2 columns")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('{"gate": "down"}', "gate reads the input of down, which is not there"),
            ('{"gate": "gate"}', "gate reads the input of gate, which is not there"),
            ("{", "not sound JSON"),
            ('{"gate": "up", "gate": "down"}', "not sound JSON: 'gate' stands twice"),
            ("[" * 100_000, "not sound JSON: it is nested too deeply"),
            ('["gate", "up"]', "must map names of layers to names of layers"),
            ('{"gate": 3}', "must map names of layers to names of layers"),
        ],
    )
    def test_nonsense_is_refused(self, tmp_path, text, says):
        refused(write(tmp_path / "a.safetensors", self.tensors(), shared_inputs=text), says=says)


class TestSeveralFiles:
    """Files, a sharded set or a folder are one dump."""

    def pieces(self, folder: Path, names: list[str], **more) -> list[Path]:
        """Write Y in as many pieces as there are names."""
        parts = np.array_split(Y, len(names))
        return [write(folder / name, {"fc.output": part, **more}) for name, part in zip(names, parts, strict=True)]

    def test_pieces_of_an_output_are_joined_in_the_order_of_the_files(self, tmp_path):
        a, b, c = self.pieces(tmp_path, ["z.safetensors", "y.safetensors", "x.safetensors"])
        np.testing.assert_array_equal(only(open_dump(a, b, c)).output.read(), Y)

    def test_every_piece_starts_a_sequence(self, tmp_path):
        a, b = self.pieces(tmp_path, ["a.safetensors", "b.safetensors"])
        assert only(open_dump(a, b, length=2)).tokens().sequence.tolist() == [0, 0, 1, 2, 2, 3]

    def test_the_files_of_a_folder_are_ordered_by_their_numbers(self, tmp_path):
        self.pieces(tmp_path, [f"part-{i}.safetensors" for i in (1, 2, 10)])
        np.testing.assert_array_equal(only(open_dump(tmp_path)).output.read(), Y)

    def test_a_folder_is_read_without_what_is_hidden_or_no_safetensors(self, tmp_path):
        self.pieces(tmp_path, ["a.safetensors"])
        for name in (".b.safetensors", ".a.safetensors.x.partial", "notes.txt"):
            (tmp_path / name).write_text("no tensors")
        assert open_dump(tmp_path).files == (tmp_path / "a.safetensors",)

    def test_pieces_of_different_types_are_refused(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.output": Y})
        b = write(tmp_path / "b.safetensors", {"fc.output": Y.astype(np.float32)})
        refused(
            a, b, says=r"fc.output is F64 \(6, 2\) in .* and F32 \(6, 2\) in .*; pieces must have one type and width"
        )

    def test_an_equal_weight_in_two_files_is_one_weight(self, tmp_path):
        a, b = self.pieces(tmp_path, ["a.safetensors", "b.safetensors"], **{"fc.weight": W, "fc.bias": B})
        layer = only(open_dump(a, b))
        np.testing.assert_array_equal(layer.weight.read(), W)
        assert layer.bias.rows == 2

    @pytest.mark.parametrize("other", [W + 1e-9, W[:1], -W])
    def test_a_weight_that_differs_between_files_is_refused(self, tmp_path, other):
        a = write(tmp_path / "a.safetensors", {"fc.weight": W, "fc.input": X})
        b = write(tmp_path / "b.safetensors", {"fc.weight": other, "fc.input": X})
        refused(a, b, says="fc.weight differs between .*a.safetensors and .*b.safetensors; keep the right one")

    def test_every_file_may_have_its_own_mask(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.output": Y[:4], "tokens.mask": np.array([1, 1, 0, 0], bool)})
        b = write(tmp_path / "b.safetensors", {"fc.output": Y[4:], "tokens.mask": np.array([0, 1], bool)})
        assert only(open_dump(a, b)).tokens().keep.tolist() == [True, True, False, False, False, True]
        assert only(open_dump(b, a)).tokens().keep.tolist() == [False, True, True, True, False, False]

    def test_own_masks_must_fit_file_by_file(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.output": Y[:4], "tokens.mask": np.ones(2, bool)})
        b = write(tmp_path / "b.safetensors", {"fc.output": Y[4:], "tokens.mask": np.ones(4, bool)})
        refused(a, b, says="tokens.mask in .*a.safetensors has 2 positions for the 4 tokens of fc.output; write one")

    def test_one_mask_may_serve_the_whole_set(self, tmp_path):
        a, b = self.pieces(tmp_path, ["a.safetensors", "b.safetensors"])
        mask = write(tmp_path / "m.safetensors", {"tokens.mask": np.array([1, 0, 1, 1, 1, 0], bool)})
        assert only(open_dump(a, b, mask)).tokens().keep.tolist() == [True, False, True, True, True, False]

    def test_one_mask_must_be_as_long_as_the_set(self, tmp_path):
        a, b = self.pieces(tmp_path, ["a.safetensors", "b.safetensors"])
        mask = write(tmp_path / "m.safetensors", {"tokens.mask": np.ones(5, bool)})
        refused(a, b, mask, says="tokens.mask has 5 positions for the 6 tokens of fc.output")

    def test_layers_may_lie_in_different_files(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.input": X})
        b = write(tmp_path / "b.safetensors", {"fc.weight": W, "other.output": Y})
        dump = open_dump(a, b)
        assert list(dump.layers) == ["fc", "other"]
        assert dump.layers["fc"].scorable

    def test_the_same_file_twice_is_refused(self, tmp_path):
        (a,) = self.pieces(tmp_path, ["a.safetensors"])
        link = tmp_path / "link.safetensors"
        link.symlink_to(a)
        for again in (a, tmp_path / "." / "a.safetensors", link, tmp_path):
            refused(a, again, says="was named twice and its tokens would count double")

    def test_files_of_different_runs_are_refused(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.output": Y}, model="one")
        b = write(tmp_path / "b.safetensors", {"fc.output": Y}, model="two")
        refused(a, b, says="b.safetensors says wncore.model = 'two', another file of the dump 'one'")

    def test_another_schema_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y}, schema="2")
        refused(path, says="has schema '2'; this version reads 1, install a newer wncore")

    def test_no_source_at_all_is_refused(self):
        refused(says="no dump was named")


WHERE = {"fc.weight": "a-1.safetensors", "fc.output": ["a-1.safetensors", "a-2.safetensors"]}


class TestIndex:
    """A sharded set by its index, as Hugging Face writes it, or with several files for a tensor."""

    def index(self, folder: Path, content) -> Path:
        path = folder / "dump.safetensors.index.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def shards(self, folder: Path) -> None:
        write(folder / "a-1.safetensors", {"fc.output": Y[:4], "fc.weight": W})
        write(folder / "a-2.safetensors", {"fc.output": Y[4:]})
        write(folder / "stray.safetensors", {"fc.output": Y})

    def test_the_index_or_its_folder_name_the_set(self, tmp_path):
        self.shards(tmp_path)
        index = self.index(tmp_path, {"metadata": {"total_size": 1.5e3}, "weight_map": WHERE})
        for source in (index, tmp_path):
            dump = open_dump(source)
            assert [path.name for path in dump.files] == ["a-1.safetensors", "a-2.safetensors"]
            np.testing.assert_array_equal(only(dump).output.read(), Y)

    @pytest.mark.parametrize(
        ("where", "says"),
        [
            ({"fc.output": "gone.safetensors"}, "names gone.safetensors, which is missing; copy it beside the index"),
            ({"fc.output": "../a-1.safetensors"}, "a shard lies beside its index, with no folder in its name"),
            ({"fc.output": "/etc/passwd"}, "a shard lies beside its index"),
            ({"fc.output": "..\\a"}, "a shard lies beside its index"),
            ({"fc.output": ".."}, "a shard lies beside its index"),
            ({"fc.output": ""}, "a shard lies beside its index"),
            ({"fc.output": "a\0b"}, "a shard lies beside its index"),
            ({"fc.output": 3}, "a shard lies beside its index"),
            ({"fc.output": [["a-1.safetensors"]]}, "a shard lies beside its index"),
            ({"fc.output": None}, "a shard lies beside its index"),
            ({"fc.output": "n" * 5000}, "which is missing"),
            ({"fc.output": []}, "must list the files of fc.output once, in the order of their numbers"),
            ({"fc.output": ["a-2.safetensors", "a-1.safetensors"]}, "in the order of their numbers"),
            ({"fc.output": ["a-1.safetensors", "a-1.safetensors"]}, "must list the files of fc.output once"),
            ({"fc.bias": "a-1.safetensors"}, "a-1.safetensors lacks fc.bias, which its index says it holds"),
            ({"fc.weight": ["a-1.safetensors", "a-2.safetensors"]}, "a-2.safetensors lacks fc.weight"),
            ({}, "needs an object 'weight_map'"),
            ([], "needs an object 'weight_map'"),
        ],
    )
    def test_an_index_that_misleads_is_refused(self, tmp_path, where, says):
        self.shards(tmp_path)
        refused(self.index(tmp_path, {"weight_map": where}), says=says)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "3", "{}", '{"weight_map": {"a": "b", "a": "c"}}', "[" * 100_000]
    )
    def test_an_index_that_is_none_is_refused(self, tmp_path, text):
        refused(self.index(tmp_path, text), says="is not sound JSON|is no index of shards")

    def test_two_indexes_in_a_folder_are_refused(self, tmp_path):
        self.shards(tmp_path)
        self.index(tmp_path, {"weight_map": WHERE}).rename(tmp_path / "b.safetensors.index.json")
        self.index(tmp_path, {"weight_map": WHERE})
        refused(tmp_path, says="holds 2 indexes; name one: b.safetensors.index.json, dump.safetensors.index.json")

    def test_an_empty_folder_is_refused(self, tmp_path):
        refused(tmp_path, says="holds no .safetensors file")


class TestLaziness:
    """Nothing is read before it is asked for, and then no more than that."""

    SPAN = 1 << 40

    def sparse(self, path: Path) -> Path:
        """Write a file of a terabyte that takes a few kilobytes: all zeros but for one row."""
        rows = self.SPAN // 4096
        header = {"fc.output": {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [0, self.SPAN]}}
        start = pack(header)
        path.write_bytes(start)
        os.truncate(path, len(start) + self.SPAN)
        with path.open("rb+") as file:
            file.seek(len(start) + 12345678 * 4096)
            file.write(np.arange(1024, dtype=np.float32).tobytes())
        return path

    @staticmethod
    def read_bytes() -> int:
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["rchar"])

    @pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes read as Linux does")
    def test_opening_reads_the_header_only_and_a_row_its_row(self, tmp_path):
        path = self.sparse(tmp_path / "a.safetensors")
        before = self.read_bytes()
        output = only(open_dump(path)).output
        np.testing.assert_array_equal(output.read(slice(12345678, 12345679))[0], np.arange(1024))
        assert self.read_bytes() - before < 20_000

    def test_a_terabyte_is_opened_where_no_gigabyte_of_addresses_is_left(self, tmp_path):
        path = self.sparse(tmp_path / "a.safetensors")
        script = """
            import resource, sys
            from wncore.dumps import open_dump
            used = int(open("/proc/self/statm").read().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
            print(open_dump(sys.argv[1]).layers["fc"].output.read(slice(12345678, 12345679))[0, 5])
        """
        command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
        assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "5.0\n"

    def test_a_few_columns_of_a_row_that_fits_no_memory_can_be_read(self, tmp_path):
        start = pack({"fc.output": {"dtype": "F32", "shape": [2, self.SPAN // 8], "data_offsets": [0, self.SPAN]}})
        path = tmp_path / "a.safetensors"
        path.write_bytes(start)
        os.truncate(path, len(start) + self.SPAN)
        assert only(open_dump(path)).output.read(columns=slice(10**9, 10**9 + 3)).tolist() == [[0.0] * 3] * 2


class TestParts:
    """Rows and columns are read as NumPy would slice the whole."""

    @settings(deadline=None)
    @given(data=st.data())
    def test_a_part_equals_the_slice_of_the_whole(self, data, tmp_path_factory):
        heights = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4), "rows of the pieces")
        width = data.draw(st.integers(1, 9), "columns")
        dtype = data.draw(st.sampled_from([np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2]), "dtype")
        whole = np.arange(sum(heights) * width).reshape(-1, width).astype(dtype)
        bounds = st.one_of(st.none(), st.integers(-12, 30))
        rows, columns = (slice(data.draw(bounds, "from"), data.draw(bounds, "to")) for _ in range(2))
        folder = tmp_path_factory.mktemp("parts")
        pieces = np.split(whole, np.cumsum(heights)[:-1])
        paths = [write(folder / f"{i}.safetensors", {"fc.output": piece}) for i, piece in enumerate(pieces)]
        output = only(open_dump(*paths)).output
        got, want = output.read(rows, columns), whole[rows, columns]
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert got.tobytes() == want.tobytes()

    @pytest.mark.parametrize("columns", [slice(0, 3), slice(70_000, 90_000), slice(1, 90_000), slice(89_999, 90_000)])
    def test_wide_rows_are_read_alike_whichever_way_is_quicker(self, tmp_path, columns):
        whole = RNG.standard_normal((5, 90_000)).astype(np.float32)
        output = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": whole}))).output
        np.testing.assert_array_equal(output.read(slice(1, 4), columns), whole[1:4, columns])

    def test_steps_are_refused(self, tmp_path):
        output = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": Y}))).output
        for rows, columns in ((slice(None, None, 2), slice(None)), (slice(None), slice(None, None, -1))):
            with pytest.raises(ShapeError, match=r"fc\.output is read without steps"):
                output.read(rows, columns)

    def test_chunks_cover_the_rows_once_and_keep_the_budget(self, tmp_path):
        output = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": Y}))).output
        chunks = list(output.chunks(row_bytes=16, budget=40))
        assert [list(range(6))[chunk] for chunk in chunks] == [[0, 1], [2, 3], [4, 5]]
        assert len(list(output.chunks(row_bytes=16, budget=1))) == 6


class TestChanges:
    """A file that is written to meanwhile is noticed."""

    def test_a_file_that_changed_since_it_was_opened_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        output = only(open_dump(path)).output
        write(path, {"fc.output": -Y})
        os.utime(path, ns=(0, 0))
        with pytest.raises(DumpError, match="changed while it was being read; wait for its writer"):
            output.read()

    def test_a_file_that_shrank_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        output = only(open_dump(path)).output
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(DumpError, match="changed while it was being read"):
            output.read()

    def test_a_file_that_was_removed_is_missed(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        output = only(open_dump(path)).output
        path.unlink()
        with pytest.raises(DumpError, match="there is no file"):
            output.read()


def test_the_helper_that_writes_raw_files_writes_what_the_library_reads(tmp_path):
    header, _ = layout({"a": X, "b": np.ones(3, bool)})
    loaded = load_file(write(tmp_path / "a.safetensors", {"a": X, "b": np.ones(3, bool)}, model="m"))
    assert list(header) == ["a", "b"]
    np.testing.assert_array_equal(loaded["a"], X)
    assert loaded["b"].tolist() == [True] * 3
