"""What a certificate says of the backend that it is for."""

import pytest

from wncore.reference import NumpyBackend
from wncore.testing.certificate import Ledger, certificate, facts
from wncore_cli.options import Setting


class Detailed(NumpyBackend):
    """NumPy with all that a backend may say of itself."""

    device_name = "gpu (ACME 9)"
    operations = {"gram": "a kernel; float64 in NumPy"}  # noqa: RUF012
    versions = {"cuda": "13.0", "driver": "580.1"}  # noqa: RUF012


def test_what_runs_an_operation_is_written_down():
    found = certificate("detailed", facts("detailed", Detailed()), {}, 1, Ledger(), passed=True)
    assert found["operations"] == {"gram": "a kernel; float64 in NumPy"}
    assert found["versions"] | {"cuda": "13.0", "driver": "580.1"} == found["versions"]
    assert found["versions"].keys() >= {"wncore", "numpy", "python", "platform"}
    assert found["device"] == "gpu (ACME 9)"


def test_a_backend_need_not_say_any_of_it():
    found = certificate("numpy", facts("numpy", NumpyBackend()), {}, 1, Ledger(), passed=True)
    assert found["operations"] == {}
    assert found["versions"].keys() == {"wncore", "numpy", "python", "platform"}
    assert found["dtypes"] == ["float64", "float32", "float16", "bfloat16"]


def test_options_go_to_the_constructor_and_into_the_certificate(certified):
    few = ["--examples", "1", "-k", "signature or contiguous and gram"]
    found = certified("numba", "--option", "threads=1", *few)
    assert (found["options"], found["complete"]) == ({"threads": 1}, False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("true", True),
        ("8", 8),
        ('"8"', "8"),
        ("cuda:1", "cuda:1"),
        ("", ""),
        ("a=b", "a=b"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("[1, 2]", [1, 2]),
    ],
)
def test_a_value_is_json_or_a_string(text, value):
    assert Setting().convert(f"name={text}", None, None) == ("name", value)
