"""What goes with another tensor is no layer: parts of quantised weights, biases, masks, parameters."""

import ml_dtypes
import numpy as np
import pytest
from dump_samples import B, W, X, Y, only
from rawfile import write

from wncore.dumps import open_dump
from wncore.dumps.riders import LOOSE, ROLES


class TestRiders:
    """A tensor that goes with another is no layer, whatever its shape and type."""

    @pytest.mark.parametrize("name", [*sorted(ROLES.keys() - LOOSE), "weight_ih_l0", "in_proj_weight", "extra_bias"])
    @pytest.mark.parametrize("shape", [(6, 2), (2, 3, 2), (2, 2)])
    def test_no_such_name_is_a_layer(self, tmp_path, name, shape):
        path = write(tmp_path / "a.safetensors", {f"fc.{name}": np.zeros(shape), "other.output": Y})
        dump = open_dump(path)
        assert [layer.name for layer in dump.layers.values() if layer.fault is None] == ["other"]
        assert f"fc.{name} is passed over: " in dump.notes[-1]

    @pytest.mark.parametrize("name", sorted(LOOSE))
    def test_names_that_others_use_are_layers_unless_beside_a_weight(self, tmp_path, name):
        alone = open_dump(write(tmp_path / "a.safetensors", {f"fc.{name}": Y}))
        assert list(alone.layers) == [f"fc.{name}"]
        path = write(
            tmp_path / "b.safetensors", {f"fc.{name}": Y, "fc.qweight": ("I32", [2, 1], bytes(8)), "o.output": Y}
        )
        assert [layer.name for layer in open_dump(path).layers.values() if layer.fault is None] == ["o"]

    def test_experts_of_three_axes_have_scales_too(self, tmp_path):
        codes = np.ones((2, 4, 6), ml_dtypes.float8_e4m3fn)
        held = {"mlp.down_proj": codes, "mlp.down_proj_scales_inv": np.ones((2, 1, 1), np.float32), "other.output": Y}
        layers = open_dump(write(tmp_path / "a.safetensors", held)).layers
        assert list(layers) == ["mlp.down_proj", "other"]
        assert "beside mlp.down_proj_scales_inv" in layers["mlp.down_proj"].fault
        held["mlp.down_proj"] = codes.astype(np.float32)
        assert open_dump(write(tmp_path / "a.safetensors", held)).layers["mlp.down_proj"].fault is None

    def test_hooks_of_norms_stay_layers(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"blocks.0.ln1.hook_scale": Y, "blocks.0.hook_pre": Y})
        assert sorted(open_dump(path).layers) == ["blocks.0.hook_pre", "blocks.0.ln1.hook_scale"]

    @pytest.mark.parametrize("shape", [(2, 3), (1, 2), (2, 2)])
    def test_a_bias_of_more_than_one_column_spoils_its_layer(self, tmp_path, shape):
        held = {"fc.input": X, "fc.weight": W, "fc.bias": np.ones(shape), "other.output": Y}
        layers = open_dump(write(tmp_path / "a.safetensors", held)).layers
        assert f"fc: bias has {shape[1]} columns, and one is needed" in layers["fc"].fault
        assert layers["other"].fault is None

    def test_a_bias_of_one_column_is_one(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.input": X, "fc.weight": W, "fc.bias": B[:, None]})
        layer = only(open_dump(path))
        layer.check()
        assert layer.bias.read()[:, 0].tolist() == B.tolist()

    def test_norms_are_no_layers(self, tmp_path):
        held = {"norm.weight": B, "norm.bias": B, "ln.gamma": Y, "ln.beta": Y[:1], "bn.running_mean": Y, "fc.output": Y}
        dump = open_dump(write(tmp_path / "a.safetensors", held))
        assert list(dump.layers) == ["fc"]
        assert {note.split()[0] for note in dump.notes} == held.keys() - {"fc.output"}
        assert "norm.bias is passed over: nothing else of norm is there" in dump.notes
        assert any("if it is the output of a layer, call it ln.gamma.output" in note for note in dump.notes)

    @pytest.mark.parametrize("name", ["attention_mask", "padding_mask", "tokens.attention_mask", "fc.mask", "Mask"])
    @pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.float32])
    def test_another_mask_is_not_used_and_that_is_said_first(self, tmp_path, name, dtype):
        held = {"ids": np.ones((6, 2), np.int64), name: np.zeros((3, 2), dtype), "fc.output": Y}
        dump = open_dump(write(tmp_path / "a.safetensors", held))
        assert only(dump).tokens().count == 6
        assert dump.notes[0] == (
            f"{name} is passed over: the mask that leaves padding out is called tokens.mask, BOOL or U8, 1 where a "
            f"token counts"
        )
