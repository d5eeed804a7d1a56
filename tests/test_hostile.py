"""Hostile dumps: a right answer or one line of error, never a traceback, a hang, or a wrong number. See hostile.py."""

import hostile
import pytest


@pytest.mark.parametrize("group", hostile.GROUPS, ids=lambda group: group.__name__)
def test_damage_ends_in_a_right_answer_or_one_line_of_error(group, tmp_path, capsys):
    path, found = tmp_path / "dump.safetensors", []
    for label, content in group():
        path.write_bytes(content)
        fault = hostile.problem(capsys.readouterr, path)
        if fault:
            found.append(f"{label}: {fault}")
    assert not found, f"{len(found)} faults\n" + "\n".join(found[:20])


def test_the_suite_has_two_thousand_cases():
    assert sum(len(list(group())) for group in hostile.GROUPS) >= 2000


def test_the_sound_dump_is_sound(tmp_path, capsys):
    path = tmp_path / "dump.safetensors"
    path.write_bytes(hostile.rawfile.pack(*hostile.sound()))
    code, out, err = hostile.run(capsys.readouterr, "score", path, "--json", "--backend", "numpy")
    assert (code, err) == (0, "")
    assert hostile._wrong_scores(out, (path,)) is None
