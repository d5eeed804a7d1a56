"""Hostile dumps: a right answer or one line of error, never a traceback, a hang, or a wrong number. See hostile.py."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import hostile
import ml_dtypes
import numpy as np
import pytest
import rawfile

import wncore.dumps
from wncore.dumps.header import LONGEST


@pytest.fixture
def dump(tmp_path) -> Path:
    path = tmp_path / "dump.safetensors"
    path.write_bytes(rawfile.pack(*hostile.sound()))
    return path


@pytest.fixture
def fault(capsys) -> Callable[..., str | None]:
    """What is wrong with the answers to these sources; None if nothing is."""
    return lambda *sources, **options: hostile.problem(capsys.readouterr, *sources, **options)


@pytest.fixture
def refusal(capsys, fault) -> Callable[..., str]:
    """Return the line that ``score`` refuses these sources with."""

    def refuse(*sources: Path, **options) -> str:
        assert fault(*sources, **options) is None
        code, _, err = hostile.run(capsys.readouterr, "score", "--quiet", "--backend", "numpy", *sources)
        assert code == 1
        return err

    return refuse


def scores(capsys, *sources: Path) -> dict | None:
    """Return the layers of the document, or None if there is none."""
    code, out, _ = hostile.run(capsys.readouterr, "score", "--json", "--quiet", "--backend", "numpy", *sources)
    return json.loads(out)["layers"] if code == 0 else None


class TestDamage:
    """Thousands of damaged files."""

    @pytest.mark.parametrize("group", hostile.GROUPS, ids=lambda group: group.__name__)
    def test_it_ends_in_a_right_answer_or_one_line_of_error(self, group, tmp_path, fault):
        path, found = tmp_path / "dump.safetensors", []
        for label, content in group():
            path.write_bytes(content)
            wrong = fault(path)
            if wrong:
                found.append(f"{label}: {wrong}")
        assert not found, f"{len(found)} faults\n" + "\n".join(found[:20])

    def test_there_are_three_thousand_cases(self):
        assert sum(len(list(group())) for group in hostile.GROUPS) >= 3000

    def test_the_sound_dump_is_scored(self, dump, fault, capsys):
        assert fault(dump) is None
        layers = scores(capsys, dump)
        assert layers is not None
        assert [layer["name"] for layer in layers] == ["fc", "h.0.hook"]

    def test_the_judge_rejects_wrong_scores(self, dump, capsys):
        code, out, _ = hostile.run(capsys.readouterr, "score", "--json", "--backend", "numpy", dump)
        assert code == 0
        document = json.loads(out)
        document["layers"][0]["wasserstein"][2] += 1e-3
        assert "has distances" in str(hostile.wrong_scores(json.dumps(document), (dump,)))


class TestNonFinite:
    """NaN and infinity are counted, and the first is named, unless padding hides them."""

    @pytest.mark.parametrize("name", ["fc.input", "fc.weight", "fc.bias", "h.0.hook"])
    @pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
    def test_the_message_names_the_tensor_the_count_and_the_first(self, tmp_path, refusal, name, value):
        tensors = hostile.tensors() | {"tokens.mask": np.ones(24, bool)}
        flat = tensors[name].reshape(-1, tensors[name].shape[-1]) if tensors[name].ndim > 1 else tensors[name][:, None]
        places = [(flat.shape[0] - 3, 0), (flat.shape[0] - 2, flat.shape[1] - 1), (flat.shape[0] - 1, 0)]
        for place in places:
            flat[place] = value
        path = rawfile.write(tmp_path / "dump.safetensors", tensors)
        line = refusal(path)
        assert f"{name} holds NaN or infinity: 3 of its {flat.size} values" in line
        assert f" {places[0][0]}, channel {places[0][1]}; " in line

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2,
                                       ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz])  # fmt: skip
    def test_they_are_found_in_every_dtype(self, tmp_path, refusal, dtype):
        y = np.random.default_rng(0).standard_normal((24, 3)).astype(dtype)
        y[5, 1] = np.nan
        path = rawfile.write(tmp_path / "dump.safetensors", {"fc.output": y})
        assert "fc.output holds NaN or infinity: 1 of its 72 values, the first at token 5, channel 1" in refusal(path)

    @pytest.mark.parametrize("pattern", [0x7C01, 0xFC01, 0x7E00, 0x7FFF], ids=hex)
    def test_a_nan_that_signals_is_one_like_any_other(self, tmp_path, refusal, pattern):
        y = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float16)
        y.view(np.uint16)[7, 2] = pattern
        assert "token 7, channel 2" in refusal(rawfile.write(tmp_path / "dump.safetensors", {"fc.output": y}))

    def test_padding_may_hold_them(self, tmp_path, fault, capsys):
        tensors = hostile.tensors()
        for name in ("fc.input", "h.0.hook"):
            tensors[name].reshape(24, -1)[~tensors["tokens.mask"]] = np.nan
        path = rawfile.write(tmp_path / "dump.safetensors", tensors)
        assert fault(path) is None
        assert scores(capsys, path) is not None


class TestSources:
    """What is named as a dump may be anything that a path can lead to."""

    @pytest.mark.parametrize("name", ["dump.safetensors", "dump.safetensors.index.json", "folder"])
    @pytest.mark.parametrize("kind", ["missing", "empty", "folder", "pipe", "socket", "/dev/zero", "/dev/null", "/dev/tty",
                                      "/dev/full", "/proc/self/mem", "/proc/self/environ", "loop", "dangling"])  # fmt: skip
    def test_only_files_and_folders_with_dumps_are_read(self, tmp_path, monkeypatch, fault, name, kind):
        monkeypatch.chdir(tmp_path)
        path = Path(name)
        if kind == "empty":
            path.touch()
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            socket.socket(socket.AF_UNIX).bind(name)
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "dangling":
            path.symlink_to("nowhere")
        elif kind != "missing":
            path.symlink_to(kind)
        assert fault(path) is None

    @pytest.mark.parametrize("kind", ["folder", "pipe", "/dev/zero", "loop", "dangling", "empty"])
    def test_one_of_them_within_a_folder_spoils_it(self, tmp_path, refusal, kind):
        hostile_one = tmp_path / "set" / "b.safetensors"
        hostile_one.parent.mkdir()
        rawfile.write(tmp_path / "set" / "a.safetensors", hostile.tensors())
        if kind == "folder":
            hostile_one.mkdir()
        elif kind == "pipe":
            os.mkfifo(hostile_one)
        elif kind == "empty":
            hostile_one.touch()
        else:
            hostile_one.symlink_to({"loop": "b.safetensors", "dangling": "nowhere"}.get(kind, kind))
        assert str(hostile_one) in refusal(tmp_path / "set")

    @pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "a\0b", "a\nb", "\x1b[2J", "\udcff", "-", "~", "*", "%s"])
    def test_a_name_that_no_file_has_is_repeated_on_one_line(self, tmp_path, fault, name):
        assert fault(tmp_path / name, names="File name too long") is None

    @pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\udcff", "\U0001d54f", "%s", "{0}"])
    def test_a_sound_dump_may_have_any_name(self, tmp_path, fault, capsys, name):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(rawfile.pack(*hostile.sound()))
        assert fault(path) is None
        assert scores(capsys, path) is not None

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_what_may_not_be_read_is_refused(self, tmp_path, dump, refusal, what):
        source = dump if what == "file" else tmp_path
        source.chmod(0)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            assert f"{source} cannot be read: Permission denied" in refusal(source)
        finally:
            if root:
                os.seteuid(0)
            source.chmod(0o700)

    @pytest.mark.parametrize("arguments", [[], ["--length", "0"], ["--length", "x"], ["--skip-tokens", "-1"], ["--gone"],
                                           ["--memory", "x"], ["--estimator", "x"], ["--pairs", "-1"]])  # fmt: skip
    def test_wrong_usage_is_another_code(self, dump, capsys, arguments):
        sources = [dump] if arguments else []
        code, out, err = hostile.run(capsys.readouterr, "score", *sources, *arguments)
        assert (code, out) == (2, "")
        assert "Traceback" not in err


class TestIndexes:
    """The index of a sharded set is damaged."""

    @pytest.fixture
    def index(self, tmp_path) -> Path:
        tensors = hostile.tensors()
        rawfile.write(
            tmp_path / "a-1.safetensors", {key: tensors[key] for key in ("fc.input", "fc.weight", "tokens.mask")}
        )
        rawfile.write(tmp_path / "a-2.safetensors", {key: tensors[key] for key in ("fc.bias", "h.0.hook")})
        path = tmp_path / "a.safetensors.index.json"
        where = {name: f"a-{1 + (name in ('fc.bias', 'h.0.hook'))}.safetensors" for name in tensors}
        path.write_text(json.dumps({"metadata": {"total_size": 1000}, "weight_map": where}))
        return path

    def test_it_ends_in_the_right_answer_or_one_line_of_error(self, index, fault, capsys):
        sound, found, answers = scores(capsys, index), [], 0
        assert sound is not None
        for label, content in hostile.text_damage(index.read_bytes(), 300):
            index.write_bytes(content)
            wrong = fault(index, names=str(index.parent))
            answer = scores(capsys, index)
            answers += answer is not None
            if wrong or answer not in (sound, None):
                found.append(f"{label}: {wrong or 'other scores'}")
        assert not found, f"{len(found)} faults\n" + "\n".join(found[:20])
        assert 0 < answers < 300


class TestChanges:
    """The file changes after its header was read."""

    @staticmethod
    def replaced(path: Path, make: Callable[[Path], object]) -> None:
        path.unlink()
        make(path)

    CHANGES = {  # noqa: RUF012
        "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
        "emptied": lambda path: os.truncate(path, 0),
        "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
        "grown": lambda path: os.truncate(path, path.stat().st_size + 8),
        "removed": lambda path: path.unlink(),
        "touched": lambda path: os.utime(path, ns=(1, 1)),
        "another file": lambda path: TestChanges.replaced(path, lambda at: at.write_bytes(bytes(10**5))),
        "a pipe": lambda path: TestChanges.replaced(path, os.mkfifo),
        "a folder": lambda path: TestChanges.replaced(path, os.mkdir),
        "/dev/zero": lambda path: TestChanges.replaced(path, lambda at: at.symlink_to("/dev/zero")),
        "a loop": lambda path: TestChanges.replaced(path, lambda at: at.symlink_to(at)),
    }

    @pytest.mark.parametrize("change", CHANGES)
    def test_it_is_refused(self, dump, capsys, monkeypatch, change):
        opened = wncore.dumps.open_dump

        def open_and_change(*sources, **options):
            found = opened(*sources, **options)
            self.CHANGES[change](dump)
            return found

        monkeypatch.setattr(wncore.dumps, "open_dump", open_and_change)
        code, out, err = hostile.run(capsys.readouterr, "score", dump, "--quiet", "--backend", "numpy")
        assert hostile.wrong_error(code, out, err, (dump,)) is None

    def test_a_writer_at_the_same_time_spoils_no_answer(self, dump, capsys):
        """Whatever moment the reader meets, it sees the beginning of one content, and must not take it for the whole."""
        content, sound, done = dump.read_bytes(), scores(capsys, dump), threading.Event()

        def rewrite() -> None:
            while not done.is_set():
                for size in (0, 100, len(content) // 2, len(content) - 1, len(content)):
                    dump.write_bytes(content[:size])

        writer = threading.Thread(target=rewrite)
        writer.start()
        try:
            for _ in range(100):
                code, out, err = hostile.run(
                    capsys.readouterr, "score", dump, "--json", "--quiet", "--backend", "numpy"
                )
                wrong = hostile.wrong_error(code, out, err, (dump,)) if code else None
                assert wrong is None
                assert code or json.loads(out)["layers"] == sound
        finally:
            done.set()
            writer.join()


class TestMemory:
    """No header, whatever it announces or holds, takes more memory than a command may by default."""

    @pytest.mark.parametrize(
        ("unit", "says"),
        [
            (None, "has a header of 100000000 bytes; more than 33554432 are not read"),
            (b"[],", "has a header that is not sound JSON"),
            (b"[", "it is nested too deeply"),
            (b'"a":0,', "has a header that is not sound JSON"),
            (b" ", "has a header that is not sound JSON"),
        ],
    )
    def test_a_vast_header_is_refused(self, tmp_path, unit, says):
        path = tmp_path / "dump.safetensors"
        if unit is None:
            path.write_bytes((10**8).to_bytes(8, "little"))
            os.truncate(path, 3 * 10**8)
        else:
            text = (b"{" if unit[0] == ord('"') else b"[") + unit * ((LONGEST - 1) // len(unit))
            path.write_bytes(len(text).to_bytes(8, "little") + text)
        script = """
            import resource, sys
            from wncore_cli import main
            code = main(["score", sys.argv[1]])
            print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        """
        command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        code, peak = map(int, done.stdout.split())
        assert code == 1
        assert done.stderr.startswith(f"wncore: error: {path} {says[:3]}")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
        assert peak < (1024 + 300) * 2**20
