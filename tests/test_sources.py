"""How models are found: by entry points, without importing what opens them until a model is met."""

import subprocess
import sys

import pytest

from wncore.errors import BackendUnavailable, InputError
from wncore.sources import find_source, get_source


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages that may be imported."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def declare(site, name, value):
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[wncore.sources]\n{name} = {value}\n")


def test_a_folder_with_a_config_is_hugging_faces(model):
    assert find_source(model).name == "huggingface"
    assert find_source(str(model)) is get_source(model)


def test_all_else_is_none(tmp_path, dump):
    assert find_source(dump) is find_source(tmp_path) is find_source(tmp_path / "nothing") is None


def test_nothing_is_imported_for_what_is_no_model_and_little_for_one(tmp_path, model):
    code = "import sys\nfrom wncore.sources import find_source\n"
    for path, wanted in ((tmp_path, False), (model, True)):
        ask = f"{code}print(find_source({str(path)!r}), *sys.modules)"
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
        loaded = done.stdout.split()
        assert ("wncore_torch.model" in loaded) is wanted
        assert not {"torch", "transformers", "safetensors", "tokenizers", "numba"} & {*loaded}


def test_a_declared_source_is_asked(site, model):
    declare(site, "acme", "acme_source:Acme")
    (site / "acme_source.py").write_text(
        "class Acme:\n    name = 'acme'\n    holds = staticmethod(lambda path: (path / 'acme.bin').exists())\n"
    )
    assert find_source(model).name == "huggingface"
    (model / "acme.bin").touch()
    assert find_source(model).name == "acme"  # by the order of names


def test_a_source_that_is_broken_is_named(site, model):
    declare(site, "acme", "acme_gone:Acme")
    with pytest.raises(
        BackendUnavailable, match=r"source 'acme' cannot be imported from 'acme_gone:Acme': .*; install"
    ):
        find_source(model)


def test_a_model_that_nobody_opens(model, monkeypatch):
    from wncore_torch.model import HuggingFace

    monkeypatch.setattr(HuggingFace, "holds", staticmethod(lambda path: False))
    with pytest.raises(InputError, match=r"no model that an installed source opens \(there are: huggingface\); give"):
        get_source(model)
