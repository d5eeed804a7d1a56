"""Where sequences and positions are known, asked for, or said to be unknown; masks that have axes of their own."""

import json

import numpy as np
import pytest
from dump_samples import only, refused
from head_samples import FLAT, MASK, B, C, H, P, Q, opened, positions
from rawfile import write
from safetensors.numpy import save_file

from wncore.dumps import open_dump, write_dump
from wncore.errors import InputError


class TestMasks:
    """A mask of any layout fits tensors of any layout, if it has the tokens and sequences of them."""

    @pytest.mark.parametrize("mask", [(B, P), (B, P, 1), (B, 1, 1, P), (B * P,), (B * P, 1), (1, B * P)])
    @pytest.mark.parametrize("shape", [(B, P, H, C), (B, P, H * C), (B * P, H * C), (B * P, 1, H * C), (1, B * P, 15)])
    @pytest.mark.parametrize("dtype", [bool, np.uint8])
    def test_it_fits(self, tmp_path, mask, shape, dtype):
        tensors = {"q.output": Q.reshape(shape), "tokens.mask": MASK.astype(dtype).reshape(mask)}
        layer = only(opened(tmp_path, tensors, length=P))
        np.testing.assert_array_equal(layer.output.read(), FLAT)
        tokens = layer.tokens()
        assert tokens.keep.tolist() == MASK.ravel().tolist()
        assert tokens.sequence.tolist() == np.repeat(np.arange(B), MASK.sum(axis=1)).tolist()
        rank = np.cumsum(MASK, axis=1) - 1
        assert layer.tokens(2).keep.tolist() == (MASK & (rank >= 2)).ravel().tolist()

    @pytest.mark.parametrize("shape", [(B, P, H, C), (B, P, H * C)])
    def test_one_that_is_swapped_is_refused(self, tmp_path, shape):
        path = write(tmp_path / "a.safetensors", {"q.output": Q.reshape(shape), "tokens.mask": MASK.reshape(P, B)})
        refused(path, says=r"q: by the axes \(6, 4\) of tokens.mask a sequence has 4 tokens, and 6 in q.output")

    def test_one_that_contradicts_the_stated_length_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"q.output": FLAT, "tokens.mask": MASK})
        refused(path, length=8, says=r"by the axes \(4, 6\) of tokens.mask a sequence has 6 tokens, and 8 in q.output")

    def test_one_of_the_wrong_size_is_not_taken_for_heads(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"q.output": Q.reshape(B, P, 15), "tokens.mask": MASK[:, 0].copy()})
        refused(path, says="has 4 positions for the 24 tokens of q.output")

    @pytest.mark.parametrize("shape", [(B * P, 15), (B * P, 1, 15)])
    def test_it_tells_the_length_of_sequences_that_nothing_else_tells(self, tmp_path, shape):
        dump = opened(tmp_path, {"q.output": FLAT.reshape(shape), "tokens.mask": np.ones((B, P), bool)})
        assert positions(only(dump).tokens()) == [0, 6, 12, 18]
        assert only(dump).tokens(2).count == B * (P - 2)
        assert dump.notes == ("q.output: a sequence has 6 tokens, by the axes (4, 6) of tokens.mask",)

    def test_it_tells_sequences_and_padding_at_once(self, tmp_path):
        rank = np.cumsum(MASK, axis=1) - 1
        dump = opened(tmp_path, {"q.output": FLAT, "tokens.mask": MASK})
        assert only(dump).tokens(1).keep.tolist() == (MASK & (rank >= 1)).ravel().tolist()

    def test_a_stated_length_that_it_confirms_needs_no_word(self, tmp_path):
        assert opened(tmp_path, {"q.output": FLAT, "tokens.mask": MASK}, length=P).notes == ()

    @pytest.mark.parametrize("cut", [2, 3])
    def test_one_that_is_swapped_is_refused_beside_any_pieces(self, tmp_path, cut):
        """A set of two files, and a mask of its own file for both."""
        y = Q.reshape(B, P, 15)
        write(tmp_path / "1.safetensors", {"q.output": y[:cut].copy()})
        write(tmp_path / "2.safetensors", {"q.output": y[cut:].copy()})
        write(tmp_path / "3.safetensors", {"tokens.mask": MASK.reshape(P, B)})
        refused(tmp_path, says=r"q: by the axes \(6, 4\) of tokens.mask a sequence has 4 tokens, and 6 in q.output")
        write(tmp_path / "3.safetensors", {"tokens.mask": MASK})
        layer = only(open_dump(tmp_path))
        assert layer.tokens().keep.tolist() == MASK.ravel().tolist()

    def test_it_must_fit_the_input_where_the_output_is_flat(self, tmp_path):
        tensors = {"q.input": Q.reshape(B, P, 15), "q.output": FLAT[:, :7].copy(), "tokens.mask": MASK.reshape(P, B)}
        path = write(tmp_path / "a.safetensors", tensors)
        refused(path, says=r"q: by the axes \(6, 4\) of tokens.mask a sequence has 4 tokens, and 6 in q.input")


class TestLengths:
    """A length that is stated has its effect, or a word is said."""

    @pytest.mark.parametrize("shape", [(1, 24, 15), (24, 15), (24, 1, 15), (1, 24, 3, 5), (24, 1, 3, 5)])
    @pytest.mark.parametrize("stated", [{"length": 4}, {"sequence_length": "4"}])
    def test_it_cuts_tokens_that_lie_in_one_row(self, tmp_path, shape, stated):
        layer = only(opened(tmp_path, {"q.output": Q.reshape(shape)}, **stated))
        assert positions(layer.tokens()) == [0, 4, 8, 12, 16, 20]
        assert layer.tokens(1).count == 18

    def test_a_row_without_one_is_a_sequence(self, tmp_path):
        assert positions(only(opened(tmp_path, {"q.output": Q.reshape(1, 24, 15)})).tokens()) == [0]

    @pytest.mark.parametrize("shape", [(24, 1, 15), (24, 1, 3, 5)])
    def test_an_axis_of_one_is_no_position(self, tmp_path, shape):
        dump = opened(tmp_path, {"q.output": Q.reshape(shape)})
        tokens = only(dump).tokens()
        assert tokens.sequence.tolist() == list(range(24))
        assert not tokens.first.any()
        assert any("do not tell how long a sequence is; --length says it" in note for note in dump.notes)
        with pytest.raises(InputError, match="--skip-tokens needs the length"):
            only(dump).tokens(1)

    @pytest.mark.parametrize("stated", [{"length": 8}, {"sequence_length": "8"}])
    def test_axes_overrule_it_with_a_word(self, run, tmp_path, stated):
        dump = opened(tmp_path, {"q.output": Q.reshape(B, P, 15)}, **stated)
        assert positions(only(dump).tokens()) == [0, 6, 12, 18]
        (note,) = dump.notes
        assert note.startswith("q.output: ")
        assert "length 8 has no effect, by the axes (4, 6, 15)" in note
        more = ["--length", 8] if "length" in stated else []
        assert "8 has no effect" in run("score", tmp_path / "a.safetensors", *more)[2]

    @pytest.mark.parametrize("shape", [(24, 15), (1, 24, 15), (24, 1, 15)])
    @pytest.mark.parametrize("stated", [7, 100])
    def test_sequences_that_are_not_whole_are_named(self, tmp_path, shape, stated):
        dump = opened(tmp_path, {"q.output": Q.reshape(shape)}, length=stated)
        assert positions(only(dump).tokens()) == list(range(0, 24, stated))
        assert f"24 tokens are no whole number of sequences of {stated}, " in dump.notes[0]
        assert f"the last has {24 % stated}" in dump.notes[0]

    def test_one_that_fits_needs_no_word(self, tmp_path):
        for shape in ((24, 15), (B, P, 15), (1, 24, 15)):
            assert opened(tmp_path, {"q.output": Q.reshape(shape)}, length=P).notes == ()

    def test_an_option_without_tokens_is_refused(self, run, tmp_path):
        path = write(tmp_path / "a.safetensors", {"l.gram": np.eye(3), "l.weight": np.ones((2, 3))})
        with pytest.raises(InputError, match="--length 8 has no effect: no layer has inputs or outputs; leave it out"):
            open_dump(path, length=8)
        assert run("prune", path, "--length", 8)[0] == 1

    def test_metadata_and_masks_without_tokens_are_named(self, tmp_path):
        tensors = {"l.gram": np.eye(3), "l.weight": np.ones((2, 3)), "tokens.mask": np.ones(6, bool)}
        assert opened(tmp_path, tensors, sequence_length="3").notes == (
            "wncore.sequence_length and tokens.mask: without effect, since no layer has inputs or outputs",
        )

    def test_names_in_metadata_that_are_not_there_are_named(self, tmp_path):
        notes = opened(tmp_path, {"l.output": FLAT}, gram_tokens='{"l": 3}', shared_inputs='{"k": "l"}').notes
        assert notes == (
            "wncore.gram_tokens has no effect on l: no gram of that name is there",
            "wncore.shared_inputs has no effect on k: no such layer is there, or it has an input of its own",
        )

    def test_metadata_of_other_names_are_named(self, tmp_path):
        notes = opened(tmp_path, {"l.output": FLAT}, seq_length="6", model="m", text="t", schema="1").notes
        what = "what is read is called wncore.sequence_length, wncore.shared_inputs, wncore.gram_tokens"
        assert notes == (f"metadata without effect: wncore.seq_length; {what}",)
        path = tmp_path / "b.safetensors"
        save_file({"l.output": FLAT}, path, metadata={"sequence_length": "6", "format": "pt"})
        assert open_dump(path).notes == (f"metadata without effect: sequence_length; {what}",)

    def test_input_and_output_must_lay_their_tokens_out_alike(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"l.input": Q.reshape(B, P, 15), "l.output": FLAT.reshape(P, B, 15)})
        refused(path, says=r"l: by the axes \(4, 6, 15\) of l.input a sequence has 6 tokens, and 4 in l.output")

    def test_so_they_must_in_any_number_of_pieces(self, tmp_path):
        write(tmp_path / "1.safetensors", {"l.input": Q.reshape(B, P, 15)})
        for i in range(2):
            write(tmp_path / f"{2 + i}.safetensors", {"l.output": FLAT.reshape(P, B, 15)[3 * i :][:3].copy()})
        refused(tmp_path, says=r"l: by the axes \(4, 6, 15\) of l.input a sequence has 6 tokens, and 4 in l.output")

    def test_the_input_tells_the_sequences_of_a_flat_output(self, tmp_path):
        tensors = {"l.input": Q.reshape(B, P, 15), "l.output": FLAT[:, :7].copy()}
        dump = opened(tmp_path, tensors)
        assert positions(only(dump).tokens()) == [0, 6, 12, 18]
        assert only(dump).tokens(1).count == B * (P - 1)
        assert dump.notes == ("l.output: a sequence has 6 tokens, by the axes (4, 6, 15) of l.input",)
        assert positions(only(opened(tmp_path, tensors, length=6)).tokens()) == [0, 6, 12, 18]
        refused(tmp_path / "a.safetensors", length=8, says="of l.input a sequence has 6 tokens, and 8 in l.output")

    @pytest.mark.parametrize("cut", [9, 18])
    def test_pieces_of_outputs_may_be_cut_within_the_sequences_of_the_input(self, tmp_path, cut):
        write(tmp_path / "1.safetensors", {"l.input": Q.reshape(B, P, 15)})
        write(tmp_path / "2.safetensors", {"l.output": FLAT[:cut, :7].copy()})
        write(tmp_path / "3.safetensors", {"l.output": FLAT[cut:, :7].copy()})
        assert positions(only(open_dump(tmp_path)).tokens()) == [0, 6, 12, 18]

    def test_a_single_row_is_said_to_be_one_sequence(self, tmp_path):
        (note,) = opened(tmp_path, {"q.output": FLAT[None]}).notes
        assert note.startswith("q.output: the row (1, 24, 15) is read as one sequence of 24 tokens; ")

    def test_rows_of_different_length_in_several_files(self, tmp_path):
        write(tmp_path / "1.safetensors", {"q.output": FLAT[None, :10].copy()})
        write(tmp_path / "2.safetensors", {"q.output": FLAT[None, 10:].copy()})
        assert positions(only(open_dump(tmp_path)).tokens()) == [0, 10]
        assert positions(only(open_dump(tmp_path, length=5)).tokens()) == [0, 5, 10, 15, 20]

    def test_shards_of_tokens_with_an_axis_of_one_are_cut_between_sequences(self, tmp_path):
        y = FLAT.reshape(24, 1, 15)
        files = write_dump(tmp_path / "d", {"q.output": y}, sequence_length=6, shard_bytes=y.nbytes // 2 - 1)
        assert len(files) > 3
        assert positions(only(open_dump(tmp_path / "d")).tokens()) == [0, 6, 12, 18]

    def test_inspect_says_the_length(self, run, tmp_path):
        for shape, length in (((B, P, 15), 6), ((24, 15), None), ((24, 1, 15), None), ((B, P, 3, 5), 6)):
            path = write(tmp_path / "a.safetensors", {"q.output": Q.reshape(shape)})
            assert json.loads(run("inspect", path, "--json")[1])["layers"][0]["sequence_length"] == length

    def test_inspect_says_no_length_where_pieces_differ(self, run, tmp_path):
        write(tmp_path / "1.safetensors", {"q.output": FLAT[:12].reshape(2, 6, 15)})
        write(tmp_path / "2.safetensors", {"q.output": FLAT[12:].reshape(3, 4, 15)})
        code, out, _ = run("inspect", tmp_path, "--json", "--length", 8)
        assert (code, json.loads(out)["layers"][0]["sequence_length"]) == (0, None)
