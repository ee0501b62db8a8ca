"""No text of a prompt, a game or a model steers the terminal, the log or the table that shows it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.logger import HumanOutputFormat, Logger, make_output_format

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents import cli
from cola_agents.evaluation import inspection, reports
from cola_agents.evaluation.play import Outlook, play
from cola_agents.rl.logs import write_record
from cola_agents.search import draw_tree, tree_text
from cola_envs.shown import shown, shown_line

#: Clears the screen, renames the window, rings, overwrites, deletes, turns the direction, breaks UTF-8.
HOSTILE = "\x1b[2J\x1b]0;OWNED\x07 a\rb\x08 \x7f \x9b31m |"
HOSTILE += "\u202eright\u202c \u2066to\u2069 \u2028 \ud800 \U000e0041"
STEERING = [char for char in HOSTILE if not char.isprintable()]


def problems(folder: Path) -> Path:
    """A problem file whose text is hostile, as JSON may spell it."""
    path = folder / "problems.jsonl"
    path.write_text(json.dumps({"problem": HOSTILE.replace("\ud800", ""), "answer": "1"}) + "\n")
    return path


def printed_by_play(folder: Path, capsys: Any) -> str:
    said: list[str] = []
    lines = iter(["\x1b[2J", ":quit"])
    play(
        "CoLA-Math500-v0",
        env_kwargs={"problems": problems(folder), "max_tokens": 4},
        ask=lambda _: next(lines),
        say=said.append,
    )
    return "".join(said)


def ansi(folder: Path, capsys: Any) -> str:
    env = gym.make("CoLA-Math500-v0", problems=problems(folder), render_mode="ansi")
    env.reset(seed=0)
    return str(env.render())


def human(folder: Path, capsys: Any) -> str:
    env = gym.make("CoLA-Math500-v0", problems=problems(folder), render_mode="human", max_tokens=2)
    env.reset(seed=0)
    env.step(1)
    env.render()
    return capsys.readouterr().out


def human_rows(folder: Path, capsys: Any) -> str:
    envs: Any = gym.make_vec(
        "CoLA-Math500-v0", num_envs=2, problems=problems(folder), render_mode="human", max_tokens=2
    )
    envs.reset(seed=0)
    envs.render()
    return capsys.readouterr().out


def codes(folder: Path, capsys: Any) -> str:
    env: Any = gym.make("CoLA-Arithmetic-v0").unwrapped
    env.reset(seed=0)
    backbone = SimpleNamespace(tokenizer=hostile_tokenizer())
    hostile: Any = SimpleNamespace(session=env.episodes.session, backbone=backbone)
    return Outlook.of(hostile, np.exp(env.episodes.session.prior([0])[0])).table()


def evaluation(folder: Path, capsys: Any) -> str:
    infos = [
        {"success": True, "num_tokens": 1, "subject": subject, "dataset": HOSTILE, "prompt": HOSTILE}
        for subject in (HOSTILE, "plain")
    ]
    report = reports.summary([[reports.Played(info, 1.0) for info in infos]])
    return reports.table({"task": HOSTILE, "split": "test", "actions": "latent", **report})


def code_words(folder: Path, capsys: Any) -> str:
    return inspection._Words(SimpleNamespace(spell=hostile_tokenizer().decode)).token(0)  # type: ignore[arg-type]


def log_line(folder: Path, capsys: Any) -> str:
    logger = Logger(None, [HumanOutputFormat(str(folder / "log.txt"))])
    write_record(logger, {"timesteps": 1.0, "reward": 0.5}, HOSTILE, {})
    return (folder / "log.txt").read_text() + capsys.readouterr().out


def board(folder: Path, capsys: Any) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = Logger(None, [make_output_format("tensorboard", str(folder))])
    write_record(logger, {"timesteps": 1.0, "reward": 0.5}, HOSTILE, {})
    logger.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    (event,) = events.Tensors("sample/text/text_summary")
    return event.tensor_proto.string_val[0].decode()


def hostile_tokenizer() -> Any:
    return SimpleNamespace(decode=lambda ids, **_: HOSTILE * len(ids), eos_token_id=None)


def a_tree() -> Any:
    """A root with one child."""
    return SimpleNamespace(
        visits=lambda node: 3,
        mean=lambda node: 0.5,
        prior=lambda node: 1.0,
        terminal=lambda node: False,
        line=lambda node: [7],
        tokens=lambda node: [7],
        children=lambda node: [1] if node == 0 else [],
    )


def tree(folder: Path, capsys: Any) -> str:
    return tree_text(a_tree(), hostile_tokenizer())


def picture(folder: Path, capsys: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sign that the font lacks
        draw_tree(a_tree(), hostile_tokenizer(), folder / "tree.svg")
    return (folder / "tree.svg").read_text()


def failing_command(folder: Path, capsys: Any) -> str:
    assert cli.main(["convert", f"{folder}/{HOSTILE}".replace("\ud800", ""), str(folder / "out")]) == 2
    return capsys.readouterr().err


EDGES = (
    printed_by_play,
    ansi,
    human,
    human_rows,
    codes,
    evaluation,
    code_words,
    log_line,
    board,
    tree,
    picture,
    failing_command,
)


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.__name__)
def test_hostile_text_is_shown_escaped(edge: Callable[[Path, Any], str], tmp_path: Path, capsys: Any) -> None:
    text = edge(tmp_path, capsys)
    assert "x1b" in text
    assert [char for char in STEERING if char in text] == []


def test_a_commands_warnings_are_shown_escaped(monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    def warn(*_: Any) -> None:
        print(warnings.formatwarning(HOSTILE, UserWarning, "file.py", 1))

    monkeypatch.setattr("cola_agents.commands.convert.convert", lambda *_, **__: warn())
    assert cli.main(["convert", str(tmp_path), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "\\x1b[2J" in said
    assert "\x1b" not in said
    assert "\x1b" in warnings.formatwarning(HOSTILE, UserWarning, "file.py", 1)  # of others it is left alone


def test_recorded_text_stays_raw(tmp_path: Path) -> None:
    env = gym.make("CoLA-Math500-v0", problems=problems(tmp_path))
    _, info = env.reset(seed=0)
    assert "\x1b[2J" in info["prompt"]


def test_a_block_keeps_its_lines_and_a_line_does_not() -> None:
    assert shown("a\n\tb\r\x1b") == "a\n\tb\\r\\x1b"
    assert shown_line("a\n\tb") == "a\\n\\tb"


@pytest.mark.parametrize("text", ["é 漢字 العربية", "नमस्‍ते", "👩‍🔬", "a\u00a0b\u3000c", "∅⟨12⟩ \\boxed{1}"])
def test_ordinary_text_of_any_script_is_left_alone(text: str) -> None:
    assert shown(text) == shown_line(text) == text
