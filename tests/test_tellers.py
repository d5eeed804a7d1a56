"""What a sequence is, told by any tensor of a layer, however files are cut: known, asked for, or said."""

import json
from pathlib import Path

import numpy as np
import pytest
from dump_samples import only, refused
from hypothesis import given
from hypothesis import strategies as st
from rawfile import write

from wncore.backend import get_backend
from wncore.dumps import open_dump
from wncore.errors import DumpError, InputError, ShapeError
from wncore.layers.arrays import hold_layer

RNG = np.random.default_rng(0)
B, P, D, M = 4, 6, 3, 5
X = RNG.standard_normal((B * P, D)).astype(np.float32)
W = RNG.standard_normal((M, D)).astype(np.float32)
Y = X @ W.T
EVERY = np.ones((B, P), bool)


def opened(folder: Path, *files, length=None, **metadata):
    """Write one file after the other, and open them all."""
    for i, tensors in enumerate(files):
        write(folder / f"{i}.safetensors", tensors, **metadata)
    return open_dump(folder, length=length)


def starts(layer):
    """The rows that are the first of their sequence."""
    return np.flatnonzero(layer.tokens().first).tolist()


def whole(*axes):
    return Y.reshape(*axes, M)


class TestPieces:
    """Tensors are compared token by token, whatever the files in which they lie."""

    halves = ({"l.output": Y[:12].reshape(2, P, M)}, {"l.output": Y[12:].reshape(2, P, M)})

    def test_a_swapped_mask_beside_two_files_is_refused(self, tmp_path):
        opened(tmp_path, *self.halves, {"tokens.mask": EVERY})
        write(tmp_path / "2.safetensors", {"tokens.mask": EVERY.T.copy()})
        refused(tmp_path, says=r"l: by the axes \(6, 4\) of tokens.mask a sequence has 4 tokens, and 6 in l.output")

    def test_a_swapped_input_beside_two_files_is_refused(self, tmp_path):
        assert starts(only(opened(tmp_path, *self.halves, {"l.input": X.reshape(B, P, D)}))) == [0, 6, 12, 18]
        write(tmp_path / "2.safetensors", {"l.input": X.reshape(P, B, D)})
        refused(tmp_path, says=r"l: by the axes \(6, 4, 3\) of l.input a sequence has 4 tokens, and 6 in l.output")

    def test_as_many_files_that_are_cut_elsewhere_are_compared(self, tmp_path):
        files = ({"l.input": X[:4].reshape(1, 4, D)}, {"l.input": X[4:].reshape(5, 4, D)})
        with pytest.raises(DumpError, match="a sequence has 4 tokens, and 6 in"):
            opened(tmp_path, *self.halves, *files)

    def test_lengths_that_differ_among_files_are_each_compared(self, tmp_path):
        y = ({"l.output": Y[:12].reshape(2, 6, M)}, {"l.output": Y[12:].reshape(3, 4, M)})
        one = opened(tmp_path, *y, {"l.input": X[:12].reshape(2, 6, D)}, {"l.input": X[12:].reshape(3, 4, D)})
        assert starts(only(one)) == [0, 6, 12, 16, 20]
        write(tmp_path / "2.safetensors", {"l.input": X[:12].reshape(3, 4, D)})
        refused(tmp_path, says="a sequence has 4 tokens, and 6 in l.output")

    @pytest.mark.parametrize("shape", [(-1, M), (1, -1, M)])
    def test_files_that_a_stated_length_cuts_within_sequences_are_refused(self, tmp_path, shape):
        files = ({"l.output": Y[:10].reshape(shape)}, {"l.output": Y[10:].reshape(shape)}, {"tokens.mask": EVERY})
        with pytest.raises(
            DumpError,
            match=r"a file of l\.output \(.*14, 5\) begins within a sequence of 6 tokens, by the axes \(4, 6\)",
        ):
            opened(tmp_path, *files, length=P)

    def test_an_empty_mask_of_a_file_tells_nothing(self, tmp_path):
        dump = opened(tmp_path, {"l.output": Y}, {"tokens.mask": EVERY}, {"tokens.mask": np.ones((0, 7), bool)})
        assert starts(only(dump)) == [0, 6, 12, 18]

    @pytest.mark.parametrize("empty", [(0, 7, M), (0, M), (3, 0, M)])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_an_empty_piece_of_tokens_tells_nothing(self, tmp_path, empty, place):
        files = [*self.halves]
        files.insert(place, {"l.output": np.zeros(empty, np.float32)})
        assert starts(only(opened(tmp_path, *files, {"tokens.mask": EVERY}))) == [0, 6, 12, 18]

    @given(data=st.data())
    def test_any_layout_in_any_files_says_the_same_as_one(self, data, tmp_path_factory):
        b, p = data.draw(st.integers(2, 5), "sequences"), data.draw(st.integers(2, 5), "tokens of each")
        x, y, mask = (
            np.arange(b * p * D, dtype=np.float32),
            np.arange(b * p * M, dtype=np.float32),
            np.ones(b * p, bool),
        )
        files, told = [], {}
        for name, values, tail in (("l.input", x, (D,)), ("l.output", y, (M,)), ("tokens.mask", mask, ())):
            told[name] = data.draw(st.booleans(), f"axes of {name}")
            cuts = data.draw(st.sets(st.integers(1, b - 1)), f"cuts of {name}")
            rows = values.reshape((b, p, *tail) if told[name] else (b * p, *tail))
            for piece in np.split(rows, [cut * (1 if told[name] else p) for cut in sorted(cuts)]):
                files.append({name: piece})
        told["l.output"] |= all(len(one["l.output"].shape) > 2 for one in files if "l.output" in one)
        layer = only(opened(tmp_path_factory.mktemp("d"), *files))
        rows_of_one = [one for one in files for piece in one.values() if piece.ndim > 1 and len(piece) == 1]
        if not any(told.values()):
            assert layer.lengths == [None] * len(layer.lengths)
        elif told["l.output"] or not rows_of_one:  # a set that is all single rows may be packed
            assert starts(layer) == list(range(0, b * p, p))
        else:
            assert layer.tokens().first.sum() in (0, b)


class TestLenders:
    """Tokens without axes have the sequences of the input, or else of the mask."""

    def test_the_input_tells_those_of_a_flat_output(self, tmp_path):
        dump = opened(tmp_path, {"l.output": Y, "l.input": X.reshape(B, P, D)})
        assert starts(only(dump)) == [0, 6, 12, 18]
        assert only(dump).tokens(2).count == 16
        assert dump.notes == ("l.output: a sequence has 6 tokens, by the axes (4, 6, 3) of l.input",)

    def test_each_length_has_its_word(self, tmp_path):
        x, y = {"k.input": X.reshape(B, P, D), "l.input": X.reshape(P, B, D)}, {"k.output": Y, "l.output": Y}
        assert opened(tmp_path, x | y).notes == (
            "k.output: a sequence has 6 tokens, by the axes (4, 6, 3) of k.input",
            "l.output: a sequence has 4 tokens, by the axes (6, 4, 3) of l.input",
        )
        masks = ({"tokens.mask": np.ones((2, 6), bool)}, {"tokens.mask": np.ones((3, 4), bool)})
        assert opened(tmp_path, y, *masks).notes == (
            "k.output, l.output: a sequence has 6 or 4 tokens, by the axes (2, 6) of tokens.mask",
        )

    def test_input_and_mask_are_compared_though_the_output_is_flat(self, tmp_path):
        tensors = {"l.output": Y, "l.input": X.reshape(B, P, D)}
        assert starts(only(opened(tmp_path, tensors | {"tokens.mask": EVERY}))) == [0, 6, 12, 18]
        path = write(tmp_path / "0.safetensors", tensors | {"tokens.mask": EVERY.T.copy()})
        refused(path, says=r"by the axes \(6, 4\) of tokens.mask a sequence has 4 tokens, and 6 in l.input \(4, 6, 3\)")

    @pytest.mark.parametrize("told", [{"l.input": X.reshape(B, P, D)}, {"tokens.mask": EVERY}])
    def test_a_stated_length_stays_first_and_may_not_contradict(self, tmp_path, told):
        dump = opened(tmp_path, {"l.output": Y, **told}, length=P)
        assert (starts(only(dump)), dump.notes) == ([0, 6, 12, 18], ())
        refused(tmp_path, length=8, says="a sequence has 6 tokens, and 8 in l.output")

    @pytest.mark.parametrize("told", [{"l.input": X[None]}, {"tokens.mask": EVERY.reshape(1, -1)}])
    def test_a_single_row_lends_nothing(self, tmp_path, told):
        layer = only(opened(tmp_path, {"l.output": Y, **told}))
        assert layer.lengths == [None]
        with pytest.raises(InputError, match="--skip-tokens needs the length"):
            layer.tokens(1)

    def test_files_may_be_cut_within_the_sequences_that_another_tells(self, tmp_path):
        dump = opened(tmp_path, {"l.output": Y[:10].copy()}, {"l.output": Y[10:].copy()}, {"tokens.mask": EVERY})
        assert starts(only(dump)) == [0, 6, 12, 18]

    def test_an_input_that_another_layer_holds(self, tmp_path):
        dump = opened(tmp_path, {"o.input": X.reshape(B, P, D), "l.output": Y}, shared_inputs='{"l": "o"}')
        assert starts(dump.layers["l"]) == [0, 6, 12, 18]

    def test_outputs_of_which_not_all_pieces_tell(self, tmp_path):
        files = ({"l.output": Y[:12].copy()}, {"l.output": Y[12:].reshape(2, P, M)})
        assert only(opened(tmp_path, *files)).lengths == [None, 6]
        dump = opened(tmp_path, *files, length=P)
        assert (starts(only(dump)), dump.notes) == ([0, 6, 12, 18], ())
        assert starts(only(opened(tmp_path, *files, {"tokens.mask": EVERY}))) == [0, 6, 12, 18]
        write(tmp_path / "2.safetensors", {"tokens.mask": EVERY.T.copy()})
        refused(tmp_path, says="a sequence has 4 tokens, and 6 in l.output")

    @pytest.mark.parametrize("told", [{"input": X.reshape(B, P, D)}, {"input": X, "mask": EVERY}, {"length": P}])
    def test_every_command_knows_it(self, run, tmp_path, told):
        length = ["--length", told["length"]] if "length" in told else []
        tensors = {"l.weight": W, "l.output": Y, "l.input": told.get("input", X)}
        if "mask" in told:
            tensors["tokens.mask"] = told["mask"]
        path = write(tmp_path / "a.safetensors", tensors)
        plain = write(tmp_path / "b.safetensors", {"l.weight": W, "l.output": whole(B, P), "l.input": X})
        assert json.loads(run("inspect", path, "--json", *length)[1])["layers"][0]["sequence_length"] == P
        for verb, tokens in ((["score"], 20), (["prune", "--sparsity", 0.5], 18), (["expand", "--experts", 2], 18)):
            settings = [*verb, "--skip-tokens", 1, "--json", "--quiet"]  # of 20, 2 are held out by the last two
            (code, out, err), want = run(*settings, path, *length), run(*settings, plain)[1]
            assert code == 0, err
            found, same = (json.loads(text)["layers"][0] for text in (out, want))
            assert (found["tokens"], found) == (tokens, same)

    def test_arrays_in_memory_may_not_contradict_each_other(self):
        backend = get_backend("numpy")
        held = hold_layer("l", backend, input=X.reshape(B, P, D), output=Y)
        assert np.flatnonzero(held.tokens.first).tolist() == [0, 6, 12, 18]
        with pytest.raises(ShapeError, match="l: the tokens of a sequence are 6 by input, 4 by output; swap axes"):
            hold_layer("l", backend, input=X.reshape(B, P, D), output=Y.reshape(P, B, M))
        with pytest.raises(ShapeError, match="are 6 by input, 8 by sequence_length"):
            hold_layer("l", backend, input=X.reshape(B, P, D), sequence_length=8)
        for shape in ((24, D), (24, 1, D)):
            with pytest.raises(InputError, match="skip_tokens needs the length of a sequence"):
                hold_layer("l", backend, input=X.reshape(shape), skip_tokens=1)
        held = hold_layer("l", backend, input=X[None], output=Y.reshape(B, P, M))  # the row may be packed
        assert np.flatnonzero(held.tokens.first).tolist() == [0, 6, 12, 18]


class TestNotes:
    """What is assumed, or has no effect, is said once; what is certain, is not."""

    def test_a_row_is_said_to_be_one_sequence(self, run, tmp_path):
        dump = opened(tmp_path, {"l.output": whole(1, 24)})
        assert starts(only(dump)) == [0]
        (note,) = dump.notes
        assert note == (
            "l.output: the row (1, 24, 5) is read as one sequence of 24 tokens; if it holds several, --length says "
            "how long they are"
        )
        path = tmp_path / "0.safetensors"
        assert note in run("score", path)[2]
        assert note in run("inspect", path)[1]
        assert opened(tmp_path, {"l.output": whole(1, 24)}, length=24).notes == ()
        assert opened(tmp_path, {"l.output": whole(24)}).notes == ()  # no sequence is assumed

    def test_a_mask_that_serves_nobody_is_named(self, tmp_path):
        own = {"l.output": Y, "tokens.mask": EVERY}
        assert opened(tmp_path, own, {"tokens.mask": ~EVERY}).notes[-1] == (
            "tokens.mask in 1.safetensors has no effect: other files have the masks of all layers"
        )

    def test_one_channel_behind_the_tokens_is_named(self, tmp_path):
        y = {"l.output": Y.reshape(B * P, M, 1)}
        (note,) = opened(tmp_path, y).notes
        assert "(24, 5, 1) are read as (batch, position, channel), 120 tokens of one channel; if that is wrong" in note
        for known in ({"l.bias": np.ones(1)}, {"tokens.mask": np.ones(120, bool)}):
            assert not any("one channel" in note for note in opened(tmp_path, y | known).notes)
        assert opened(tmp_path, y, length=M).notes == ()

    @pytest.mark.parametrize(
        ("tensors", "meant"),
        [
            ({"l.input": X.reshape(24, D, 1), "l.weight": W}, "as (token, channel, 1); leave the last axis out"),
            (
                {"l.input": RNG.standard_normal((4, 3, 6, 1)), "l.weight": W},
                "as (batch, head, position, channel); swap the second and the third",
            ),
            (
                {"l.output": RNG.standard_normal((4, 3, 6, 5)), "tokens.mask": EVERY},
                "as (batch, head, position, channel); swap the second and the third",
            ),
            (
                {"l.output": RNG.standard_normal((4, 3, 6, 5)), "l.input": X},
                "as (batch, head, position, channel); swap the second and the third",
            ),
        ],
    )
    def test_axes_that_would_fit_otherwise_are_named(self, run, tmp_path, tensors, meant):
        path = write(tmp_path / "a.safetensors", tensors)
        code, out, _ = run("inspect", path)
        assert code == 1
        assert f"would fit {meant}" in out

    @pytest.mark.parametrize("known", [{}, {"tokens.mask": EVERY}, {"l.bias": np.ones(30)}])
    def test_as_many_heads_as_positions_are_a_guess(self, tmp_path, known):
        dump = opened(tmp_path, {"l.output": RNG.standard_normal((4, 6, 6, 5)), **known})
        assert only(dump).tokens(1).count == 20
        assert "read as (batch, position, head, channel), 24 tokens of 30 neurons" in dump.notes[0]

    def test_a_length_that_is_that_of_the_heads_is_the_only_word(self, run, tmp_path):
        path = write(tmp_path / "a.safetensors", {"l.output": RNG.standard_normal((4, 1, 32, 5))})
        code, out, _ = run("inspect", path, "--length", 32)
        assert code == 1
        assert "swap the second and the third" in out
        assert "note:" not in out
