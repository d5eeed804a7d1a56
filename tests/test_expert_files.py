"""Files of experts: what goes in comes out to the bit, dense or packed, and can be read by others."""

import json
from dataclasses import replace
from hashlib import sha256

import ml_dtypes
import numpy as np
import pytest
import rawfile
from expert_samples import D, experts, router, write_sample
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from wncore.errors import DumpError, InputError, NonFiniteError, OutputExistsError
from wncore.experts.experts import Experts
from wncore.experts.files import describe, load_experts, save_experts
from wncore.experts.packing import pack, unpack

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
          ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz]  # fmt: skip
SPECIALS = [0.0, -0.0, 1.0, -1.0, 2.0**-9]


def same(a: Experts, b: Experts) -> bool:
    """Whether two layers are equal in name, dtypes, shapes and bits."""
    arrays = [(one.weights, one.bias, one.router.mean, one.router.components, one.router.centroids, one.counts)
              for one in (a, b)]  # fmt: skip
    pairs = zip(*arrays, strict=True)
    return a.name == b.name and all(
        (x is None and y is None) or (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
        for x, y in pairs
    )


class TestRoundTrip:
    """What is loaded is what was saved."""

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
    def test_of_every_dtype(self, tmp_path, dtype, packed):
        layer = experts(dtype=dtype)
        layer.save(tmp_path / "e.safetensors", packed=packed)
        assert same(Experts.load(tmp_path / "e.safetensors"), layer)

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize(("k", "m", "d"), [(1, 1, 1), (1, 3, 8), (2, 3, 7), (3, 1, 9), (5, 4, 16)])
    def test_of_every_shape(self, tmp_path, k, m, d, bias, packed):
        layer = experts(k=k, m=m, d=d, bias=bias)
        layer.save(tmp_path / "e.safetensors", packed=packed)
        assert same(Experts.load(tmp_path / "e.safetensors"), layer)

    @pytest.mark.parametrize("value", [0.0, -0.0, 1.0])
    def test_of_experts_that_are_all_alike(self, tmp_path, value):
        layer = replace(experts(), weights=np.full((3, 5, D), value, np.float32))
        layer.save(tmp_path / "e.safetensors", packed=True)
        assert same(Experts.load(tmp_path / "e.safetensors"), layer)

    @given(data=st.data())
    def test_of_any_values(self, tmp_path_factory, data):
        dtype = np.dtype(data.draw(st.sampled_from(DTYPES), label="dtype"))
        k, m, d = (data.draw(st.integers(1, 9), label=letter) for letter in "kmd")
        values = data.draw(st.lists(st.sampled_from(SPECIALS) | st.floats(-8, 8, width=16), min_size=1), label="values")
        weights = np.resize(np.array(values).astype(dtype), (k, m, d))
        path = tmp_path_factory.mktemp("experts") / "e.safetensors"
        layer = replace(experts(k=k, m=m, d=d, bias=data.draw(st.booleans())), weights=weights)
        for packed in (False, True):
            layer.save(path, packed=packed, force=True)
            assert same(Experts.load(path), layer)

    def test_of_layers_that_share_a_router(self, tmp_path):
        sample = write_sample(tmp_path)
        file = load_experts(sample.path)
        assert all(same(file.layers[layer.name], layer) for layer in sample.layers)
        assert [name for name in rawfile.read(sample.path)[0] if ".router." in name] == [
            "a.up.router.counts", "a.up.router.centroids", "a.up.router.components", "a.up.router.mean"]  # fmt: skip

    def test_of_a_layer_that_does_not_lie_in_rows(self, tmp_path):
        layer = experts()
        layer = replace(layer, weights=np.asfortranarray(layer.weights))
        for packed in (False, True):
            layer.save(tmp_path / f"{packed}.safetensors", packed=packed)
            assert same(Experts.load(tmp_path / f"{packed}.safetensors"), layer)

    def test_and_it_gives_the_same_outputs(self, tmp_path):
        layer, x = experts(), np.random.default_rng(0).standard_normal((50, D), dtype=np.float32)
        layer.save(tmp_path / "e.safetensors", packed=True)
        assert Experts.load(tmp_path / "e.safetensors").forward(x).tobytes() == layer.forward(x).tobytes()


class TestFormat:
    """Others can read it, and the same experts give the same file."""

    def test_another_program_reads_the_dense_form(self, tmp_path):
        layer = experts()
        layer.save(tmp_path / "e.safetensors")
        held = load_file(tmp_path / "e.safetensors")
        np.testing.assert_array_equal(held["a.up.experts"], layer.weights)
        np.testing.assert_array_equal(held["a.up.router.counts"], layer.counts)
        assert sorted(name.removeprefix("a.up.") for name in held) == [
            "bias", "experts", "router.centroids", "router.components", "router.counts", "router.mean"]  # fmt: skip

    def test_another_program_reads_the_packed_form(self, tmp_path):
        layer = experts(d=11)
        layer.save(tmp_path / "e.safetensors", packed=True)
        held = load_file(tmp_path / "e.safetensors")
        mask, values = held["a.up.experts.mask"], iter(held["a.up.experts.values"].tolist())
        assert mask.shape == (3, 5, 2)
        rebuilt = np.zeros(layer.weights.shape, np.float32)
        for c, i, j in np.ndindex(rebuilt.shape):
            if mask[c, i, j // 8] >> j % 8 & 1:
                rebuilt[c, i, j] = next(values)
        assert next(values, None) is None
        assert rebuilt.tobytes() == layer.weights.tobytes()

    def test_packed_takes_a_bit_a_weight_and_the_values(self):
        weights = np.zeros((4, 8, 64), np.float32)
        weights[:, :, ::4] = 1.0
        mask, values = pack(weights)
        assert (mask.nbytes, values.nbytes) == (weights.size // 8, weights.nbytes // 4)
        np.testing.assert_array_equal(unpack(mask, values, 64), weights)

    @pytest.mark.parametrize("packed", [False, True])
    def test_the_same_experts_give_the_same_bytes(self, tmp_path, packed):
        files = [tmp_path / f"{i}.safetensors" for i in range(2)]
        for path in files:
            write_sample(tmp_path, packed=packed).path.rename(path)
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_the_document_is_completed(self, tmp_path):
        sample = write_sample(tmp_path, packed=True)
        document = json.loads(rawfile.read(sample.path)[1]["wncore.expand"])
        assert document.pop("packed") is True
        tensors = rawfile.read(sample.path)[0]
        assert document.pop("tensors") == {name: sha256(part[2]).hexdigest() for name, part in tensors.items()}
        assert document.pop("dtypes") == {name: part[0] for name, part in tensors.items()}
        assert document == sample.document

    def test_layers_are_read_when_they_are_asked_for(self, tmp_path):
        sample = write_sample(tmp_path)
        tensors, metadata = rawfile.read(sample.path)
        dtype, shape, _ = tensors["a.gate.experts"]
        tensors["a.gate.experts"] = dtype, shape, np.full(shape, np.nan, np.float32).tobytes()
        rawfile.write(sample.path, tensors, schema="1", expand=metadata["wncore.expand"])
        layers = load_experts(sample.path).layers
        assert same(layers["a.up"], sample.layers[0])
        with pytest.raises(NonFiniteError, match=r"a.gate.experts\[0\] in .* holds NaN or infinity, 44 values of 44, "):
            _ = layers["a.gate"]
        with pytest.raises(KeyError):
            _ = layers["a.down"]


class TestRefusals:
    """What cannot be saved, or is not there."""

    @pytest.mark.parametrize(
        ("changes", "error", "says"),
        [
            (
                {"counts": np.array([1, 2])},
                DumpError,
                r"router.counts in .* is I64 \(2,\); its document promises I64 \(3",
            ),
            (
                {"counts": np.ones(3)},
                DumpError,
                "tokens_per_expert .* is a list of 3, and must be a list of whole numbers",
            ),
            (
                {"bias": np.ones(4)},
                DumpError,
                r"a.up.bias in .* is F64 \(4,\); its document promises a float type \(5\)",
            ),
            ({"bias": np.full(5, np.inf)}, NonFiniteError, "a.up.bias holds NaN or infinity; nothing was written"),
            ({"weights": np.ones((3, 5, D), np.int64)}, DumpError, "promises a float type"),
            ({"weights": np.full((3, 5, D), np.nan)}, NonFiniteError, "a.up.experts holds NaN or infinity"),
            ({"router": router(np.random.default_rng(0), 4)}, DumpError, r"router.centroids in .* is F32 \(4, 2\)"),
            ({"router": router(np.random.default_rng(0), 3, d=9)}, DumpError, r"router.mean in .* is F32 \(9,\)"),
            ({"name": "n" * 990}, InputError, "is a name of 1002 characters; 1000 can be read"),
        ],
    )
    def test_experts_that_are_not_sound(self, tmp_path, changes, error, says):
        with pytest.raises(error, match=says):
            replace(experts(), **changes).save(tmp_path / "e.safetensors")
        assert list(tmp_path.iterdir()) == []

    def test_a_document_on_other_layers(self, tmp_path):
        with pytest.raises(
            InputError, match=r"the document is on a.up, and the experts are of b; describe every layer"
        ):
            save_experts(tmp_path / "e.safetensors", [replace(experts(), name="b")], describe([experts()]))

    def test_a_router_that_is_not_shared(self, tmp_path):
        layers = [experts(), replace(experts(seed=1), name="a.gate")]
        document = describe(layers)
        document["layers"][1]["router"] = "a.up"
        with pytest.raises(InputError, match=r"a.gate is said to use the router of a.up, and has another; name itself"):
            save_experts(tmp_path / "e.safetensors", layers, document)

    def test_a_file_that_exists(self, tmp_path):
        experts().save(tmp_path / "e.safetensors")
        with pytest.raises(OutputExistsError):
            experts().save(tmp_path / "e.safetensors")

    def test_a_layer_that_is_not_there(self, tmp_path):
        sample = write_sample(tmp_path)
        with pytest.raises(InputError, match=r"holds 2 layers; name one of a.up, a.gate"):
            Experts.load(sample.path)
        with pytest.raises(InputError, match=r"has no layer a.down; name one of a.up, a.gate"):
            Experts.load(sample.path, "a.down")
        assert same(Experts.load(sample.path, "a.gate"), sample.layers[1])

    def test_a_dump(self, dump):
        with pytest.raises(DumpError, match=r"holds no experts: its metadata have no wncore.expand; name a file of"):
            load_experts(dump)
