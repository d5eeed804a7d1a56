"""Pictures do not depend on the user's Matplotlib, and no result on the pictures."""

import os
import subprocess
import sys

import numpy as np
import pytest
from dump_samples import names_in
from rawfile import read, write

pytest.importorskip("matplotlib")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 8)).astype(np.float32)
W = RNG.standard_normal((6, 8)).astype(np.float32)
WORK = {"score": "s.csv", "prune": "p.safetensors", "expand": "e.safetensors"}
OPTIONS = {"score": ["--pairs", "99"], "prune": [], "expand": ["--experts", "2", "--pairs", "99"]}
PICTURES = {"score": 3, "prune": 2, "expand": 3}


@pytest.fixture
def acts(tmp_path):
    return write(tmp_path / "a.safetensors", {"l.input": X, "l.weight": W, "モデル.input": X, "モデル.weight": W})


def call(folder, command, *options, **environment):
    arguments = [command, "a.safetensors", "-o", WORK[command], "--plot", "pictures", "--threads", "1"]
    script = [sys.executable, "-c", "import wncore_cli; wncore_cli.run()", *arguments, *OPTIONS[command], *options]
    given = {**os.environ, **environment}
    return subprocess.run(script, cwd=folder, env=given, capture_output=True, text=True, check=False)


def settings(folder):
    (folder / "rc").mkdir()
    (folder / "rc" / "matplotlibrc").write_text("text.usetex: True\nbackend: tkagg\nfont.family: none\n")
    (folder / "bad").write_bytes(b"\xff\xfe: no text\n")
    (folder / "here").mkdir()
    rc = str(folder / "rc")
    return {
        "a notebook": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        "no such backend": {"MPLBACKEND": "nonsense"},
        "usetex": {"MATPLOTLIBRC": rc, "PATH": "/nonexistent"},
        "a damaged rc": {"MATPLOTLIBRC": str(folder / "bad")},
        "no folder for its cache": {"MPLCONFIGDIR": "/proc/nonexistent"},
    }


@pytest.mark.parametrize(("command", "most"), [("score", None), ("prune", 1), ("expand", 1)])
def test_the_users_settings_are_not_ours(acts, command, most):
    """All of them for one command; the others draw by the same function."""
    folder = acts.parent
    for name, environment in list(settings(folder).items())[:most]:
        done = call(folder, command, "--quiet", "--force", "--layer", "モデル", **environment)
        assert (name, done.returncode, done.stderr) == (name, 0, "")
        assert len(names_in(folder / "pictures")) == PICTURES[command]


def test_a_picture_is_the_same_with_any_settings(acts):
    folder, seen = acts.parent, set()
    for environment in ({}, settings(acts.parent)["usetex"]):
        assert call(folder, "score", "--quiet", "--force", **environment).returncode == 0
        seen.add((folder / "pictures" / "000-l.wasserstein.png").read_bytes())
    assert len(seen) == 1


def test_settings_of_the_process_come_back(run, acts, monkeypatch):
    import matplotlib as mpl

    monkeypatch.setenv("MPLBACKEND", "svg")
    before = mpl.rcParams["axes.titlesize"]
    mpl.rcParams["axes.titlesize"] = 3.0
    try:
        assert run("score", acts, "--layer", "l", "--plot", acts.parent / "pictures")[0] == 0
        assert mpl.rcParams["axes.titlesize"] == 3.0
        assert os.environ["MPLBACKEND"] == "svg"
        assert "MATPLOTLIBRC" not in os.environ
    finally:
        mpl.rcParams["axes.titlesize"] = before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), ValueError("a bug")])
@pytest.mark.parametrize("command", WORK)
def test_results_are_saved_before_and_stay(run, acts, monkeypatch, command, error):
    from matplotlib.figure import Figure

    folder, out = acts.parent, acts.parent / WORK[command]
    seen = []

    def fails(*_, **__):
        seen.append(out.exists())
        raise error

    monkeypatch.setattr(Figure, "savefig", fails)
    layers = ["--layer", "l", *OPTIONS[command]]
    code, text, err = run(command, acts, "-o", out, "--plot", folder / "pictures", *layers)
    assert code == 1
    assert seen == [True]
    assert "l" in {line.split()[0] for line in text.splitlines() if line}
    (line,) = [line for line in err.splitlines() if line.startswith("wncore: error: ")]
    assert line.startswith("wncore: error: pictures could not be drawn: ")
    assert line.endswith("; results were kept")
    monkeypatch.undo()
    other = out.with_stem("other")
    assert run(command, acts, "-o", other, *layers)[0] == 0
    assert other.read_bytes() == out.read_bytes()
    if out.suffix == ".safetensors":
        assert read(out)


@pytest.mark.parametrize("command", WORK)
def test_without_a_file_tables_are_shown(run, acts, monkeypatch, command):
    from matplotlib.figure import Figure

    def fails(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(Figure, "savefig", fails)
    code, text, err = run(command, acts, "--layer", "l", "--plot", acts.parent / "pictures", *OPTIONS[command])
    assert code == 1
    assert "l" in {line.split()[0] for line in text.splitlines() if line}
    assert "pictures could not be drawn: ValueError: a bug" in err
