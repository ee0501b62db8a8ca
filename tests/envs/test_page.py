"""A page of one episode: it holds what was played, whatever the task's texts are, and nothing that runs."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded

import cola_envs
from cola_envs.page.log import ROWS
from cola_envs.page.write import in_script, page
from cola_envs.testing import FakeBackbone
from tests.envs.test_env import Talk

SCRIPTS = [one for one in files("cola_envs.page").iterdir() if one.name.endswith(".js")]


def made(model: Any = None, **kwargs: Any) -> Any:
    settings = {"task": Talk, "model": model or FakeBackbone(), "render_mode": "html", **kwargs}
    return gym.make("CoLA-Text-v0", **settings)


def told(text: str) -> dict[str, Any]:
    """The data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_page_holds_the_episodes_actions_rewards_and_tables() -> None:
    env = made()
    env.reset(seed=3)
    episodes = env.unwrapped.episodes
    taken, rewards, expected = [], [], []
    for action in (5, 0, 7, 7):
        prior, (ids, log_probs) = episodes.session.prior([0])[0], episodes.session.outcomes([0])
        expected.append((np.exp(prior), ids[0, :, 0], np.exp(log_probs[0, :, 0])))
        _, reward, terminated, truncated, _ = env.step(action)
        taken.append(action)
        rewards.append(reward)
        assert not terminated
        assert not truncated
    data = told(env.render())
    (episode,) = data["episodes"]
    assert [step["action"] for step in episode["steps"]] == taken
    assert [step["reward"] for step in episode["steps"]] == rewards
    for step, (prior, ids, token_p) in zip(episode["steps"], expected, strict=True):
        table = step["table"]
        assert sorted(table["codes"]) == list(range(8))
        assert table["prior"] == sorted(table["prior"], reverse=True)
        np.testing.assert_allclose(table["prior"], prior[table["codes"]], atol=1e-5)
        np.testing.assert_allclose(table["token_p"], token_p[table["codes"]], atol=1e-5)
        decode = episodes.backbone.tokenizer.decode
        said = [data["words"][token] for token in table["tokens"]]
        assert said == [decode([token]) for token in ids[table["codes"]]]
    text = "".join(piece["text"] for piece in episode["pieces"])
    assert text == episodes.prompt(0) + episodes.backbone.tokenizer.decode(
        episodes.tokens(0)[episodes.prompt_length(0) :]
    )


def test_the_agents_pieces_name_their_steps_and_the_tasks_none() -> None:
    env = made(model=FakeBackbone(tokens_per_action=3))
    env.reset(seed=0)
    for _ in range(5):
        env.step(1)
    (episode,) = told(env.render())["episodes"]
    assert episode["pieces"][0]["steps"] == []
    assert [step for piece in episode["pieces"] for step in piece["steps"]] == list(range(5))


def test_of_a_vocabulary_the_likeliest_and_the_taken_token_are_told() -> None:
    env: Any = gym.make("CoLA-Text-Token-v0", task=Talk, model=FakeBackbone("token"), render_mode="html")
    env.reset(seed=0)
    prior = env.unwrapped.episodes.session.prior([0])[0]
    unlikely = int(np.argsort(-prior)[200])
    env.step(unlikely)
    (episode,) = told(env.render())["episodes"]
    codes = episode["steps"][0]["table"]["codes"]
    assert len(codes) == ROWS + 1
    assert codes[-1] == unlikely


def test_an_undone_step_is_gone_and_those_before_it_stay() -> None:
    env = made()
    env.reset(seed=0)
    env.step(2)
    state = env.unwrapped.snapshot()
    env.step(3)
    env.unwrapped.restore(state)
    env.step(4)
    (episode,) = told(env.render())["episodes"]
    assert [step["action"] for step in episode["steps"]] == [2, 4]
    assert all("table" in step for step in episode["steps"])
    other = made()
    other.reset(seed=9)
    other.unwrapped.restore(state)
    (restored,) = told(other.render())["episodes"]
    assert restored["steps"] == [{"action": 2}]


def test_what_is_refused_leaves_the_page_as_it_was() -> None:
    env = made(max_tokens=1)
    with pytest.raises(ResetNeeded):
        env.unwrapped.render()
    env.reset(seed=0)
    before = env.unwrapped.render()
    with pytest.raises(InvalidAction):
        env.step(8)
    assert env.render() == before
    env.step(0)
    ended = env.render()
    with pytest.raises(ResetNeeded):
        env.step(0)
    assert env.render() == ended
    assert told(ended)["episodes"][0]["ended"] in ("terminated", "truncated")


def test_html_is_for_a_single_environment() -> None:
    with pytest.raises(gym.error.UnsupportedMode, match="'human' or 'rgb_array', got 'html'"):
        gym.make_vec("CoLA-Text-v0", num_envs=2, task=Talk, model=FakeBackbone(), render_mode="html")


HOSTILE = "</script><script>alert(1)</script><!--<script>&amp;\u2028\x1b[2J\x00\ud800"


def test_hostile_text_cannot_leave_its_place_in_the_page() -> None:
    class Hostile:
        stop = ("\n",)

        def reset(self, rng: Any) -> str:
            return HOSTILE.replace("\ud800", "")

        def step(self, text: str) -> cola_envs.Turn:
            return cola_envs.Turn(done=True, info={"said": HOSTILE})

    env = made(task=Hostile, max_tokens=1)
    env.reset(seed=0)
    env.step(0)
    text = env.render()
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<!--" not in text
    assert not set("\x1b\x00\u2028") & set(text)
    (episode,) = told(text)["episodes"]
    assert "<script>alert(1)</script>" in episode["pieces"][0]["text"]
    assert "\\x1b[2J\\x00" in episode["pieces"][0]["text"]
    assert episode["info"]["said"].endswith("\\ud800")


def test_a_title_is_escaped_and_filled_in_text_is_not_filled_again() -> None:
    text = page({"title": "@@data@@ </title><b>", "about": [["@@script@@", "@@style@@"]]})
    assert "<title>@@data@@ &lt;/title&gt;&lt;b&gt;</title>" in text
    assert told(text)["about"] == [["@@script@@", "@@style@@"]]


def test_the_page_runs_its_own_script_alone_and_makes_text_of_its_data() -> None:
    text = page({"title": ""})
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["']""", text)
    for script in SCRIPTS:
        code = script.read_text()
        for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("):
            assert way not in code, f"{script.name} uses {way}"
    assert sum(len(script.read_text().splitlines()) for script in SCRIPTS) < 600


def test_a_number_that_is_not_finite_and_a_page_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        in_script({"value": float("nan")})
    with pytest.raises(ValueError, match=r"the page would have 3\.2 MB"):
        page({"title": "", "words": ["x" * 3_200_000]})
