"""The example of backends/README.md is a backend: it certifies by the command that the page gives."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from wncore.testing.contracts import CONTRACTS

PAGE = (Path(__file__).parent.parent / "backends" / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_the_example_of_the_page_is_certified(tmp_path):
    (example,) = blocks("python")
    (tmp_path / "mine.py").write_text(example)
    (command,) = [line for line in blocks("sh")[0].splitlines() if line.startswith("wncore ")]
    arguments = shlex.split(command.replace("200", "20"))[1:]
    run = [sys.executable, "-c", "import wncore_cli; wncore_cli.run()", *arguments]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert certificate["passed"]
    assert certificate["class"] == "mine:Threaded"
    assert certificate["examples"] == 20
    assert certificate["unsupported"] == {"mapping_difficulty": "pairs are not shared out over threads yet"}
    assert {*certificate["budget_used"]} == {contract.operation for contract in CONTRACTS} - {"mapping_difficulty"}
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "certificate.json", "__pycache__"}
    assert "unsupported: pairs are not shared out" in done.stdout


def test_the_page_shows_the_whole_protocol():
    from wncore.backend import Backend

    names = [name for name in (*Backend.__annotations__, *vars(Backend)) if not name.startswith("_")]
    assert [name for name in names if f"`{name}" not in PAGE] == []
