"""Against its source, a file of experts that lies is found out; tokens on a border may go to either side."""

from dataclasses import replace
from typing import Any

import expert_samples as samples
import numpy as np
import pytest
import rawfile
from hypothesis import given
from hypothesis import strategies as st
from strategies import BACKENDS

from wncore.dumps import open_dump
from wncore.experts.borderline import candidates
from wncore.experts.files import load_experts
from wncore.experts.recomputation import verify_against
from wncore.fast import NumbaBackend
from wncore.reference import NumpyBackend


class TestSource:
    """Against the source, sealed files that were made otherwise are found out."""

    def swapped(self, sample: samples.Sample, part: str) -> None:
        """Exchange the first two rows of a tensor, and seal the file again."""
        tensors, document = samples.parts(sample.path)
        dtype, shape, content = tensors[part]
        size = len(content) // shape[0]
        content = content[size : 2 * size] + content[:size] + content[2 * size :]
        samples.put_together(sample.path, tensors | {part: (dtype, shape, content)}, document)

    def test_swapped_experts(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        self.swapped(sample, "a.up.experts")
        assert samples.failures(run, sample.path) == []
        found = samples.failures(run, sample.path, "--against", sample.dump)
        assert {"a.up relative_error", "a.up relative_error_per_expert"} <= set(found)

    def test_permuted_centroids(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        self.swapped(sample, "a.up.router.centroids")
        found = samples.failures(run, sample.path, "--against", sample.dump, "--backend", "numpy")
        assert {"a.up tokens_per_expert", "a.gate tokens_per_expert", "a.up relative_error"} <= set(found)

    def test_another_bias(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        self.swapped(sample, "a.up.bias")
        assert samples.failures(run, sample.path, "--against", sample.dump) == ["a.up bias"]

    def test_another_source(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        other = samples.write_source(tmp_path, seed=1)
        found = samples.failures(run, sample.path, "--against", other)
        assert {"a.up source", "a.gate source", "a.up bias", "a.up relative_error"} <= set(found)

    @pytest.mark.parametrize("name", ["a.up.input", "a.up.weight", "a.up.bias", "a.gate.weight", "tokens.mask"])
    def test_a_single_bit_of_the_source(self, tmp_path, run, name):
        sample = samples.write_sample(tmp_path)
        tensors, metadata = rawfile.read(sample.dump)
        dtype, shape, content = tensors[name]
        tensors[name] = dtype, shape, bytes([content[0] ^ 1]) + content[1:]
        samples.rewrite(sample.dump, tensors, metadata)
        found = samples.failures(run, sample.path, "--against", sample.dump)
        assert [one for one in found if one.endswith(" source")] == {
            "a.up.weight": ["a.up source"], "a.up.bias": ["a.up source"], "a.gate.weight": ["a.gate source"]
        }.get(name, ["a.up source", "a.gate source"])  # fmt: skip

    def test_the_experts_of_another_seed(self, tmp_path, run):
        sample, other = (samples.write_sample(tmp_path, seed=seed) for seed in (0, 1))
        samples.put_together(sample.path, samples.parts(other.path)[0], samples.parts(sample.path)[1])
        found = samples.failures(run, sample.path, "--against", sample.dump)
        assert {"a.up router", "a.up tokens_per_expert", "a.up relative_error"} <= set(found)

    def test_a_source_without_the_layer_its_weight_or_its_mask(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        tensors, metadata = rawfile.read(sample.dump)
        for gone, failing in (("a.gate.weight", "a.gate source"), ("tokens.mask", "list of inputs")):
            samples.rewrite(tmp_path / "less", {key: one for key, one in tensors.items() if key != gone}, metadata)
            assert failing in samples.failures(run, sample.path, "--against", tmp_path / "less")

    def test_a_layer_of_another_shape(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        tensors, metadata = rawfile.read(sample.dump)
        tensors["a.gate.weight"] = np.ones((3, samples.D), np.float32)
        samples.rewrite(sample.dump, tensors, metadata)
        assert "a.gate source" in samples.failures(run, sample.path, "--against", sample.dump)


class TestBorderline:
    """Tokens between two centroids may go either way, and no other."""

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @given(data=st.data())
    def test_wherever_a_backend_sends_a_token_was_foreseen(self, dtype, data):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
        one = samples.router(rng, data.draw(st.integers(1, 9), label="experts"), dtype=dtype)
        offset = data.draw(st.sampled_from([0.0, 100.0]), label="offset")
        x = between(one, rng, 64) + offset
        one = replace(one, mean=(one.mean + offset).astype(dtype))
        may = candidates(one, x.astype(dtype))
        for backend in BACKENDS:
            assert may[np.arange(len(x)), one.labels(x.astype(dtype), backend)].all()

    def test_tokens_far_from_any_border_are_certain(self):
        rng = np.random.default_rng(0)
        one = samples.router(rng, 5)
        may = candidates(one, rng.standard_normal((2000, samples.D), dtype=np.float32))
        assert np.count_nonzero(may.sum(axis=1) > 1) < 5

    def test_of_two_centroids_in_one_place_either_will_do(self):
        rng = np.random.default_rng(0)
        one = samples.router(rng, 3)
        one.centroids[2] = one.centroids[0]
        may = candidates(one, rng.standard_normal((200, samples.D), dtype=np.float32))
        np.testing.assert_array_equal(may[:, 0], may[:, 2])

    def between_sample(self, tmp_path: Any) -> samples.Sample:
        """Make experts from tokens of which half lie halfway between two centroids, as nearly as float32 can tell."""
        rng, dump = np.random.default_rng(3), samples.write_source(tmp_path)
        one = samples.router(rng, 4)
        tensors, metadata = rawfile.read(dump)
        x = np.frombuffer(tensors["a.up.input"][2], np.float32).reshape(-1, samples.D).copy()
        x[::2] = between(one, rng, len(x[::2]))
        samples.rewrite(dump, tensors | {"a.up.input": x}, metadata)
        return samples.write_sample(tmp_path, 4, chosen=one, source=dump, backend=NumpyBackend())

    def test_counts_and_errors_may_differ_by_them(self, tmp_path):
        sample = self.between_sample(tmp_path)
        found = verify_against(load_experts(sample.path), open_dump(sample.dump), NumbaBackend(threads=1))
        assert not found.exact
        assert all(check.passed for check in found.checks), found.checks
        off = {check.name: check.off for check in found.checks if check.layer == "a.up"}
        assert off["tokens_per_expert"] > 0
        (told,) = (check.finding for check in found.checks if (check.layer, check.name) == ("a.up", "borderline"))
        assert int(told.split()[0]) > 50

    def test_but_by_no_more(self, tmp_path):
        sample = self.between_sample(tmp_path)
        tensors, document = samples.parts(sample.path)
        counts = document["layers"][0]["tokens_per_expert"]
        document["layers"][0]["tokens_per_expert"] = [counts[0] + counts[1], 0, *counts[2:]]
        document["layers"][0]["relative_error"] *= 3
        samples.put_together(sample.path, tensors, document)
        found = verify_against(load_experts(sample.path), open_dump(sample.dump), NumbaBackend(threads=1))
        failed = [(check.layer, check.name) for check in found.checks if not check.passed]
        assert failed == [("a.up", "tokens_per_expert"), ("a.up", "relative_error")]

    def test_products_in_tensorfloat32_are_found_out(self, tmp_path):
        class Coarse(NumpyBackend):
            """Sums products of 11 bits each."""

            def gram(self, x: np.ndarray, labels: np.ndarray, k: int) -> Any:
                bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
                return super().gram(((bits + 0x1000) & 0xFFFFE000).view(np.float32), labels, k)

        sample = samples.write_sample(tmp_path)
        found = verify_against(load_experts(sample.path), open_dump(sample.dump), Coarse())
        failed = {check.name for check in found.checks if not check.passed}
        assert "relative_error_per_expert" in failed


def between(one: Any, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw tokens whose projections lie halfway between two centroids, as nearly as rounding lets them."""
    pairs = one.centroids[rng.integers(one.experts, size=(2, n))].astype(np.float64)
    back = np.linalg.pinv(one.components.astype(np.float64))
    return (pairs.mean(axis=0) @ back.T + one.mean).astype(one.mean.dtype)
