"""The tokens of a dump: how they are laid out, which of them count, and inputs that layers share."""

import numpy as np
import pytest
from dump_samples import W, X, Y, only, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from rawfile import write

from wncore.dumps import open_dump
from wncore.errors import DumpError, InputError


class TestTokens:
    """Leading axes are tokens; a mask and the length of a sequence say which of them count."""

    def test_leading_axes_are_flattened_in_order_and_heads_lie_beside_each_other(self, tmp_path):
        y = np.random.default_rng(1).standard_normal((2, 3, 4, 5))
        layer = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": y})))
        np.testing.assert_array_equal(layer.output.read(), y.reshape(6, 20))

    def test_the_axis_before_the_last_is_the_sequence(self, tmp_path):
        y = np.random.default_rng(1).standard_normal((2, 3, 5))
        tokens = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": y}), length=4)).tokens()
        assert tokens.sequence.tolist() == [0, 0, 0, 1, 1, 1]
        assert tokens.first.tolist() == [True, False, False] * 2

    @pytest.mark.parametrize("length", [None, 4])
    def test_the_metadata_name_the_length(self, tmp_path, length):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y}, sequence_length="4")
        assert only(open_dump(path, length=length)).tokens().sequence.tolist() == [0, 0, 0, 0, 1, 1]

    def test_an_option_that_contradicts_the_metadata_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y}, sequence_length="4")
        with pytest.raises(InputError, match="says that a sequence has 4 tokens, and you say 3; leave --length out"):
            open_dump(path, length=3)

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
        shape = data.draw(st.tuples(st.integers(1, 4), st.integers(2, 6)), "sequences and their length")
        skip = data.draw(st.integers(0, 3), "skip")
        share = data.draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]), "share that is kept")
        grid = np.random.default_rng(data.draw(st.integers(0, 999), "seed")).random(shape) < share
        want = [(b, p, rank) for b in range(shape[0]) for rank, p in enumerate(np.flatnonzero(grid[b])) if rank >= skip]
        path = tmp_path_factory.mktemp("tokens") / "a.safetensors"
        write(path, {"fc.output": np.zeros((*shape, 2)), "tokens.mask": grid})
        layer = only(open_dump(path))
        if len(want) < 2:
            with pytest.raises(InputError, match=f"fc has {len(want)} tokens that count, of {grid.size}; at least 2"):
                layer.tokens(skip)
            return
        tokens = layer.tokens(skip)
        assert np.flatnonzero(tokens.keep).tolist() == [b * shape[1] + p for b, p, _ in want]
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
        gate, up = (open_dump(path).layers[name] for name in ("gate", "up"))
        with pytest.raises(DumpError, match="gate: input has 3 channels, weight 2 columns"):
            gate.check()
        up.check()

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
