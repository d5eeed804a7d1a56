"""Output in any encoding: what it lacks is escaped, and documents parse back to the names that there are."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rawfile import write

import wncore_cli

Y = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
NAMES = ["モデル.0.up", "größe.1.up", "\U0001d54f.2.up"]
ENVIRONMENTS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "gbk:strict"},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]
COMMANDS = {
    "score": ["score", "--pairs", "0", "--backend", "numpy"],
    "inspect": ["inspect", "--backend", "numpy"],
    "prune": ["prune", "--iterations", "2", "--backend", "numpy", "--no-wasserstein"],
}


@pytest.fixture
def acts(tmp_path):
    w = np.ones((3, 4), np.float32)
    tensors = {f"{name}.{part}": array for name in NAMES for part, array in (("input", Y), ("weight", w))}
    return write(tmp_path / "acts.safetensors", {**tensors, "ß": np.zeros((2, 3), np.int64)}, model="größe")


def call(environment, *arguments):
    command = [sys.executable, "-c", "import wncore_cli; wncore_cli.run()", *arguments]
    given = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONIO", "LC_", "PYTHONUTF8"))}
    return subprocess.run(command, env=given | environment, capture_output=True, check=False)


def encoding_of(environment):
    if "PYTHONCOERCECLOCALE" in environment:
        return "ascii"
    return environment.get("PYTHONIOENCODING", "utf-8").partition(":")[0]


def shown(text, encoding):
    return text.encode(encoding, "backslashreplace")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_tables_and_notes(acts, environment, command):
    done = call(environment, *COMMANDS[command], acts)
    encoding = encoding_of(environment)
    assert done.returncode == 0, done.stderr
    done.stdout.decode(encoding)
    assert all(shown(name, encoding) in done.stdout for name in NAMES)
    assert shown("ß is passed over", encoding) in done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("environment", ENVIRONMENTS[:1], ids=str)
def test_documents_parse_back(acts, environment, command):
    done = call(environment, *COMMANDS[command], acts, "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(layer["name"] for layer in json.loads(done.stdout.decode("ascii"))["layers"]) == sorted(NAMES)


@pytest.mark.parametrize("environment", ENVIRONMENTS[::3], ids=str)
@pytest.mark.parametrize(("arguments", "code"), [(["score", "ß"], 1), (["score", "--ß"], 2), (["ß"], 2)])
def test_errors(environment, arguments, code):
    done = call(environment, *arguments)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    done.stderr.decode(encoding_of(environment))


@pytest.mark.parametrize("environment", ENVIRONMENTS[-1:], ids=str)
def test_a_file_name_that_is_no_text(acts, environment):
    path = acts.replace(acts.with_name("\udcff\udce9.safetensors"))
    for command in COMMANDS.values():
        done = call(environment, *command, path)
        assert done.returncode == 0, done.stderr
        done.stdout.decode(encoding_of(environment))
        done = call(environment, *command, path, "--json")
        assert sorted(layer["name"] for layer in json.loads(done.stdout)["layers"]) == sorted(NAMES)
    assert b"\\udcff" in call(environment, "inspect", path).stdout


@pytest.mark.parametrize("command", wncore_cli.COMMANDS)
def test_help_is_ascii(run, command):
    """Click would write it in UTF-8 to a stream that is ASCII."""
    assert run(command, "--help")[1].isascii()


@pytest.mark.parametrize(("command", "reader"), [("score", "true"), ("score", "head -c 1"), ("inspect", "head -n 1")])
def test_a_reader_that_goes_away(acts, command, reader):
    wncore = f"{sys.executable} -c 'import wncore_cli; wncore_cli.run()'"
    script = f"{wncore} {' '.join(COMMANDS[command])} {acts} --quiet | {reader}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    assert done.stderr == b""
