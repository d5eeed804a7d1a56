"""Which axes are tokens and which are channels."""

import json

import numpy as np
import pytest
from dump_samples import only, refused
from head_samples import FLAT, MASK, B, C, H, P, Q, W, opened, positions
from rawfile import write

from wncore.dumps import open_dump
from wncore.errors import DumpError, InputError

RNG = np.random.default_rng(1)


class TestHeads:
    """(batch, position, head, channel): the heads of a token lie beside each other."""

    @pytest.mark.parametrize("name", ["blocks.0.attn.hook_q", "q.output"])
    def test_an_output_of_four_axes_has_the_neurons_of_all_heads(self, tmp_path, name):
        dump = opened(tmp_path, {name: Q})
        layer = only(dump)
        np.testing.assert_array_equal(layer.output.read(), FLAT)
        np.testing.assert_array_equal(layer.output.read(slice(2, 5), slice(4, 9)), FLAT[2:5, 4:9])
        assert positions(layer.tokens()) == [0, 6, 12, 18]
        assert layer.tokens(2).count == B * (P - 2)
        assert any("read as (batch, position, head, channel), 24 tokens of 15 neurons" in note for note in dump.notes)

    def test_an_input_of_four_axes_fits_the_weight_that_reads_all_heads(self, tmp_path):
        dump = opened(tmp_path, {"o.input": Q, "o.weight": W, "o.output": (FLAT @ W.T).reshape(B, P, 7)})
        np.testing.assert_array_equal(only(dump).input.read(), FLAT)
        assert dump.notes == ()  # the weight says so

    def test_scores_are_those_of_the_flat_tensor_to_the_bit(self, run, tmp_path):
        y = RNG.standard_normal((8, 64, 2, 4)).astype(np.float32)
        found = []
        for shape in (y.shape, (8, 64, 8), (8, 64, 1, 8), (1, 8, 64, 8), (8, 1, 64, 8), (512, 8)):
            path = write(tmp_path / "a.safetensors", {"l.output": y.reshape(shape)})
            length = ["--length", 64] if len(shape) == 2 else []
            if shape[0] == 1 or shape[1] == 1:  # by the mask, all channels are on the last axis
                path = write(path, {"l.output": y.reshape(shape), "tokens.mask": np.ones(512, bool)})
                length = ["--length", 64]
            code, out, err = run("score", path, "--skip-tokens", 1, "--json", "--quiet", *length)
            assert code == 0, err
            found.append(json.loads(out)["layers"])
        assert all(one == found[0] for one in found)
        assert found[0][0]["tokens"] == 8 * 63

    def test_a_weight_that_reads_the_last_axis_alone_makes_tokens_of_the_others(self, tmp_path):
        x, w = RNG.standard_normal((2, 3, 4, 5)), RNG.standard_normal((7, 5))
        layer = only(opened(tmp_path, {"l.input": x, "l.weight": w}))
        np.testing.assert_array_equal(layer.input.read(), x.reshape(24, 5))
        with pytest.raises(InputError, match=r"needs the length .* --length; its axes are \(2, 3, 4, 5\)"):
            layer.tokens(1)  # (layer, batch, position)? (batch, position, group)? nothing tells
        layer = only(opened(tmp_path, {"l.input": x, "l.weight": w}, length=4))
        assert positions(layer.tokens()) == [0, 4, 8, 12, 16, 20]

    @pytest.mark.parametrize("mask", [np.ones(24, bool), np.ones((2, 3, 4), np.uint8)])
    def test_so_does_a_mask(self, tmp_path, mask):
        y = RNG.standard_normal((2, 3, 4, 5))
        np.testing.assert_array_equal(
            only(opened(tmp_path, {"l.output": y, "tokens.mask": mask})).output.read(), y.reshape(24, 5)
        )

    def test_so_does_the_other_tensor_of_the_layer(self, tmp_path):
        x, y = RNG.standard_normal((2, 3, 4, 5)), RNG.standard_normal((24, 2))
        assert only(opened(tmp_path, {"l.input": x, "l.output": y})).input.rows == 24
        assert only(opened(tmp_path, {"l.input": x, "l.output": y[:6]})).input.columns == 20

    def test_so_does_the_weight_of_a_layer_that_shares_it(self, tmp_path):
        """Without it heads would be channels: 24 tokens of 15."""
        tensors = {"k.input": Q, "q.weight": RNG.standard_normal((7, C))}
        layers = opened(tmp_path, tensors, length=H, shared_inputs='{"q": "k"}').layers
        np.testing.assert_array_equal(layers["q"].input.read(), Q.reshape(B * P * H, C))

    @pytest.mark.parametrize("other", [{"tokens.mask": MASK}, {"q.input": FLAT}, {"q.input": FLAT.reshape(B, P, 15)}])
    def test_heads_before_positions_are_told_by_the_number_of_tokens(self, tmp_path, other):
        swapped = np.ascontiguousarray(Q.transpose(0, 2, 1, 3))
        dump = opened(tmp_path, {"q.output": swapped, "m.output": FLAT} | other)
        with pytest.raises(DumpError, match=r"24 (positions|tokens)"):
            dump.layers["q"].check()
        dump.layers["m"].check()
        said = "the axes (4, 3, 6, 5) would fit as (batch, head, position, channel); swap the second and the third"
        assert f"q.output: {said}" in dump.notes

    def test_one_channel_alone_is_named(self, tmp_path):
        (note,) = opened(tmp_path, {"q.output": Q.reshape(B, 90, 1)}).notes
        assert "the axes (4, 90, 1) are read as (batch, position, channel), 360 tokens of one channel" in note
        gate = {"q.output": Q.reshape(B, 90, 1), "q.bias": np.ones(1)}
        assert opened(tmp_path, gate).notes == ()

    def test_a_stated_length_that_is_that_of_the_third_axis_is_a_swap(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"q.output": np.ascontiguousarray(Q.transpose(0, 2, 1, 3))})
        refused(path, length=P, says=r"q.output has the axes \(4, 3, 6, 5\).* swap the second and the third")

    def test_a_stated_length_that_is_that_of_the_second_axis_settles_it(self, tmp_path):
        assert opened(tmp_path, {"q.output": Q}, length=P).notes == ()

    @pytest.mark.parametrize("shape", [(2, 3, 4, 1), (2, 3, 2, 2, 5)])
    def test_what_nothing_tells_is_passed_over_with_a_word(self, run, tmp_path, shape):
        path = write(tmp_path / "a.safetensors", {"l.output": RNG.standard_normal(shape), "m.output": FLAT})
        dump = open_dump(path)
        assert list(dump.layers) == ["m"]
        assert any(f"l.output is passed over: of its axes {shape} nothing tells" in note for note in dump.notes)
        assert run("score", write(path, {"l.output": RNG.standard_normal(shape)}))[0] == 1

    @pytest.mark.parametrize(
        "name",
        ["blocks.0.attn.hook_pattern", "blocks.0.attn.hook_attn_scores", "attentions.3", "key_cache"],
    )
    def test_attention_scores_and_caches_are_no_outputs_of_neurons(self, tmp_path, name):
        dump = opened(tmp_path, {name: Q, "m.output": FLAT})
        assert list(dump.layers) == ["m"]
        assert any(f"{name} is passed over: its axes are taken for (batch, head, " in note for note in dump.notes)

    def test_heads_in_several_files(self, tmp_path):
        for i in range(2):
            write(tmp_path / f"{i}.safetensors", {"q.output": Q[2 * i :][:2], "tokens.mask": MASK[2 * i :][:2]})
        layer = only(open_dump(tmp_path))
        np.testing.assert_array_equal(layer.output.read(), FLAT)
        assert layer.tokens().keep.tolist() == MASK.ravel().tolist()


class TestSharedAxes:
    """What any reader of an input tells of its axes, it tells all."""

    Q = RNG.standard_normal((2, 3, 4, 5))

    def shared(self, tmp_path, **tensors):
        named = {name.replace("_", "."): value for name, value in tensors.items()}
        return opened(tmp_path, {"o.input": self.Q, **named}, shared_inputs='{"c": "o"}')

    def test_the_weight_of_the_reader_tells_the_channels(self, tmp_path):
        dump = self.shared(tmp_path, c_weight=RNG.standard_normal((7, 5)))
        for layer in dump.layers.values():
            np.testing.assert_array_equal(layer.input.read(), self.Q.reshape(24, 5))
        dump = self.shared(tmp_path, c_weight=RNG.standard_normal((7, 20)))
        np.testing.assert_array_equal(dump.layers["c"].input.read(), self.Q.reshape(6, 20))
        assert dump.notes == ()

    def test_the_output_of_the_reader_tells_the_tokens(self, tmp_path):
        dump = self.shared(tmp_path, c_output=RNG.standard_normal((24, 2)))
        assert dump.layers["c"].input.columns == 5

    def test_the_input_tells_the_tokens_of_the_readers_output(self, tmp_path):
        files = {"o.input": RNG.standard_normal((24, 2)), "c.output": self.Q}
        dump = opened(tmp_path, files, shared_inputs='{"c": "o"}')
        assert (dump.layers["c"].output.rows, dump.layers["c"].output.columns) == (24, 5)

    def test_its_own_weight_comes_first(self, tmp_path):
        dump = self.shared(tmp_path, o_weight=RNG.standard_normal((7, 20)), c_weight=RNG.standard_normal((7, 5)))
        assert dump.layers["o"].input.columns == 20
        with pytest.raises(DumpError, match="c: input has 20 channels, weight 5 columns"):
            dump.layers["c"].check()

    def test_a_mask_of_another_length_than_the_input_is_no_mask_of_the_reader(self, tmp_path):
        files = {"o.input": FLAT[:20].copy(), "o.output": FLAT, "k.output": FLAT, "tokens.mask": np.ones((B, P), bool)}
        files["c.weight"] = RNG.standard_normal((7, 15))
        dump = opened(tmp_path, files, shared_inputs='{"c": "o"}')
        with pytest.raises(DumpError, match="c: the mask has 24 positions for 20 tokens"):
            dump.layers["c"].check()
