"""``cola play --browser``: a page of one's own machine alone, on which a person plays and steps back."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from cola_agents.cli import main
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.evaluation.play import make_playable
from cola_agents.evaluation.play_page import Game, PlayServer
from cola_envs import Turn
from cola_envs.page.pieces import span_texts, span_tokens
from cola_envs.testing import FakeBackbone
from tests import tiny
from tests.browser import NAMES, browser, chromium

HOSTILE = "</p><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>\x1b[2J"


class Hostile:
    stop = ("\n",)

    def reset(self, rng):
        return HOSTILE

    def step(self, text):
        return Turn(text=HOSTILE, done=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., PlayServer]]:
    """Starts servers of games, which end with the test."""
    with ExitStack() as stack:

        def start(env_id: str = "CoLA-Thinking-v0", codes: bool = True, **kwargs) -> PlayServer:
            env, _ = make_playable(env_id, codes, None, kwargs, render_mode="html")
            server = stack.enter_context(PlayServer(Game(env, seed=0), env_id))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.shutdown)
            return server

        yield start


def request(
    server: PlayServer, method: str, path: str, host: str | None = None, **form: str
) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    headers = {"Host": host or server.host, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request(method, path, urlencode(form), headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def written(server: PlayServer) -> str:
    """The text so far, as the page shows it."""
    page = request(server, "GET", f"/{server.secret}/")[1]
    return re.search(r'id="text">(.*?)</p>', page, re.DOTALL)[1]


def test_a_code_is_taken_and_undone_and_the_page_shows_what_each_code_leads_to(serve):
    server = serve()
    home = f"/{server.secret}/"
    status, start = request(server, "GET", home)
    offered = server.game.next_tokens()
    assert status == 200
    assert sorted(code for one in offered for code in one.actions) == list(range(64))
    assert abs(sum(one.probability for one in offered) - 1) < 1e-5
    for one in offered:
        assert f'value="{one.actions[0]}"' in start
    code = offered[1].actions[0]
    assert request(server, "POST", f"{home}act", action=str(code))[0] == 303
    assert server.game.env.episodes.actions(0) == [code]
    assert f'title="action {code}"' in request(server, "GET", home)[1]
    request(server, "POST", f"{home}act", back="1")
    assert server.game.env.episodes.actions(0) == []
    assert [one.continuation for one in server.game.next_tokens()] == [one.continuation for one in offered]


def test_what_would_follow_is_what_follows(serve):
    game = serve().game
    promised = next(one for one in game.next_tokens() if one.ends and one.reward is not None)
    start = len(game.env.episodes.tokens(0))
    game.take(promised.actions[0])
    while game.ended is None:
        game.take(int(game.policy().argmax()))
    tokens = game.env.episodes.tokens(0)[start:]
    assert game.env.episodes.backbone.tokenizer.decode(tokens) == promised.continuation
    assert game.reward == promised.reward


def test_codes_that_last_several_tokens_are_one_row_only_where_all_that_they_write_is_the_same():
    backbone = LatentBackbone(tiny.make_spans(3), tiny.make_tokenizer())
    env, _ = make_playable("CoLA-Arithmetic-v0", True, None, {"model": backbone, "max_tokens": 12}, "html")
    game = Game(env, seed=0)
    offered = game.next_tokens()
    texts = span_texts(env.episodes, 0, range(16))
    assert len(offered) == len(set(span_tokens(env.episodes, 0, range(16)))) > 2
    assert sorted(code for one in offered for code in one.actions) == list(range(16))
    for one in offered:
        assert {texts[code] for code in one.actions} == {one.text}
        assert one.probability == pytest.approx(float(game.policy()[list(one.actions)].sum()))
    env.close()


def test_typed_commands_reach_the_game_and_what_it_says_comes_back(serve):
    server = serve("CoLA-TextRooms-v0", codes=False)
    home = f"/{server.secret}/"
    assert 'name="text"' in request(server, "GET", home)[1]
    request(server, "POST", f"{home}act", text=" look")
    assert written(server).count("Exits:") == 2
    assert len(server.game.env.episodes.actions(0)) > 1
    request(server, "POST", f"{home}act", back="1")  # the whole line
    assert server.game.env.episodes.actions(0) == []


def test_actions_that_cannot_be_taken_are_a_message_and_lose_nothing(serve):
    server = serve()
    home = f"/{server.secret}/"
    for form in ({"action": "64"}, {"action": "x"}, {"text": "hello"}):
        assert request(server, "POST", f"{home}act", **form)[0] == 303
        assert 'id="message"' in request(server, "GET", home)[1]
    assert server.game.env.episodes.actions(0) == []
    request(server, "POST", f"{home}act", back="1")  # at the beginning: nothing, and the message goes
    assert 'id="message"' not in request(server, "GET", home)[1]


class Masked(FakeBackbone):
    """Has eight codes, of which two may be taken."""

    def action_mask(self) -> np.ndarray:
        return np.arange(8) < 2


def test_actions_that_are_not_allowed_are_a_message_and_none_is_offered(serve):
    server = serve("CoLA-Text-v0", task=Hostile, model=Masked())
    home = f"/{server.secret}/"
    offered = server.game.next_tokens()
    assert {code for one in offered for code in one.actions} == {0, 1}
    assert request(server, "POST", f"{home}act", action="5")[0] == 303
    assert "action 5 is not allowed" in request(server, "GET", home)[1]
    request(server, "POST", f"{home}act", action="1")
    request(server, "POST", f"{home}act", action="5")
    request(server, "POST", f"{home}act", back="1")  # what was taken, not what was refused
    assert server.game.env.episodes.actions(0) == []


def test_a_line_of_no_tokens_is_nothing_to_undo(serve, monkeypatch):
    game = serve("CoLA-TextRooms-v0", codes=False).game
    game.write(" look")
    monkeypatch.setattr("cola_agents.evaluation.play_page.typed_ids", lambda episodes, text: [])
    with pytest.raises(ValueError, match="nothing was written"):
        game.write("")
    game.back()
    assert game.env.episodes.actions(0) == []


def test_only_who_has_the_address_gets_an_answer(serve):
    server = serve()
    home = f"/{server.secret}/"
    assert server.address.startswith("http://127.0.0.1:")
    assert server.server_address[0] == "127.0.0.1"
    assert request(server, "GET", "/")[0] == 404
    assert request(server, "GET", f"/{'x' * len(server.secret)}/")[0] == 404
    assert request(server, "GET", home, host=f"evil.example:{server.server_port}")[0] == 404
    assert request(server, "POST", "/act", action="1")[0] == 404
    assert request(server, "GET", f"{home}other")[0] == 404
    assert request(server, "POST", f"{home}act", text="x" * 70_000)[0] == 413
    assert server.game.env.episodes.actions(0) == []


def test_text_of_a_task_stays_text(serve):
    server = serve("CoLA-Text-v0", codes=False, task=Hostile)
    page = request(server, "GET", f"/{server.secret}/")[1]
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page


@pytest.mark.skipif(chromium() is None, reason=f"needs a browser on the path, one of {', '.join(NAMES)}")
def test_a_browser_plays_steps_back_and_looks_without_an_error(serve, tmp_path):
    server, hostile = serve(), serve("CoLA-Text-v0", codes=False, task=Hostile)
    with browser(tmp_path / "profile") as tab:
        tab.visit(server.address)
        start = tab.text("#text")
        first = server.game.next_tokens()[0]
        tab.load(lambda: tab.click(f'button[value="{first.actions[0]}"]'))
        assert tab.text("#text") == start + first.text
        if folder := os.environ.get("COLA_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            tab.screenshot(Path(folder) / "play.png")
        tab.load(lambda: tab.click('a[href="look"]'))
        assert "CoLA-Thinking-v0" in tab.text("#title")
        tab.visit(server.address)
        tab.load(lambda: tab.click("#back"))
        assert tab.text("#text") == start
        tab.visit(hostile.address)
        assert tab.ask("window.broken") is None
        assert "<script>" in tab.text("#text")
        assert [one for one in tab.problems if "favicon" not in one] == []


def test_the_command_prints_and_opens_the_address(monkeypatch, capsys):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(PlayServer, "serve_forever", lambda self: opened.append(self.address))
    assert main(["play", "CoLA-Thinking-v0", "--codes", "--browser"]) == 0
    assert len(set(opened)) == 1
    assert opened[0] in capsys.readouterr().out
