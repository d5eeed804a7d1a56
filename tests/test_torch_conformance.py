"""The torch backend is certified on the CPU, by the command that users type."""

import pytest

from wncore.backend import get_backend
from wncore.errors import BackendUnavailable, InputError
from wncore.testing.contracts import CONTRACTS

torch = pytest.importorskip("torch")
PLAIN = {contract.operation: "plain torch" for contract in CONTRACTS}


def test_plain_torch_is_certified(certified):
    found = certified("torch", "--device", "cpu", "--option", "kernels=plain", "--examples", "25")
    assert found["passed"]
    assert found["unsupported"] == {}
    assert found["options"] == {"device": "cpu", "kernels": "plain"}
    assert found["operations"] == PLAIN
    shares = found["budget_used"]
    assert shares.keys() == PLAIN.keys()
    assert shares["routed_linear"].keys() == {"float64", "float32", "float16", "bfloat16"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_are_certified(certified):
    assert certified("torch", "--device", "cuda")["passed"]


def test_the_program_around_keeps_its_own_precision():
    """Whatever it allows, products are exact inside, and it finds its settings as they were."""
    from wncore_torch.precision import full_precision

    cuda = torch.backends.cuda.matmul
    names = ["allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction"]
    names += ["allow_fp16_accumulation"] * hasattr(cuda, "allow_fp16_accumulation")
    before = {name: getattr(cuda, name) for name in names}
    try:
        for name in names:
            setattr(cuda, name, True)
        with full_precision():
            assert not any(getattr(cuda, name) for name in names)
        assert all(getattr(cuda, name) for name in names)
    finally:
        for name, value in before.items():
            setattr(cuda, name, value)


def test_kernels_say_what_they_need():
    with pytest.raises(BackendUnavailable, match="fused kernels run on CUDA devices, not on 'cpu'"):
        get_backend("torch", device="cpu", kernels="fused")
    with pytest.raises(InputError, match="kernels are 'fused' or 'plain'; got 'fast'"):
        get_backend("torch", device="cpu", kernels="fast")
