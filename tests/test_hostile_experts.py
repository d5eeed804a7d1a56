"""No file of experts makes a command crash, hang or believe it: one line of error, or a true answer."""

import json
import random

import expert_samples as samples
import hostile_experts as hostile
import judge
import pytest


@pytest.fixture(params=[False, True], ids=["dense", "packed"])
def sample(request, tmp_path):
    """A sound file, dense or packed."""
    return samples.write_sample(tmp_path, packed=request.param)


def refusals(capsys, path, *commands: str) -> list[str]:
    """Return the line that each command refuses a file with."""
    lines = []
    for command in commands:
        code, out, err = judge.run(capsys, command, "--quiet", path)
        assert code == 1, f"{command}: {code} {out} {err}"
        assert err.startswith("wncore: error: "), err
        assert err.count("\n") == 1, err
        assert err[:-1].isprintable(), err
        assert len(err) < 2000, err
        assert "bug in wncore" not in err, err
        lines.append(err)
    return lines


@pytest.mark.parametrize("group", ["fields", "misfits", "values"])
def test_what_is_wrong_is_said(tmp_path, capsys, group):
    sample = samples.write_sample(tmp_path)
    cases = list(getattr(hostile, group)(*samples.parts(sample.path)))
    for label, tensors, document, says in cases:
        sealed = group != "fields"
        samples.put_together(sample.path, tensors, document, sealed)
        for line in refusals(capsys, sample.path, "verify", "inspect"):
            assert says in line, f"{label}: {line}"
            assert "; " in line, f"{label}: {line}"
    assert len(cases) > 10


def test_masks_that_do_not_fit_their_values(tmp_path, capsys):
    sample = samples.write_sample(tmp_path, packed=True)
    for label, tensors, document, says in hostile.masks(*samples.parts(sample.path)):
        samples.put_together(sample.path, tensors, document)
        for line in refusals(capsys, sample.path, "verify", "inspect"):
            assert says in line, f"{label}: {line}"


@pytest.mark.parametrize(("text", "says"), list(hostile.texts()), ids=lambda value: value[:30])
def test_documents_that_are_none(tmp_path, capsys, text, says):
    sample = samples.write_sample(tmp_path)
    samples.write_text(sample.path, samples.parts(sample.path)[0], text)
    for line in refusals(capsys, sample.path, "verify", "inspect"):
        assert says in line


def test_truncated_files(sample, capsys):
    for content in hostile.truncations(sample.path.read_bytes()):
        sample.path.write_bytes(content)
        refusals(capsys, sample.path, "verify", "inspect", "score", "prune")


def test_bits_flipped_in_the_header(sample, capsys):
    content, chance = sample.path.read_bytes(), random.Random(1)
    for _ in range(300):
        place, bit = chance.randrange(hostile.header_of(content)), chance.randrange(8)
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        sample.path.write_bytes(changed)
        refusals(capsys, sample.path, "verify")


def test_a_file_that_does_not_say_what_it_is(tmp_path, capsys):
    sample = samples.write_sample(tmp_path)
    tensors = samples.parts(sample.path)[0]
    sample.path.write_bytes(hostile.without_metadata(tensors))
    (line,) = refusals(capsys, sample.path, "verify")
    assert "holds no experts: its metadata have no wncore.expand; name a file of `wncore expand`" in line
    for value in ({"wncore.expand": 3}, {"wncore.expand": None}, [], {"wncore.expand": "{}", "wncore.schema": "2"}):
        sample.path.write_bytes(hostile.with_text(tensors, value))
        refusals(capsys, sample.path, "verify")


@pytest.mark.parametrize("name", hostile.NAMES, ids=lambda name: repr(name[:20]))
def test_names_are_names_and_nothing_else(sample, capsys, name):
    tensors, document = hostile.renamed(*samples.parts(sample.path), name)
    samples.put_together(sample.path, tensors, document)
    for command in ("verify", "inspect"):
        code, out, err = judge.run(capsys, command, "--quiet", sample.path)
        assert (code, err) == (0, "")
        assert out.replace("\n", "").isprintable()
    code, out, err = judge.run(capsys, "verify", "--quiet", sample.path, "--against", sample.dump)
    assert code == 1
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert "the source has no such layer" in err


def test_numbers_on_the_run_are_believed_only_as_far_as_they_go(tmp_path, capsys):
    sample = samples.write_sample(tmp_path)
    tensors, document = samples.parts(sample.path)
    for changes in ({"threads": 2**62}, {"memory": 2**62}, {"environment": {"cpu": "\x1b[2J" * 100}}, {"length": 3},
                    {"version": "\n" * 500}):  # fmt: skip
        samples.put_together(sample.path, tensors, document | changes)
        code, out, err = judge.run(capsys, "verify", "--quiet", sample.path, "--against", sample.dump)
        assert (code, err) == (0, ""), f"{changes}: {err}"
        assert out.replace("\n", "").isprintable()
        assert max(map(len, out.splitlines())) < 2000
    for changes in ({"memory": 1}, {"device": "cuda:99"}, {"holdout": 0.9999}, {"skip_tokens": 10**9}):
        samples.put_together(sample.path, tensors, document | changes)
        code, out, err = judge.run(capsys, "verify", "--quiet", sample.path, "--against", sample.dump)
        assert (code, out) == (1, ""), f"{changes}: {err}"
        assert err.count("\n") == 1
        assert "bug in wncore" not in err


def test_a_source_that_is_damaged(tmp_path, capsys):
    sample = samples.write_sample(tmp_path)
    content = sample.dump.read_bytes()
    sample.dump.write_bytes(content[:-1])
    code, out, err = judge.run(capsys, "verify", "--quiet", sample.path, "--against", sample.dump)
    assert (code, out) == (1, "")
    assert "is truncated" in err
    code, out, err = judge.run(capsys, "verify", "--quiet", sample.path, "--against", tmp_path / "gone")
    assert (code, out) == (1, "")
    assert "there is no file" in err
    code, out, err = judge.run(capsys, "verify", "--quiet", sample.path, "--against", sample.path)
    assert (code, out) == (1, "")
    assert "holds sparse experts, no inputs or outputs" in err


def test_the_judge_of_these_tests_sees_a_sound_file(sample, capsys):
    samples.put_together(sample.path, *samples.parts(sample.path))
    code, out, err = judge.run(capsys, "verify", "--json", "--quiet", sample.path, "--against", sample.dump)
    assert (code, err) == (0, "")
    assert json.loads(out)["passed"]
