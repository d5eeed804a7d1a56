"""The rules of the house, asserted."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path for folder in ("wncore", "backends", "cli", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def loaded_by(code: str) -> set[str]:
    run = [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in out.split()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.is_relative_to(ROOT / "wncore")], ids=lambda p: p.name
)
def test_the_core_knows_neither_torch_nor_the_command_line(path):
    assert not imported(path) & {"torch", "wncore_torch", "wncore_cli", "click", "tqdm"}


def test_the_command_line_knows_no_mathematics_library_but_numpy():
    for path in (ROOT / "cli").rglob("*.py"):
        assert not imported(path) & {"scipy", "numba", "torch"}, path


def test_importing_wncore_is_cheap():
    heavy = {"numpy", "scipy", "numba", "torch", "hypothesis", "matplotlib", "pyarrow"}
    assert not loaded_by("import wncore; wncore.available()") & heavy


def test_help_loads_neither_numpy_nor_numba():
    assert not loaded_by("import wncore_cli; wncore_cli.main(['--help'])") & {"numpy", "numba", "scipy"}


def test_the_definitions_do_without_numba():
    assert "numba" not in loaded_by("import wncore; wncore.get_backend('numpy'); import wncore.scoring")


def test_commands_do_without_the_extras():
    code = "from wncore_cli import eval, expand, prune, score, verify; import wncore.experts.layers, wncore.sources, "
    code += "wncore.experts.results, wncore.experts.recomputation, wncore.prune_results"
    assert not loaded_by(code) & {"hypothesis", "pytest", "sklearn", "torch", "matplotlib", "safetensors", "pyarrow"}


def test_every_test_that_is_listed_as_slow_exists():
    for line in (ROOT / "tests" / "slow.txt").read_text().split():
        path, name = line.split("::")[0], line.split("::")[-1]
        assert f"def {name}(" in (ROOT / path).read_text(), line


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/test_*.py")), ids=lambda path: path.name)
def test_something_of_every_module_is_fast(path):
    slow = {line.split("::")[-1] for line in (ROOT / "tests" / "slow.txt").read_text().split() if path.name in line}
    assert set(re.findall(r"def (test_\w+)\(", path.read_text())) - slow


def test_every_public_name_can_be_imported():
    import wncore

    for name in wncore.__all__:
        assert getattr(wncore, name) is not None
        assert not isinstance(getattr(wncore, name), type(wncore)), f"{name} is a module"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = wncore.nonsense


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.xdist_group("wheel")
def test_the_wheel_holds_three_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"wncore", "wncore_torch", "wncore_cli"}
    assert {f"{package}/py.typed" for package in top} <= set(names)
    assert "wncore/testing/conformance.py" in names


@pytest.mark.xdist_group("wheel")
def test_the_wheel_works_on_its_own(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import wncore, wncore_cli, wncore_torch; print(wncore.__file__); wncore_cli.main(['backends'])"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in run.stdout
    assert "wncore_torch:TorchBackend" in run.stdout
