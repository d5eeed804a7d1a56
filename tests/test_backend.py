"""How backends are found, built and refused."""

import subprocess
import sys

import numpy as np
import pytest

import wncore
from wncore.backend import Backend, available, get_backend
from wncore.errors import BackendAmbiguous, BackendNotFound, BackendUnavailable, InputError

HEAVY = ("numpy", "scipy", "numba", "torch", "hypothesis", "pytest")


def loaded_by(code):
    """Which of the heavy packages a fresh process has imported after `code`."""
    ask = f"{code}\nimport sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.split()


def declare(folder, distribution, name, value):
    """Pretend that a distribution is installed which declares a backend."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[wncore.backends]\n{name} = {value}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages that may be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_backends_are_listed_with_their_owner():
    version = wncore.__version__
    assert available() == {
        "numpy": f"wncore.reference:NumpyBackend (wncore {version})",
        "numba": f"wncore.fast:NumbaBackend (wncore {version})",
        "torch": f"wncore_torch:TorchBackend (wncore {version})",
    }


def test_listing_imports_nothing():
    assert loaded_by("import wncore; wncore.available()") == []


def test_importing_the_torch_backend_does_not_import_torch():
    assert not {"torch", "numba"} & {*loaded_by("import wncore_torch")}


def test_a_declared_backend_is_found(site):
    declare(site, "acme", "acme", "acme_backend:Fast")
    (site / "acme_backend.py").write_text("from wncore.reference import NumpyBackend\nclass Fast(NumpyBackend): ...\n")
    assert available()["acme"] == "acme_backend:Fast (acme 1.0)"
    assert type(get_backend("acme")).__name__ == "Fast"


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_backends_follow_the_protocol(name):
    backend = get_backend(name)
    assert isinstance(backend, Backend)
    assert backend.name == name


def test_a_class_can_be_named_without_declaring_it():
    assert get_backend("wncore.reference:NumpyBackend").name == "numpy"


def test_unknown_name_says_what_is_installed():
    message = "there is no backend 'nunpy'; installed: numba, numpy, torch; `wncore backends` lists them"
    with pytest.raises(BackendNotFound, match=message) as caught:
        get_backend("nunpy")
    assert isinstance(caught.value, LookupError)


def test_two_owners_are_both_named(site):
    declare(site, "imposter", "numpy", "imposter:Backend")
    message = r"'numpy' is declared by imposter 1.0 \(imposter:Backend\), wncore .*; uninstall all but one"
    with pytest.raises(BackendAmbiguous, match=message):
        get_backend("numpy")


def test_the_same_declaration_twice_is_no_conflict(site):
    declare(site, "editable", "numpy", "wncore.reference:NumpyBackend")
    assert get_backend("numpy").name == "numpy"


def test_missing_dependency_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = r"backend 'torch' needs 'torch', which is not installed: pip install 'wncore\[torch\]'"
    with pytest.raises(BackendUnavailable, match=message) as caught:
        get_backend("torch")
    assert isinstance(caught.value, ImportError)


def test_missing_dependency_of_a_stranger_names_its_own_remedy(site):
    declare(site, "acme", "acme", "acme_hint:Fast")
    code = "class Fast:\n    install_hint = 'ask acme'\n    def __init__(self):\n        import acme_runtime\n"
    (site / "acme_hint.py").write_text(code)
    with pytest.raises(BackendUnavailable, match="needs 'acme_runtime', which is not installed: ask acme"):
        get_backend("acme")


@pytest.mark.parametrize("name", ["no_such_module:Backend", "wncore.reference:NoSuchClass"])
def test_what_cannot_be_imported_is_named(name):
    with pytest.raises(BackendUnavailable, match=f"backend '{name}' cannot be imported"):
        get_backend(name)


def test_wrong_option_is_named():
    with pytest.raises(BackendUnavailable, match="backend 'numba' has no option device; it takes threads"):
        get_backend("numba", device="cuda")


def test_wrong_value_of_an_option():
    with pytest.raises(InputError, match="threads must be at least 1; got 0"):
        get_backend("numba", threads=0)


def test_wrong_device_says_which_works():
    pytest.importorskip("torch")
    with pytest.raises(InputError, match=r"torch cannot use the device 'nonsense': .*; 'cpu' always works"):
        get_backend("torch", device="nonsense")


def test_torch_keeps_full_precision_and_what_was_set():
    torch = pytest.importorskip("torch")
    backend, seen = get_backend("torch", device="cpu"), []

    class Spy(torch.Tensor):
        def __matmul__(self, other):
            seen.append(torch.backends.cuda.matmul.fp32_precision)
            return super().__matmul__(other)

    torch.set_float32_matmul_precision("medium")
    try:
        x = backend.asarray(np.eye(3), "float32").as_subclass(Spy)
        backend.routed_linear(x, x[None], None, backend.asarray(np.zeros(3, int), "int64"))
        assert (seen, torch.get_float32_matmul_precision()) == (["ieee"], "medium")
    finally:
        torch.set_float32_matmul_precision("highest")
