"""Playing by hand: typed text and picked codes reach the task, and every code's word is shown."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest

from cola_agents import GRPO
from cola_agents.cli import main
from cola_agents.evaluation.play import Outlook, play
from cola_envs.testing import FakeBackbone


def script(*lines: str):
    """A player who says these lines and leaves."""
    waiting: Iterator[str] = iter(lines)

    def ask(prompt: str) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    return ask


def test_a_typed_right_answer_is_rewarded_and_the_next_episode_begins() -> None:
    env = gym.make("CoLA-Arithmetic-v0")
    _, info = env.reset(seed=4)
    said: list[str] = []
    right, wrong = f" \\boxed{{{info['answer']}}}", " \\boxed{x}"
    returns = play("CoLA-Arithmetic-v0", seed=4, ask=script(right, wrong), say=said.append)
    assert returns == [1.0, 0.0]
    assert info["prompt"] in said
    assert any("success: True" in text for text in said)


def test_picked_codes_play_the_same_episode_as_the_environment() -> None:
    env = gym.make("CoLA-Arithmetic-v0", max_tokens=5)
    env.reset(seed=1)
    for code in (3, 9, 60, 0, 12):
        info = env.step(code)[4]
    said: list[str] = []
    player = script("3", "9", "60", "0", "12")
    play("CoLA-Arithmetic-v0", codes=True, seed=1, env_kwargs={"max_tokens": 5}, ask=player, say=said.append)
    assert any(f"num_tokens: {info['num_tokens']}" in text for text in said)
    typed = "".join(text for text in said if "policy" not in text)
    assert info["text"] in typed


def test_the_table_groups_codes_by_the_token_that_each_gives_next() -> None:
    env = gym.make("CoLA-Arithmetic-v0").unwrapped
    env.reset(seed=0)
    prior = np.exp(env.episodes.session.prior([0])[0])
    outlook = Outlook.of(env.episodes, prior)
    groups = outlook.groups()
    assert sorted(code for codes in groups.values() for code in codes) == list(range(64))
    shown = {str(code): word for word, codes in groups.items() for code in codes}
    first = next(iter(groups.values()))
    assert f"codes {' '.join(map(str, first[:12]))}" in outlook.table().splitlines()[0]
    state = env.snapshot()
    for code in (0, 17, 63):
        env.restore(state)
        token = env.step(code)[4]["token"]
        tokenizer = env.episodes.backbone.tokenizer
        wanted = "<end>" if token == tokenizer.eos_token_id else tokenizer.decode([token])
        assert wanted == shown[str(code)]


def test_a_word_stands_for_its_likeliest_code() -> None:
    outlook = Outlook([" a", "7", " a", "<end>"], np.array([0.1, 0.2, 0.6, 0.1]), np.ones(4))
    said = ("a", "' a'", "3", '"7"', "7", "<end>", "b", "4")
    assert outlook.code_of("²") is None, "a digit that is no number"
    assert [outlook.code_of(text) for text in said] == [2, 2, 3, 1, 1, 3, None, None]


def test_a_saved_agent_plays_while_the_player_watches(tmp_path) -> None:
    agent = GRPO("CoLA-Arithmetic-v0", num_envs=2, env_kwargs={"max_tokens": 4})
    agent.save(tmp_path / "run")
    said: list[str] = []
    returns = play("CoLA-Arithmetic-v0", agent=agent, ask=script("", ""), say=said.append)
    assert len(returns) == 2
    assert sum("num_tokens: " in text for text in said) == 2
    said.clear()
    play("CoLA-Arithmetic-v0", agent=agent, codes=True, ask=script(":quit"), say=said.append)
    assert any("policy" in text for text in said[2:])


def test_what_is_no_code_is_explained_and_nothing_is_lost() -> None:
    said: list[str] = []
    play(
        "CoLA-Arithmetic-v0", codes=True, ask=script("seven", "64", "+2", ":reset", ":quit"), say=said.append
    )
    assert any("is no code" in text for text in said)
    assert any("'64' is no code of 0 to 63" in text for text in said)


def test_codes_that_are_not_allowed_are_no_codes() -> None:
    class Masked(FakeBackbone):
        def action_mask(self) -> np.ndarray:
            return np.arange(8) < 2

    said: list[str] = []
    play(
        "CoLA-Arithmetic-v0",
        codes=True,
        env_kwargs={"model": Masked()},
        ask=script("5", "1"),
        say=said.append,
    )
    assert sum("is no code" in text for text in said) == 1
    assert any("'5' is no code" in text for text in said)


def test_a_negative_seed_is_refused_by_name_before_anything_is_played(capsys) -> None:
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        play("CoLA-Arithmetic-v0", seed=-1, ask=lambda prompt: pytest.fail("asked"))
    assert not capsys.readouterr().out


def test_bad_ids_are_refused(capsys) -> None:
    assert main(["play", "CartPole-v1"]) == 2
    assert "not one of the CoLA" in capsys.readouterr().err
    with pytest.raises(ValueError, match="without -Token"):
        play("CoLA-Arithmetic-Token-v0", codes=True)
