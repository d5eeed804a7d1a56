"""Grouped heads in float32 on a GPU: transformers is asked to repeat keys, and asked no longer afterwards."""

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch

from wncore_torch.model.attention import fused_heads
from wncore_torch.model.internals import sdpa_attention


def grouped(dtype):
    keys = torch.zeros(1, 2, 3, 4, dtype=dtype)
    return sdpa_attention.use_gqa_in_sdpa(None, keys, keys)


def test_keys_are_repeated_in_single_precision_on_a_gpu():
    before = sdpa_attention.use_gqa_in_sdpa
    with fused_heads(torch.device("cuda"), torch.float32):
        assert not grouped(torch.float32)
        assert grouped(torch.bfloat16) == before(None, *2 * [torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16)])
    assert sdpa_attention.use_gqa_in_sdpa is before


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float32), ("cuda", torch.bfloat16)])
def test_nothing_is_changed_elsewhere(device, dtype):
    before = sdpa_attention.use_gqa_in_sdpa
    with fused_heads(torch.device(device), dtype):
        assert sdpa_attention.use_gqa_in_sdpa is before


def test_it_is_put_back_when_a_block_fails():
    before = sdpa_attention.use_gqa_in_sdpa
    with pytest.raises(ValueError, match="failed"), fused_heads(torch.device("cuda"), torch.float32):
        raise ValueError("failed")
    assert sdpa_attention.use_gqa_in_sdpa is before
