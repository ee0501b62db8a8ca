"""The microscope's page in a real browser: it opens without errors, answers clicks and keys, tells the truth.

With ``COLA_SCREENSHOTS`` set to a folder, pictures of the views are left there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from cola_agents.cli import main
from cola_envs import Turn
from tests.browser import NAMES, Browser, browser, chromium

pytestmark = pytest.mark.skipif(
    chromium() is None, reason=f"needs a browser on the path, one of {', '.join(NAMES)}"
)
MARKUP = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>&lt;"
HOSTILE = f"{MARKUP}\x1b[2J\u202e\x00"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A page of a recording, and the recording's episodes."""
    folder = tmp_path_factory.mktemp("look")
    tries, out = folder / "tries.jsonl", folder / "look.html"
    made = ["generate", "--task", "CoLA-Thinking-v0", "--problems", "2", "--n", "2", "--out", str(tries)]
    assert main(made) == 0
    few = ["--positions", "3", "--tokens", "600", "--simulations", "12", "--out", str(out)]
    assert main(["look", str(tries), *few]) == 0
    return out, [json.loads(line) for line in tries.read_text().splitlines()[1:]]


@pytest.fixture
def page(tab: Browser, looked: tuple[Path, Any], request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The page, as it opens; afterwards nothing may have gone wrong in it."""
    tab.problems.clear()
    tab.requests.clear()
    tab.scheme("light")
    tab.size(1280, 900)
    tab.open(looked[0])
    yield tab
    if folder := os.environ.get("COLA_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.screenshot(Path(folder) / f"{request.node.name}.png")
    assert tab.problems == []


def facts(page: Browser, within: str) -> dict[str, str]:
    """Names and values of the figures in a part of the page."""
    told: dict[str, str] = page.ask(
        "Object.fromEntries([...document.querySelectorAll("
        f"{json.dumps(within + ' dd[data-fact]')})].map((one) => [one.dataset.fact, one.textContent]))"
    )
    return told


def test_the_page_opens_from_a_file_and_asks_for_nothing_else(
    page: Browser, looked: tuple[Path, Any]
) -> None:
    assert page.text("#title").startswith("tries.jsonl")
    assert [address for address in page.requests if address != "about:blank"] == [looked[0].as_uri()]
    assert page.ask("document.querySelectorAll('[role=tab]').length") == 4


def test_the_numbers_are_the_recordings(page: Browser, looked: tuple[Path, list[dict[str, Any]]]) -> None:
    for number, episode in enumerate(looked[1]):
        page.open(looked[0], f"episode/{number}/0")
        top = facts(page, ".top")
        assert top["seed"] == str(episode["seed"])
        assert top["problem seed"] == str(episode["problem_seed"])
        assert float(top["reward"]) == sum(episode["rewards"])
        assert top["outcome"] == ("solved" if episode["info"]["success"] else "not solved")
        for step, (action, log_prob, reward) in enumerate(
            zip(episode["actions"], episode["log_probs"], episode["rewards"], strict=True)
        ):
            panel = facts(page, ".panel")
            assert float(panel["log-probability"]) == log_prob
            assert float(panel["reward"]) == reward
            assert f"code {action}, step {step + 1} of {len(episode['actions'])}" in page.text(".panel h2")
            if step == 0:
                page.click(".token[data-step='0']")
            page.press("ArrowRight")


def test_a_click_on_a_token_and_on_a_row_changes_the_panel(page: Browser) -> None:
    page.click(".token[data-step='2']")
    assert "step 3 of" in page.text(".panel h2")
    assert page.ask("document.querySelectorAll('.panel tr[data-row]').length") == 64
    before = page.text(".future")
    page.click(".panel tr[data-row='9']")
    assert page.text(".future") != before
    assert page.text(".future").startswith("Instead")


def test_other_futures_are_told_at_a_marked_token(page: Browser) -> None:
    page.click(".token.forks")
    texts = set()
    for _ in range(64):
        texts.add(page.ask("(document.querySelector('.led') || {}).textContent"))
        page.press("ArrowDown")
    assert len(texts - {None}) > 1


def test_keys_go_through_tokens_episodes_and_views(page: Browser) -> None:
    page.click(".token[data-step='0']")
    page.press("ArrowRight")
    assert "step 2 of" in page.text(".panel h2")
    page.press("Home")
    assert "step 1 of" in page.text(".panel h2")
    page.press("]")
    assert page.ask("document.querySelector('.bar select').value") == "1"
    for key, name in (("2", "pair"), ("3", "codes"), ("4", "tree"), ("1", "episode")):
        page.press(key)
        assert page.ask(f"document.getElementById('tab-{name}').getAttribute('aria-selected')") == "true"
    page.press("ArrowRight")  # the first tab has the focus now
    assert page.ask("document.activeElement.id") == "tab-pair"


def test_the_codebooks_view_finds_the_code_of_a_token(page: Browser) -> None:
    page.press("3")
    data = json.loads(page.text("#data"))["codebook"]
    for code in (data["codes"][0], data["codes"][5]):
        page.click(f".cell[data-code='{code['code']}']")
        told = facts(page, ".panel")
        assert told["uses"] == f"{code['uses']:,}"
        assert float(told["information, nats"]) == pytest.approx(code["information"], rel=1e-3)
    token = max((text for c in data["codes"] for text, _ in c["next_tokens"] if text.isalpha()), key=len)
    wanted = [c["code"] for c in data["codes"] if any(token in text for text, _ in c["next_tokens"])]
    assert 0 < len(wanted) < len(data["codes"])
    page.click("input[type=search]")
    page.type(token)
    cells = "[...document.querySelectorAll('.cell:not(.faded)')]"
    assert page.ask(f"{cells}.map((one) => Number(one.dataset.code))") == wanted


def test_two_episodes_of_a_problem_stand_side_by_side(page: Browser) -> None:
    page.press("2")
    assert page.ask("document.querySelectorAll('.compact .text').length") == 2
    told = "[...document.querySelectorAll('[data-fact=\"problem seed\"]')]"
    seeds = page.ask(f"{told}.map((one) => one.textContent)")
    assert seeds[0] == seeds[1]


def test_the_tree_folds(page: Browser) -> None:
    page.press("4")
    count = "document.querySelectorAll('.tree details[open]').length"
    opened = page.ask(count)
    assert opened > 1
    page.click(".tree summary")
    assert page.ask(count) == opened - 1
    data = json.loads(page.text("#data"))["tree"]
    assert f"{data['nodes'][0]['visits']} visits" in page.text(".tree summary")


@pytest.mark.parametrize("view", ["episode", "pair", "codes", "tree"])
def test_nothing_is_cut_off_at_400_pixels(page: Browser, looked: tuple[Path, Any], view: str) -> None:
    page.size(400, 900)
    page.open(looked[0], view)
    assert page.ask("document.documentElement.scrollWidth") <= 400


def test_light_and_dark_follow_the_system_and_the_key(page: Browser) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.ask(colour)
    page.scheme("dark")
    dark = page.ask(colour)
    assert dark != light
    page.press("t")
    assert page.ask(colour) == light


def test_a_runs_curves_and_samples_are_its_logs(tab: Browser, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.html"
    few = ["--episodes", "2", "--positions", "1", "--tokens", "0", "--simulations", "0", "--out", str(out)]
    assert main(["look", str(trained), *few]) == 0
    logged = [json.loads(line) for line in (trained / "logs" / "progress.json").read_text().splitlines()]
    tab.problems.clear()
    tab.open(out, "training")
    for key, record in (("Home", logged[0]), ("End", logged[-1])):
        tab.ask("document.querySelector('input[type=range]').focus()")
        tab.press(key)
        assert tab.text(".sample") == record["sample/text"]
        reading = tab.text("figure[data-curve='reward'] b")
        assert float(reading) == pytest.approx(record["rollout/ep_rew_mean"], rel=1e-3)
    assert tab.problems == []


class Hostile:
    """A task whose every text means harm."""

    stop = ("\n",)

    def reset(self, rng: Any) -> str:
        return HOSTILE

    def step(self, text: str) -> Turn:
        return Turn(text=HOSTILE, reward=1.0, info={HOSTILE: HOSTILE, "success": True}, done=True)


def test_hostile_text_stays_text(tab: Browser, tmp_path: Path) -> None:
    env: Any = gym.make("CoLA-Text-v0", task=Hostile, max_tokens=3, render_mode="html")
    env.reset(seed=0)
    while env.unwrapped.episodes.running(0):
        env.step(17)
    (tmp_path / "hostile.html").write_text(env.render(), encoding="utf-8")
    tab.problems.clear()
    tab.open(tmp_path / "hostile.html")
    assert tab.ask("window.broken") is None
    assert tab.ask("document.querySelectorAll('script').length") == 2
    assert tab.ask("document.querySelectorAll('img').length") == 0
    assert tab.text(".text").count(MARKUP) == 2
    assert not set("\x1b\u202e\x00") & set(tab.ask("document.body.innerText"))
    assert tab.problems == []
