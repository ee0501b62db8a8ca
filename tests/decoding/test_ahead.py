"""Tokens that are drawn before the rows hold them give the same episodes, and leave nothing where dropped."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from cola_agents.decoding.ahead import FOLLOWER, STEPS_AHEAD
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.sampling import sample
from cola_agents.rl.actors import make_actor
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_envs import Turn
from cola_envs.episodes import Episodes
from tests import tiny
from tests.decoding.fixed_memory import PROMPTS, backbone_of, model_of
from tests.rl.test_rollout import Counting, Talking, episodes_of, same_episode


@pytest.mark.parametrize("several", [3, STEPS_AHEAD])
def test_several_steps_at_once_are_those_one_by_one(kind: str, several: int) -> None:
    one, other = (backbone_of(kind, True).session(5) for _ in range(2))
    draw = partial(sample, temperature=1.0)
    u = np.random.default_rng(2).random((5, 2 * several))
    for each in (one, other):
        each.load(range(5), PROMPTS)
    for t in range(2 * several):
        if t % several == 0:
            first = other.act(range(5), other.device_policy(), draw, u[:, t : t + several])
        actions, log_probs = one.act(range(5), one.device_policy(), draw, u[:, t])
        drawn = other.ahead.drawn(range(5))
        assert drawn[0].tolist() == actions.tolist()
        assert t % several or first[0].tolist() == actions.tolist()
        np.testing.assert_allclose(drawn[1], log_probs, atol=1e-5)
        for each in (one, other):
            tokens = each.decode(range(5), actions).tokens
            each.extend(range(5), [ids.tolist() for ids in tokens])
    assert one.tokens == other.tokens
    assert other.ahead.drawn(range(5)) is None
    assert other.tokens_forwarded == one.tokens_forwarded
    np.testing.assert_allclose(other.hidden(range(5)), one.hidden(range(5)), atol=1e-5)
    np.testing.assert_allclose(other.features(range(5)), one.features(range(5)), atol=1e-5)


def test_rows_may_leave_what_was_drawn_ahead(kind: str) -> None:
    """By another action, by text behind the token, by another text; or by reading a state on the way."""
    one, plain = (backbone_of(kind, fixed).session(5) for fixed in (True, False))
    for each in (one, plain):
        each.load(range(5), PROMPTS)
    one.act(range(5), one.device_policy(), partial(sample, temperature=1.0), np.full((5, 6), 0.4))

    def follow(rows: list[int]) -> None:
        actions, _ = one.ahead.drawn(rows)
        for each in (one, plain):
            each.extend(rows, [ids.tolist() for ids in each.decode(rows, actions).tokens])

    follow([0, 1, 2, 3, 4])
    follow([1, 2, 3, 4])
    assert one.ahead.rows_drawn(range(5)) == [0, 1, 2, 3, 4]
    for each in (one, plain):
        tokens = each.decode([1], np.array([3])).tokens[0].tolist()  # not what was drawn
        each.extend([1], [tokens])
    behind = one.decode([2], one.ahead.drawn([2])[0]).tokens[0].tolist()
    for each in (one, plain):
        each.extend([2], [[*behind, 7, 9]])
        each.load([3], [[*PROMPTS[3], 4]])
    assert one.ahead.rows_drawn(range(5)) == [0, 4]
    follow([4])
    np.testing.assert_allclose(one.features(range(5)), plain.features(range(5)), atol=1e-4)
    assert one.tokens == plain.tokens
    np.testing.assert_allclose(one.hidden(range(5)), plain.hidden(range(5)), atol=1e-4)


def test_a_row_may_append_several_tokens_that_were_drawn_ahead(kind: str) -> None:
    """All that follow it, some of them, some and then another token, or another token from the start."""
    one, plain = (backbone_of(kind, fixed).session(5) for fixed in (True, False))
    for each in (one, plain):
        each.load(range(5), PROMPTS)
    one.act(range(5), one.device_policy(), partial(sample, temperature=1.0), np.full((5, 6), 0.4))
    one.extend([4], [one.decode([4], one.ahead.drawn([4])[0]).tokens[0].tolist()])
    drawn = one.ahead.all(range(5))[0].tokens.T.tolist()
    other = [(drawn[row][0] + 1) % 9 for row in range(5)]
    chunks = [drawn[0][:6], drawn[1][:3], [*drawn[2][:2], other[2], drawn[2][3]], [other[3]], drawn[4][:2]]
    forwarded = one.tokens_forwarded
    one.extend(range(5), chunks)
    assert one.tokens_forwarded - forwarded == 2 + 1, "only what is not as it was drawn is computed"
    assert one.ahead.rows_drawn(range(5)) == [1, 4]
    plain.extend(range(5), [*chunks[:4], [one.tokens[4][len(PROMPTS[4])], *chunks[4]]])
    assert one.tokens == plain.tokens
    follow = one.ahead.drawn([1, 4])[0]
    for each in (one, plain):
        each.extend([1, 4], [ids.tolist() for ids in each.decode([1, 4], follow).tokens])
    np.testing.assert_allclose(one.hidden(range(5)), plain.hidden(range(5)), atol=1e-4)
    np.testing.assert_allclose(one.features(range(5)), plain.features(range(5)), atol=1e-4)


@pytest.mark.parametrize("way", ["extend", "forget"])
def test_numbers_behind_an_end_that_are_not_finite_do_not_stay(way: str) -> None:
    """A row draws a token with NaN after its episode has ended: it is dropped, with its keys and values."""
    model = copy.deepcopy(model_of("token"))
    with torch.no_grad():
        model.model.embed_tokens.weight[33] = math.nan
        model.lm_head = copy.deepcopy(model.lm_head)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.nan_to_num())
    backbone = TokenBackbone(model, tiny.make_tokenizer(), static=True)
    one = backbone.session(1)
    one.load([0], [[1, 2]])
    width = one.num_actions

    def forced(logits: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (u * width).long(), u

    one.act([0], one.device_policy(), forced, (np.array([[5, 6, 3, 3, 33, 7]]) + 0.5) / width)
    for _ in range(2):
        one.extend([0], [one.decode([0], one.ahead.drawn([0])[0]).tokens[0].tolist()])
    assert one.tokens == [[1, 2, 5, 6]]
    if way == "forget":
        one.forget()
        one.load([0], [[1, 2, 5, 6]])
    one.extend([0], [[8]])
    one.extend([0], [one.decode([0], np.array([9])).tokens[0].tolist()])  # reads behind its end, masked
    fresh = backbone.session(1)
    fresh.load([0], [[1, 2, 5, 6, 8, 9]])
    np.testing.assert_allclose(one.hidden([0]), fresh.hidden([0]), atol=1e-5)
    one.act([0], one.device_policy(), forced, (np.array([[2, 33]]) + 0.5) / width)
    with pytest.raises(FloatingPointError, match="row 0 is not finite at position 7, token 33"):
        one.extend([0], [[2, 33]])
    with pytest.raises(ValueError, match=f"1 to {STEPS_AHEAD} actions"):
        one.act([0], one.device_policy(), forced, np.zeros((1, STEPS_AHEAD + 1)))


@pytest.mark.parametrize("task", [Counting, Talking])
def test_steps_that_end_nothing_are_taken_several_at_a_time(
    kind: str, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``on_step`` is told of all of them, whether Episodes takes them one by one or not."""
    single, told = [], []
    step = Episodes.step

    def counted(self: Episodes, rows: list[int], *others: Any, **more: Any) -> Any:
        single.append(len(rows))
        return step(self, rows, *others, **more)

    monkeypatch.setattr(Episodes, "step", counted)
    for fixed in (False, True):
        episodes = episodes_of(backbone_of(kind, fixed), task, num_rows=3, max_tokens=40)
        for _ in range(2):  # the first learns which tokens end nothing
            single.clear()
            seen: list[dict[str, Any]] = []
            rollout = collect(
                episodes, InitialPolicy(), seeds=range(8), on_step=lambda seen=seen, **own: seen.append(own)
            )
        for own in seen:
            assert len(own["actions"]) == len(own["rewards"]) == len(own["dones"]) == len(own["infos"])
        flat = [
            (int(action), info["token"], float(reward), bool(done))
            for own in seen
            for action, info, reward, done in zip(
                own["actions"], own["infos"], own["rewards"], own["dones"], strict=True
            )
        ]
        told.append(sorted(flat))
        assert len(flat) == rollout.num_actions
        assert all(
            info["action"] == action
            for own in seen
            for action, info in zip(own["actions"], own["infos"], strict=True)
        )
        assert sum(single) == len(flat) if not fixed else sum(single) < len(flat) / 2
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("codebook", "token logits of row . are not finite under action .*step . of row"),
        ("base.embed_tokens", "hidden state of row . is not finite at position .*step . of row"),
        ("policy_head", "policy's logits of row . are not finite at step 0"),
    ],
)
def test_a_collection_stops_at_a_number_that_is_not_finite(spoilt: str, message: str) -> None:
    """Also where the host looks after several steps."""
    model = copy.deepcopy(model_of("state"))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    episodes = episodes_of(LatentBackbone(model, tiny.make_tokenizer(), static=True), num_rows=3)
    rollout = collect(episodes, InitialPolicy(), seeds=range(3))
    at = int(rollout.mask[0].nonzero()[3])  # where the fourth action is taken
    entry = {
        "codebook": rollout.actions[0, at],
        "base.embed_tokens": rollout.ids[0, at + 1],
        "policy_head": 0,
    }
    with torch.no_grad():
        model.get_submodule(spoilt).weight[entry[spoilt]] = math.nan
    with pytest.raises(FloatingPointError, match=message):
        collect(episodes, InitialPolicy(), seeds=range(3))


def test_a_state_of_the_policy_that_is_not_finite_is_computed_again() -> None:
    one, plain = (backbone_of("state", fixed).session(1) for fixed in (True, False))
    one.load([0], [[1, 2]])
    one.act([0], one.device_policy(), partial(sample, temperature=1.0), np.full((1, 6), 0.4))
    one.ahead._spoilt[2, 0] = FOLLOWER
    chunk = one.ahead.all([0])[0].tokens[:5, 0].tolist()
    forwarded = one.tokens_forwarded
    one.extend([0], [chunk])
    assert one.tokens_forwarded == forwarded + 3
    plain.load([0], [[1, 2, *chunk]])
    np.testing.assert_allclose(one.features([0]), plain.features([0]), atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"world_temperature": 0.5}])
def test_what_a_caller_decodes_between_the_steps_is_not_taken_for_drawn(settings: dict[str, float]) -> None:
    """``on_step`` may look at what a code would write; only what the collection drew is an action of it."""
    rollouts = []
    for fixed in (False, True):
        episodes = episodes_of(backbone_of("state", fixed), num_rows=3, **settings)

        def look(episodes: Episodes = episodes, **_: Any) -> None:
            rows = [row for row in range(3) if episodes.running(row)]
            if rows:
                episodes.session.decode(rows, np.full(len(rows), 3))

        for _ in range(2):  # the first learns which tokens end nothing
            rollout = collect(episodes, lambda one, rows: one.policy(rows), seeds=range(5), on_step=look)
        rollouts.append(rollout)
    for i in range(5):
        same_episode(*(part for rollout in rollouts for part in (rollout, i)))


def test_after_a_refused_text_the_policy_is_not_read_where_it_was_drawn_ahead() -> None:
    """What follows the accepted tokens is dropped; the policy's last state was of the last of it."""
    model = copy.deepcopy(model_of("state"))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.base.embed_tokens.weight[33] = math.nan
    one, plain = (
        LatentBackbone(model, tiny.make_tokenizer(), static=way).session(1) for way in (True, False)
    )
    one.load([0], [[1, 2]])
    one.act([0], one.device_policy(), partial(sample, temperature=1.0), np.full((1, 6), 0.4))
    drawn = one.ahead.all([0])[0].tokens[:2, 0].tolist()
    with pytest.raises(FloatingPointError, match=r"position 4, token 33"):
        one.extend([0], [[*drawn, 33]])
    assert one.tokens == [[1, 2, *drawn]]
    plain.load([0], one.tokens)
    np.testing.assert_allclose(one.features([0]), plain.features([0]), atol=1e-4)


def test_a_policy_that_is_attached_again_reads_no_tokens_that_were_drawn_before() -> None:
    """Its weights may have changed; the base's may not."""
    sessions, states = [backbone_of("state", fixed).session(2) for fixed in (True, False)], []
    actor = make_actor(backbone_of("state", True))
    for one in sessions:
        one.load([0, 1], [[1, 2], [3, 4]])
        actor.attach(one)([0, 1])
    one = sessions[0]
    one.act([0, 1], actor.attach(one), partial(sample, temperature=1.0), np.full((2, 6), 0.4))
    chunks = one.ahead.all([0, 1])[0].tokens[:3].T.tolist()
    with torch.no_grad():
        actor.trunk.layers[0].self_attn.v_proj.weight.mul_(2)
    for one in sessions:
        act = actor.attach(one)
        one.extend([0, 1], chunks)
        with torch.no_grad():
            states.append(act([0, 1]))
    torch.testing.assert_close(*states, atol=1e-4, rtol=0)


def test_an_observation_is_not_taken_for_another_that_was_read_meanwhile() -> None:
    """Rows are decoded while their states are observed, and appended when the policy's are."""
    seen = []
    for fixed in (True, False):
        one = backbone_of("state", fixed).session(3)
        one.load(range(3), PROMPTS[:3])
        one.features(range(3))
        one.hidden(range(3))
        tokens = one.decode([0, 1], np.array([3, 4])).tokens
        one.features([2])
        one.extend([0, 1], [ids.tolist() for ids in tokens])
        seen.append(one.features([0, 1]))
        assert one.hidden([]).shape == one.features([]).shape == (0, one.base.config.hidden_size)
    np.testing.assert_allclose(*seen, atol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_greedy_collection_stops_at_logits_that_are_not_finite(
    kind: str, fixed: bool, trained: bool
) -> None:
    """Greedy actions have log-probability 0, so that it must be asked of the logits."""
    model = copy.deepcopy(model_of(kind))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    make_backbone = TokenBackbone if kind == "token" else LatentBackbone
    backbone = make_backbone(model, tiny.make_tokenizer(), static=fixed)
    actor = make_actor(backbone)
    head = actor.head if trained else model.lm_head if kind == "token" else model.policy_head
    with torch.no_grad():
        head.weight[5, 0] = math.nan
    policy = actor if trained else InitialPolicy()
    with pytest.raises(FloatingPointError, match=r"policy's logits of row 0 are not finite .*step 0"):
        collect(episodes_of(backbone, num_rows=3), policy, seeds=range(4), temperature=0.0)


class Foreseen(Talking):
    """Two segments; the text between them is the token that the policy would have written next."""

    texts: ClassVar[dict[int, str]] = {}

    def step(self, text: str) -> Turn:
        turn = super().step(text)
        return replace(turn, text=self.texts.get(self.number, ""), done=self.turns == 2)


def test_a_text_that_the_policy_would_have_written_takes_no_draw_of_an_action(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The action behind it was drawn ahead with the uniform of a later one."""
    plain, fixed = (
        episodes_of(backbone_of(kind, way), Foreseen, num_rows=3, max_tokens=40) for way in (False, True)
    )
    texts: dict[int, str] = {}
    tokenizer = plain.backbone.tokenizer
    rollout = collect(plain, InitialPolicy(), seeds=range(20))
    for ids, mask, info in zip(rollout.ids.tolist(), rollout.mask, rollout.infos, strict=True):
        start = end = int(mask.nonzero()[0]) + 1
        while not any(stop in tokenizer.decode(ids[start : end + 1]) for stop in Foreseen.stop):
            end += 1
        text = tokenizer.decode(ids[end + 1 : end + 2])
        if tokenizer.encode(text) == ids[end + 1 : end + 2]:
            texts[info["number"]] = text
    assert len(texts) > 5
    monkeypatch.setattr(Foreseen, "texts", texts)
    rollouts = [collect(episodes, InitialPolicy(), seeds=range(20)) for episodes in (plain, fixed)]
    for i in range(20):
        same_episode(*(part for rollout in rollouts for part in (rollout, i)))


def test_a_policy_that_cannot_run_in_fixed_memory_acts_on_every_token() -> None:
    """Adapters, a hook: its states are computed between the steps."""
    rollouts = []
    for fixed in (False, True):
        backbone = backbone_of("state", fixed)
        actor = make_actor(backbone)
        actor.trunk.layers[0].register_forward_hook(lambda *_: None)
        rollouts.append(collect(episodes_of(backbone, num_rows=3, max_tokens=20), actor, seeds=range(6)))
    for i in range(6):
        same_episode(*(part for rollout in rollouts for part in (rollout, i)))


@pytest.mark.parametrize("settings", [{}, {"prior_coef": 0.1}, {"world_temperature": 0.5}])
def test_few_tokens_are_computed_that_no_episode_has(settings: dict[str, float]) -> None:
    forwarded = []
    for fixed in (False, True):
        episodes = episodes_of(backbone_of("state", fixed), num_rows=4, max_tokens=40, **settings)
        collect(episodes, make_actor(backbone_of("state", fixed)), seeds=range(4))
        forwarded.append(episodes.session.tokens_forwarded)
    assert forwarded[1] < forwarded[0] + 4 * STEPS_AHEAD
