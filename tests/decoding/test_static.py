"""Steps in fixed memory give what plain sessions give, and make the host wait once a step."""

from __future__ import annotations

import copy
import functools
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma2Config, Qwen2Config, Qwen3Config

from cola_agents.decoding import backbones, lean, session, static
from cola_agents.decoding.ahead import FOLLOWER, STEPS_AHEAD
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.kv import capacity
from cola_agents.decoding.static import positions_read
from cola_agents.model.sampling import sample
from cola_agents.rl import collecting
from cola_agents.rl.actors import make_actor
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.search import MCTS, SearchConfig
from cola_envs import Turn
from cola_envs.episodes import Episodes
from tests import tiny
from tests.decoding.test_shared_passes import ROWS, actions_of, make
from tests.rl.test_rollout import Counting, Talking, episodes_of, same_episode

STEPS = 40
PROMPTS = [[1, 2, 3], [4], [5, 6], [7] * 30, [8]]


@functools.cache
def model_of(kind: str) -> Any:
    if kind == "token":
        return tiny.make_base()
    if kind in ("state", "difference"):
        return tiny.make_cola(kind)
    fields = tiny.make_base().config.to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "initializer_range")
    config = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}[kind](
        **{key: fields[key] for key in keys},
        num_hidden_layers=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=tiny.CONTEXT,
    )
    torch.manual_seed(1)
    return tiny.make_cola("state", base=AutoModelForCausalLM.from_config(config).eval())


@functools.cache
def backbone_of(kind: str, fixed: bool) -> LatentBackbone | TokenBackbone:
    make = TokenBackbone if kind == "token" else LatentBackbone
    return make(model_of(kind), tiny.make_tokenizer(), static=fixed)


@pytest.fixture(params=["state", "token"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---------------------------------------------------------------- the same numbers


def written(backbone: Any, temperature: float, world: float) -> tuple[list, list, np.ndarray]:
    """Tokens, actions and observations of five rows, of which one rests now and then."""
    one = backbone.session(5)
    one.load(range(5), PROMPTS)
    rng, taken, seen = np.random.default_rng(1), [], []
    draw = partial(sample, temperature=temperature)
    for t in range(STEPS):
        rows = list(range(5)) if t % 5 else [0, 2, 3]
        u, world_u = rng.random((2, len(rows)))
        drawn = None if world or not backbone.static else one.act(rows, one.device_policy(), draw, u)
        if drawn is None:
            drawn = [draw(one.policy(rows), torch.from_numpy(u))[0].numpy()]
        decoded = one.decode(rows, drawn[0], world_u, world)
        one.extend(rows, [ids.tolist() for ids in decoded.tokens])
        taken.append(drawn[0].tolist())
        seen += [one.hidden(range(5)), one.features(range(5))]
    return one.tokens, taken, np.array(seen)


@pytest.mark.parametrize("temperatures", [(0.0, 0.0), (1.0, 0.0), (0.8, 0.7)])
@pytest.mark.parametrize("kind", ["state", "difference", "token", "qwen2", "qwen3"])
def test_steps_give_a_plain_sessions_tokens(kind: str, temperatures: tuple[float, float]) -> None:
    plain = written(backbone_of(kind, False), *temperatures)
    fixed = written(backbone_of(kind, True), *temperatures)
    assert fixed[:2] == plain[:2]
    np.testing.assert_allclose(fixed[2], plain[2], atol=1e-4)


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


@pytest.mark.parametrize("world_temperature", [0.0, 0.7])
@pytest.mark.parametrize("task", [Counting, Talking])
def test_collections_are_the_same(kind: str, task: Any, world_temperature: float) -> None:
    rollouts = []
    for fixed in (False, True):
        backbone = backbone_of(kind, fixed)
        episodes = episodes_of(backbone, task, num_rows=3, world_temperature=world_temperature)
        actor = make_actor(backbone)
        rollouts.append([collect(episodes, policy, seeds=range(8)) for policy in (actor, InitialPolicy())])
    for plain, fixed in zip(*rollouts, strict=True):
        for i in range(8):
            same_episode(plain, i, fixed, i)
        torch.testing.assert_close(plain.hidden, fixed.hidden, atol=1e-4, rtol=0)


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


@pytest.mark.parametrize("observation", ["hidden", "features"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_environments_are_the_same(kind: str, mode: str, observation: str) -> None:
    settings = {"observation": observation, "prior_coef": 0.1, "world_temperature": 0.5}
    plain, fixed = (make(backbone_of(kind, way), mode, **settings) for way in (False, True))
    np.testing.assert_allclose(plain.reset(seed=0)[0], fixed.reset(seed=0)[0], atol=1e-4)
    for actions in actions_of(plain):
        one, other = plain.step(actions), fixed.step(actions)
        for mine, theirs in zip(one[:4], other[:4], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)
        for row in np.flatnonzero(one[4].get("_final_obs", [])):
            np.testing.assert_allclose(one[4]["final_obs"][row], other[4]["final_obs"][row], atol=1e-4)
    for row in range(ROWS):
        assert plain.unwrapped.episodes.tokens(row) == fixed.unwrapped.episodes.tokens(row)


def test_searches_are_the_same() -> None:
    chosen = []
    for fixed in (False, True):
        search = MCTS(episodes_of(backbone_of("state", fixed), num_rows=2), SearchConfig(simulations=12))
        chosen.append(search.solve([3, 4]))
    for name in ("visits", "actions", "lines", "new_tokens"):
        np.testing.assert_array_equal(getattr(chosen[0], name), getattr(chosen[1], name))


# ---------------------------------------------------------------- what the host waits for


class Reads(TorchFunctionMode):
    """Counts copies to the host, and forbids all other ways to read a number of the device."""

    NUMBERS = ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")
    SHAPES = ("nonzero", "masked_select", "unique", "equal", "allclose", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0
        self.other: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        masks = name == "__getitem__" and isinstance(args[1], torch.Tensor) and args[1].dtype == torch.bool
        if name in self.NUMBERS or name in self.SHAPES or masks:
            self.other.append(name)
        return func(*args, **(kwargs or {}))

    def to_host(self, values: torch.Tensor) -> np.ndarray:
        self.copies += 1
        with torch._C.DisableTorchFunction():
            return values.detach().numpy().copy()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    counted = Reads()
    for module in (static, session, backbones, collecting):
        monkeypatch.setattr(module, "to_host", counted.to_host)
    with counted:
        yield counted


@pytest.mark.parametrize("drawing", [{}, {"temperature": 0.0}, {"top_k": 3, "top_p": 0.9}])
def test_a_collection_waits_once_for_several_steps(kind: str, drawing: dict, reads: Reads) -> None:
    backbone, counts = backbone_of(kind, True), []
    episodes = episodes_of(backbone, num_rows=3)

    def on_step(dones: np.ndarray, **seen: Any) -> None:
        counts.append((reads.copies, list(reads.other), bool(dones.any())))
        reads.copies, reads.other = 0, []

    for policy in (make_actor(backbone), InitialPolicy()):
        collect(episodes, policy, seeds=range(6), on_step=on_step, **drawing)
        steady = [(copies, other) for (*_, ended), (copies, other, _) in pairwise(counts) if not ended]
        assert len(steady) > 10
        assert all(copies <= 1 and not other for copies, other in steady), steady
        assert sum(copies for copies, _ in steady) < len(steady) / 3
        counts.clear()


@pytest.mark.parametrize("observation", ["hidden", "features"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_step_of_an_environment_waits_once(kind: str, mode: str, observation: str, reads: Reads) -> None:
    envs = make(backbone_of(kind, True), mode, observation=observation, max_tokens=9, world_temperature=0.3)
    envs.reset(seed=0)
    steady = []
    over = True  # the first step learns which observations are read
    for actions in actions_of(envs):
        reads.copies, reads.other = 0, []
        _, _, terminated, truncated, _ = envs.step(actions)
        ended = (terminated | truncated).any()
        if not over and not (ended and mode == "same_step"):
            steady.append((reads.copies, reads.other))
        over = ended
    assert len(steady) >= 5
    assert all(count == (1, []) for count in steady), steady


# ---------------------------------------------------------------- graphs


class Launches(TorchDispatchMode):
    """Counts the operations that the host starts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Recorded:
    """A graph for tests: like one of CUDA, a replay repeats what was captured, on the same tensors."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def replay(self) -> None:
        with torch.utils._python_dispatch._disable_current_modes():
            self.function()


@contextmanager
def recorded(one: Any) -> Iterator[static.Graphs]:
    """A session whose steps are captured and replayed without a GPU."""
    graphs = one._steps._graphs
    graphs._device = torch.device("cuda")
    graphs._capture = lambda function, changed: Recorded(function)
    yield graphs


def test_graphs_are_captured_once_and_replayed_with_new_numbers(kind: str) -> None:
    """Also over collections, with weights that were trained in between, and not with another policy's."""
    rollouts, captures = [], []
    for fixed in (False, True):
        backbone = backbone_of(kind, fixed)
        episodes = episodes_of(backbone, num_rows=4, max_tokens=40)
        actors = [make_actor(backbone), make_actor(backbone)]
        with recorded(episodes.session) if fixed else torch.no_grad() as graphs:
            for turn, actor in enumerate([actors[0], actors[0], actors[1]]):
                with torch.no_grad():
                    actor.head.weight.mul_(-1)
                rollouts.append(collect(episodes, actor, seeds=range(turn, turn + 8)))
                if fixed:
                    captures.append(graphs.captures)
                    assert graphs.captures == len(graphs._captured), "no graph was captured again"
    for plain, fixed in zip(rollouts[:3], rollouts[3:], strict=True):
        for i in range(8):
            same_episode(plain, i, fixed, i)
    assert captures[1] - captures[0] <= 1, "all or some of the rows, up to 32 and up to 64 positions"
    assert captures[2] > captures[1]
    assert graphs.launches > 10 * captures[1]


def test_a_step_starts_few_operations_beside_its_graph(kind: str) -> None:
    one = backbone_of(kind, True).session(5)
    one.load(range(5), PROMPTS)
    act, draw, u = one.device_policy(), partial(sample, temperature=1.0), np.full(5, 0.5)
    counts = []
    with recorded(one) as graphs:
        for _ in range(12):
            with Launches() as launches:
                actions, _ = one.act(range(5), act, draw, u)
                tokens = one.decode(range(5), actions).tokens
                one.extend(range(5), [ids.tolist() for ids in tokens])
            counts.append(launches.count)
    assert graphs.captures == 2, "up to 32 and up to 64 positions"
    assert graphs.launches == 12
    views = 2 * 4 + 8  # slices and shapes, which start nothing on a device
    assert max(counts[1:]) <= views + 2, counts


def test_a_graph_is_dropped_where_memory_or_weights_have_moved(tiny_tokenizer: Any) -> None:
    model = copy.deepcopy(model_of("state"))
    one, plain = (LatentBackbone(model, tiny_tokenizer, static=way).session(2) for way in (True, False))
    with recorded(one) as graphs:

        def run(steps: int) -> int:
            before = graphs.captures
            for each in (one, plain):
                each.load([0, 1], [[1, 2], [3]])
            for _ in range(steps):
                for each in (one, plain):
                    tokens = each.decode([0, 1], np.array([3, 4])).tokens
                    each.extend([0, 1], [ids.tolist() for ids in tokens])
            assert one.tokens == plain.tokens
            np.testing.assert_allclose(one.hidden([0, 1]), plain.hidden([0, 1]), atol=1e-4)
            return graphs.captures - before

        assert run(20) == 1
        assert run(20) == 1, "with observations, since the first were read"
        assert run(20) == 0
        assert run(40) == 1, "attention reads more than 32 positions"
        assert run(40) == 0
        assert run(90) == 1, "beyond 64 positions the buffers grow"
        assert run(90) == 2, "and the graphs of 32 and 64 positions were of the old ones"
        assert run(90) == 0
        with torch.no_grad():
            model.codebook.weight.mul_(-2)
            model.base.rotary_emb.inv_freq.mul_(0.5)
        for each in (one, plain):
            each.forget()
        assert run(20) == 0, "the tables of codes and of angles are made again in the same memory"
        model.base.layers[0].mlp.up_proj.weight.data = 2 * model.base.layers[0].mlp.up_proj.weight.data
        for each in (one, plain):
            each.forget()
        assert run(20) == 1


def test_a_search_captures_few_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were just restored lag behind: the followers that keep up change from step to step."""
    episodes = episodes_of(backbone_of("state", True), num_rows=8)
    search = MCTS(episodes, SearchConfig(simulations=16), num_trees=4)
    with recorded(episodes.session) as graphs:
        search.solve(range(4))
        assert graphs.launches > 60
        assert graphs.captures <= 4
        monkeypatch.setattr(static, "MOST_GRAPHS", 1)
        graphs.drop()
        search.solve(range(4))
        assert len(graphs._captured) == 1


def test_every_tensor_of_the_table_of_codes_is_told_and_a_graph_holds_what_it_reads() -> None:
    one = backbone_of("state", True).session(2)
    with recorded(one) as graphs:
        one.load([0, 1], [[1], [2]])
        one.decode([0, 1], np.array([3, 4]))
        told = {weight.data_ptr() for weight in one.weights()}
        assert one._table is not None
        for layer in one._table.layers:
            assert {layer.gate.data_ptr(), layer.up.data_ptr(), layer.down.data_ptr()} <= told
        gates = [weakref.ref(layer.gate) for layer in one._table.layers]
        one._table = None
        del layer
        assert all(gate() is not None for gate in gates), "memory that a graph reads went to others"
        graphs.drop()
        assert all(gate() is None for gate in gates)


def test_room_grows_by_no_more_than_a_half() -> None:
    rooms = [capacity(length, 4000) for length in range(1, 4001)]
    assert rooms[:64] == [64] * 64
    assert all(length <= room <= max(64, 1.5 * length) for length, room in enumerate(rooms, 1))
    assert len(set(rooms)) == 13
    assert capacity(65, 80) == 80


def test_attention_reads_at_most_a_quarter_more_than_there_is() -> None:
    read = [positions_read(length, 4000) for length in range(1, 4001)]
    assert read[:128] == [32] * 32 + [64] * 32 + [96] * 32 + [128] * 32
    assert all(length <= many <= 1.25 * length for length, many in enumerate(read[128:], 129))
    assert all(many <= capacity(length, 4000) for length, many in enumerate(read, 1))
    assert len(set(read[:2048])) == 20
    assert positions_read(65, 80) == 80


def test_a_step_reads_less_than_there_is_room_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where rows were longer before: what they held lies behind what is read, or is masked."""
    read, attend = [], lean._attend

    def reading(plan: Any, q: Any, keys: torch.Tensor, *others: Any) -> torch.Tensor:
        read.append((q.shape[1], keys.shape[1]))
        return attend(plan, q, keys, *others)

    monkeypatch.setattr(lean, "_attend", reading)
    one, plain = (backbone_of(kind, fixed).session(2) for fixed in (True, False))
    for length, expected in ((100, 128), (64, 96), (20, 32)):
        for each in (one, plain):
            each.load([0, 1], [[length % 7] * length, [3]])
            read.clear()
            each.extend([0, 1], [ids.tolist() for ids in each.decode([0, 1], np.array([3, 4])).tokens])
            assert each is plain or set(read) == {(1, expected)}
        assert one._states.data is not None
        assert one._states.data.shape[1] == 128
        assert one.tokens == plain.tokens
        np.testing.assert_allclose(one.hidden([0, 1]), plain.hidden([0, 1]), atol=1e-4)


def test_a_session_gives_its_memory_back_without_a_collection() -> None:
    one = backbone_of("state", True).session(2)
    one.load([0, 1], [[1], [2]])
    one.features([0, 1])
    one.decode([0, 1], np.array([1, 2]))
    held = weakref.ref(one)
    del one
    assert held() is None


def test_another_family_steps_as_it_did(tiny_tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=tiny.VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = []
    for way in (False, True):
        backbone = TokenBackbone(model, tiny_tokenizer, static=way)
        tokens.append(written(backbone, 0.0, 0.0)[0])
    assert tokens[0] == tokens[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperatures", [(0.0, 0.0), (1.0, 0.7)])
def test_replayed_graphs_give_the_direct_steps_tokens(temperatures: tuple[float, float]) -> None:
    model, tokenizer = tiny.make_cola("state").to("cuda"), tiny.make_tokenizer()
    direct, graphs = (LatentBackbone(model, tokenizer, static=way) for way in (False, True))
    assert written(graphs, *temperatures)[:2] == written(direct, *temperatures)[:2]
