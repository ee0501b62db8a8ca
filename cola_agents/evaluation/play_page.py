"""``cola play --browser``: a page on this machine where a person types, picks actions and steps back.

The page is made by the server and has no script: each button is a form. Shapes: A actions.
"""

from __future__ import annotations

import html
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import numpy as np
from gymnasium.error import InvalidAction

from cola_agents.evaluation.play import probabilities, typed_ids
from cola_agents.rl.collecting import AnyPolicy, attach
from cola_envs.env import CoLAEnv
from cola_envs.page.pieces import pieces, span_text, span_tokens, token_text
from cola_envs.page.write import own_file, source_digest
from cola_envs.shown import shown
from cola_envs.state import State

#: The likeliest actions that the page offers: all codes of the usual codebook.
OFFERED = 64
#: Next tokens, the likeliest, whose continuation is played, and for how many tokens.
CONTINUED, AHEAD = 12, 24
#: The most bytes of a form.
LARGEST_FORM = 1 << 16
_STYLE = """
td form { display: inline; } table.next { border-collapse: collapse; }
table.next td, table.next th { text-align: left; padding: .1rem .7rem .1rem 0; vertical-align: top; }
.text, table.next .mono { font-family: var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.given { color: var(--quiet); }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><span class="quiet" id="state">{state}</span></header>
<p class="text" id="text">{text}</p>
{message}
<form method="post" action="act" class="bar">{write}
<button name="back" value="1" id="back">Step back</button>
<button name="next" value="1" id="next">Next episode</button>
<a href="look">what each action would have written</a></form>
<table class="next">
<thead><tr><th>next token</th><th>probability</th><th>what would follow</th><th>reward</th></tr></thead>
<tbody>{rows}</tbody>
</table>
</body>
</html>
"""
_ROW = """<tr>
<td><form method="post" action="act"><button name="action" value="{first}" title="actions {actions}" \
class="mono">{token}</button></form></td>
<td>{probability}</td>
<td class="mono">{continuation}</td>
<td>{reward}</td>
</tr>
"""


@dataclass(frozen=True)
class Next:
    """A token that may come next.

    Attributes:
        text: of the token.
        actions: those that lead to it, the likeliest first.
        probability: of these actions together, under the policy.
        continuation: this token and the text that follows if the policy's likeliest actions are taken from
            there; None where it was not played.
        reward: what the task paid for the continuation; None likewise.
        ends: whether the continuation reaches the end of the episode.
    """

    text: str
    actions: tuple[int, ...]
    probability: float
    continuation: str | None = None
    reward: float | None = None
    ends: bool = False


class Game:
    """One episode that a person plays: forward by text or by an action, and back by snapshots.

    Args:
        env: made with ``render_mode="html"``.
        policy: gives the probabilities and plays the continuations; None for the model's own.
        seed: of the first episode.
    """

    def __init__(self, env: CoLAEnv, policy: AnyPolicy | None = None, *, seed: int = 0) -> None:
        self.env = env
        self._logits = attach(policy, env.episodes)
        self.message = ""
        self.restart(seed)

    def restart(self, seed: int | None = None) -> None:
        """Begin an episode: of ``seed``, or the next one."""
        self.env.reset(seed=seed)
        self._before: list[tuple[State, float]] = []
        self.reward = 0.0
        self.ended: str | None = None

    def take(self, *actions: int) -> None:
        """Take actions, up to the end of the episode; :meth:`back` undoes them together.

        Raises:
            ValueError: for none, for one that there is not or that is not allowed, or after the end; then
                none is taken.
        """
        if self.ended:
            raise ValueError("the episode is over: step back, or begin the next one")
        if not actions:
            raise ValueError("nothing was written")
        try:
            self.env.episodes.check_actions(actions, len(actions))
        except InvalidAction as error:
            raise ValueError(str(error)) from error
        self._before.append((self.env.snapshot(), self.reward))
        for action in actions:
            _, reward, terminated, truncated, _ = self.env.step(action)
            self.reward += reward
            if terminated or truncated:
                self.ended = "terminated" if terminated else "truncated"
                break

    def write(self, text: str) -> None:
        """Write a line of text, token by token; for environments over tokens.

        Raises:
            ValueError: over codes, which do not lead to every token; after the end.
        """
        if self.env.episodes.backbone.level != "token":
            raise ValueError("codes do not lead to every word: pick a next token, or play without --codes")
        self.take(*typed_ids(self.env.episodes, text))

    def back(self) -> None:
        """Undo what was taken or written last; nothing at the beginning."""
        if self._before:
            state, self.reward = self._before.pop()
            self.env.restore(state)
            self.ended = None

    def next_tokens(self) -> list[Next]:
        """The tokens that the likeliest actions lead to, by their probability, with what would follow.

        Actions are one row where all that they write is the same.
        """
        if self.ended:
            return []
        episodes, prior = self.env.episodes, self.policy()
        ranks = np.argsort(-prior, kind="stable").tolist()
        order = [action for action in ranks if episodes.action_mask[action]][:OFFERED]
        groups: dict[tuple[int, ...], list[int]] = {}
        for action, tokens in zip(order, self._written(order), strict=True):
            groups.setdefault(tokens, []).append(action)
        ranked = sorted(groups.items(), key=lambda item: -prior[item[1]].sum())
        state, found = self.env.snapshot(), []
        for place, (tokens, actions) in enumerate(ranked):
            known = Next(self._text(tokens) or "∅", tuple(actions), float(prior[actions].sum()))
            if place < CONTINUED:
                known = self._continued(known)
                episodes.restore([0], [state])
            found.append(known)
        return found

    def _written(self, actions: list[int]) -> list[tuple[int, ...]]:
        """The tokens that each action leads to: one, or all of a code that lasts several."""
        episodes = self.env.episodes
        if getattr(episodes.session, "draws", 1) > 1:
            return span_tokens(episodes, 0, actions)
        return [(token,) for token in episodes.session.outcomes([0], actions)[0][0, :, 0].tolist()]

    def _text(self, tokens: tuple[int, ...]) -> str:
        episodes = self.env.episodes
        if len(tokens) > 1:
            return span_text(episodes, tokens)
        return token_text(episodes.backbone.tokenizer, tokens[0])

    def _continued(self, known: Next) -> Next:
        episodes = self.env.episodes
        action, start, reward, ends = known.actions[0], len(episodes.tokens(0)), 0.0, False
        for _ in range(AHEAD):
            _, rewards, terminated, truncated, _ = episodes.step([0], [action])
            reward += float(rewards[0])
            ends = bool(terminated[0] or truncated[0])
            if ends:
                break
            action = int(self.policy().argmax())
        text = episodes.backbone.tokenizer.decode(episodes.tokens(0)[start:])
        return Next(known.text, known.actions, known.probability, text, reward, ends)

    def policy(self) -> np.ndarray:
        """The policy's probabilities of the actions, [A]."""
        return probabilities(self._logits)


def page_of(game: Game, title: str) -> tuple[str, str]:
    """The page of a game, as HTML, and the content security policy that it is served with."""
    episodes = game.env.episodes
    used = sorted(set(episodes.actions(0)))
    colours = [f".c{one} {{ background: hsl({one * 222.5 % 360:.0f} 70% 50% / .3); }}" for one in used]
    style = own_file("look.css") + _STYLE + "\n".join(colours)
    actions = episodes.actions(0)
    text = [f'<span class="given">{_escaped(episodes.prompt(0))}</span>']
    for piece in pieces(episodes, 0):
        if piece.steps:
            code = actions[piece.steps[0]]
            text.append(f'<span class="c{code}" title="action {code}">{_escaped(piece.text or "∅")}</span>')
        else:
            text.append(f'<span class="given">{_escaped(piece.text)}</span>')
    state = f"{game.ended}, reward {game.reward:g}" if game.ended else f"reward so far {game.reward:g}"
    write = (
        '<input name="text" autofocus size="40" aria-label="text to write"> <button>Write</button>'
        if episodes.backbone.level == "token"
        else ""
    )
    page = _PAGE.format(
        title=_escaped(title),
        style=style,
        state=state,
        text="".join(text),
        message=f'<p class="warning" id="message">{_escaped(game.message)}</p>' if game.message else "",
        write=write,
        rows="".join(map(_row, game.next_tokens())),
    )
    policy = f"default-src 'none'; style-src '{source_digest(style)}'; form-action 'self'; base-uri 'none'"
    return page, policy


def _row(one: Next) -> str:
    ended = " ∎" if one.ends else "…"
    return _ROW.format(
        first=one.actions[0],
        actions=" ".join(map(str, one.actions)),
        token=_escaped(one.text),
        probability=f"{one.probability:.3f}",
        continuation="" if one.continuation is None else _escaped(one.continuation) + ended,
        reward="" if one.reward is None else f"{one.reward:g}",
    )


def _escaped(text: str) -> str:
    return html.escape(shown(text))


class PlayServer(ThreadingHTTPServer):
    """Serves a game on a free port of the loopback address, under a path that nobody can guess.

    Requests without the path, or with another host's name (a web site whose name was made to lead here), are
    refused.

    Attributes:
        address: what to open.
    """

    daemon_threads = True

    def __init__(self, game: Game, title: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.game, self.title = game, title
        self.secret = secrets.token_urlsafe(24)
        self.host = f"127.0.0.1:{self.server_port}"
        self.address = f"http://{self.host}/{self.secret}/"
        self.one_at_a_time = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: PlayServer

    def do_GET(self) -> None:
        self._answer({"": self._page, "look": self._look})

    def do_POST(self) -> None:
        self._answer({"act": self._act})

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the address is a secret, and the terminal the player's."""

    def _answer(self, places: dict[str, Callable[[], None]]) -> None:
        _, _, path = self.path.partition("/")
        given, _, place = path.partition("/")
        known = secrets.compare_digest(given.encode(), self.server.secret.encode())
        if self.headers.get("Host") != self.server.host or not known or place not in places:
            self.send_error(404)
            return
        with self.server.one_at_a_time:
            places[place]()

    def _page(self) -> None:
        text, policy = page_of(self.server.game, self.server.title)
        self._send(text, policy)

    def _look(self) -> None:
        page = self.server.game.env.render()
        assert isinstance(page, str)
        self._send(page)

    def _act(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_FORM:
            self.send_error(413)
            return
        body = self.rfile.read(int(length)).decode()
        form = {key: values[0] for key, values in parse_qs(body, keep_blank_values=True).items()}
        game = self.server.game
        game.message = ""
        try:
            if "action" in form:
                game.take(int(form["action"]))
            elif "back" in form:
                game.back()
            elif "next" in form:
                game.restart()
            elif "text" in form:
                game.write(form["text"])
        except ValueError as error:
            game.message = str(error)
        self.send_response(303)
        self.send_header("Location", f"/{self.server.secret}/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, text: str, policy: str | None = None) -> None:
        body = text.encode()
        self.send_response(200)
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        for name, value in {**headers, **({"Content-Security-Policy": policy} if policy else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
