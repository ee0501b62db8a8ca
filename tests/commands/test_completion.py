"""``cola --completion``: the script that it prints completes, in a real shell."""

import shutil
import subprocess

import pytest

from cola_agents.cli import main

pytest.importorskip("shtab")


def script(shell, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["--completion", shell])
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cola tr", {"train", "train-reward"}),
        ("cola pretrain wo", {"world"}),
        ("cola train --algo r", {"remax", "rloo"}),
        (
            "cola train --task CoLA-Text",
            {f"CoLA-Text{rest}-v0" for rest in ("", "-Token", "Rooms", "Rooms-Token")},
        ),
        ("cola resume --thr", {"--threads"}),
    ],
)
def test_bash_completes_commands_options_and_task_ids(words, expected, capsys):
    line = f"COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; _shtab_cola"
    ask = line + "; printf '%s\\n' \"${COMPREPLY[@]}\""
    ran = subprocess.run(
        ["bash", "-c", script("bash", capsys) + "\n" + ask], capture_output=True, text=True, timeout=60
    )
    assert set(ran.stdout.split()) == expected, ran.stderr


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script_that_knows_the_commands(shell, capsys):
    assert "pretrain" in script(shell, capsys)


def test_a_missing_shtab_is_named_with_its_cure(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    with pytest.raises(SystemExit) as ended:
        main(["--completion", "bash"])
    assert ended.value.code == 2
    assert "pip install 'cola-rl[completion]'" in capsys.readouterr().err
