"""Whole episodes: what a learner is told is what happened."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

from cola_agents.decoding import session as session_module
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.finite import NotFiniteError
from cola_agents.decoding.session import Rows
from cola_agents.model.sampling import distribution
from cola_agents.rl.actors import LatentActor, TokenActor, make_actor
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.rows import make_rows
from cola_envs import EachRow, Episodes, Turn
from tests import tiny


class Counting:
    """One segment; the prompt's length and the reward depend on the problem."""

    stop: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}

    def reset(self, rng: np.random.Generator) -> str:
        self.number = int(rng.integers(1000))
        self.info = {"number": self.number}
        return "Q: " + "8+" * int(rng.integers(1, 9)) + str(self.number)

    def step(self, text: str) -> Turn:
        return Turn(reward=self.number / 1000 + len(text))


class Talking(Counting):
    """Three segments of text that ends in a vowel, answered with text of its own."""

    stop = ("a", "e", "i", "o", "u", "1", "2", "3", "t", "s")

    def reset(self, rng: np.random.Generator) -> str:
        self.turns = 0
        return super().reset(rng)

    def step(self, text: str) -> Turn:
        self.turns += 1
        last = self.turns == 3
        return Turn(text="" if last else f" You said {len(text)}.\n", reward=float(self.turns), done=last)


def episodes_of(
    backbone, task=Counting, num_rows: int = 4, max_tokens: int = 12, **settings: Any
) -> Episodes:
    return Episodes(backbone, EachRow(task, num_rows), num_rows=num_rows, max_tokens=max_tokens, **settings)


@pytest.fixture(params=["latent", "token", "span"])
def backbone(request) -> LatentBackbone | TokenBackbone:
    return request.getfixturevalue(f"{request.param}_backbone")


@pytest.fixture(params=["latent", "token"])
def one_token(request) -> LatentBackbone | TokenBackbone:
    """A backbone whose actions write one token each."""
    return request.getfixturevalue(f"{request.param}_backbone")


def actor_of(backbone):
    """An actor that has moved on from the policy it started as, at latent level."""
    actor = make_actor(backbone)
    with torch.no_grad():
        actor.head.weight += 0.05 * torch.randn(
            actor.head.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    return actor


@torch.no_grad()
def logits_of(actor, rollout: Rollout) -> torch.Tensor:
    """Action logits [N, T, A] as a learner computes them."""
    return actor.logits(actor.features(rollout))


@pytest.mark.parametrize("task", [Counting, Talking])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"top_k": 5}, {"temperature": 0.0}])
def test_log_probs_recomputed_from_the_rollout_are_those_of_the_actions(backbone, task, settings):
    """The road of the learner (whole rows, no cache) against that of the player (one token at a time)."""
    actor = actor_of(backbone)
    rollout = collect(episodes_of(backbone, task, max_tokens=30), actor, seeds=range(9), **settings)
    assert rollout.mask.sum() > 9
    logits = logits_of(actor, rollout)[rollout.mask]
    log_policy = distribution(logits, **settings)
    recomputed = log_policy.gather(-1, rollout.actions[rollout.mask][:, None]).squeeze(-1)
    torch.testing.assert_close(recomputed, rollout.log_probs[rollout.mask], atol=1e-4, rtol=0)


def test_hidden_states_are_those_of_one_full_forward(backbone):
    rollout = collect(episodes_of(backbone, Talking, max_tokens=30), actor_of(backbone), seeds=range(6))
    for n in range(len(rollout)):
        length = int(rollout.lengths[n])
        with torch.no_grad():
            h = backbone.base(rollout.ids[n : n + 1, :length]).last_hidden_state[0]
        torch.testing.assert_close(rollout.hidden[n, :length], h, atol=1e-4, rtol=0)
        assert not rollout.hidden[n, length:].any()
        assert not rollout.ids[n, length:].any()


@torch.no_grad()
def test_actions_stand_where_they_were_taken_and_explain_the_next_token(one_token):
    """The token behind an action is what the action gives there; prompt and task text carry none."""
    rollout = collect(episodes_of(one_token, Talking, max_tokens=30), actor_of(one_token), seeds=range(8))
    session = one_token.session(1)
    for n in range(len(rollout)):
        length = int(rollout.lengths[n])
        ids = rollout.ids[n, :length].tolist()
        said = []
        for t in rollout.mask[n].nonzero().flatten().tolist():
            assert t + 1 < length
            session.load([0], [ids[: t + 1]])
            decoded = session.decode([0], np.array([int(rollout.actions[n, t])]))
            assert int(decoded.tokens[0][0]) == ids[t + 1]
            said.append(ids[t + 1])
        assert rollout.infos[n]["text"] == one_token.tokenizer.decode(said)
        assert rollout.infos[n]["num_tokens"] == len(said)
    assert not rollout.actions[~rollout.mask].any()
    assert not rollout.log_probs[~rollout.mask].any()
    assert not rollout.rewards[~rollout.mask].any()


def test_task_text_carries_no_action(one_token):
    rollout = collect(episodes_of(one_token, Talking, max_tokens=60), actor_of(one_token), seeds=range(8))
    spoken = 0
    for n in range(len(rollout)):
        length = int(rollout.lengths[n])
        # Token t + 1 is the agent's where an action stands at t; all else is prompt or task text.
        own = torch.cat([torch.tensor([False]), rollout.mask[n, : length - 1]])
        others = one_token.tokenizer.decode(rollout.ids[n, :length][~own].tolist())
        spoken += others.count("You said")
        assert others.startswith("Q: ")
        assert int(own.sum()) == rollout.infos[n]["num_tokens"]
    assert spoken > 4, "the task never spoke"


def test_rewards_land_at_the_last_action_of_each_segment(backbone):
    rollout = collect(episodes_of(backbone, Counting), actor_of(backbone), seeds=range(8))
    for n in range(len(rollout)):
        (paid,) = rollout.rewards[n].nonzero().flatten().tolist()
        assert paid == int(rollout.mask[n].nonzero().max())
        expected = rollout.infos[n]["number"] / 1000 + len(rollout.infos[n]["text"])
        assert rollout.rewards[n, paid].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(rollout.episode_rewards, rollout.rewards.sum(1))
    assert rollout.num_actions == int(rollout.mask.sum())
    talked = collect(episodes_of(backbone, Talking, max_tokens=60), actor_of(backbone), seeds=range(8))
    paid = [row[row != 0].tolist() for row in talked.rewards]
    assert [1.0, 2.0, 3.0] in paid
    assert all(one == [1.0, 2.0, 3.0][: len(one)] for one in paid)


def same_episode(a: Rollout, i: int, b: Rollout, j: int) -> None:
    length = int(a.lengths[i])
    assert length == int(b.lengths[j])
    for name in ("ids", "actions", "mask", "rewards"):
        assert torch.equal(getattr(a, name)[i, :length], getattr(b, name)[j, :length]), name
    for name in ("hidden", "log_probs"):
        left, right = getattr(a, name)[i, :length], getattr(b, name)[j, :length]
        torch.testing.assert_close(left, right, atol=1e-4, rtol=0)
    assert a.infos[i] == b.infos[j]
    assert bool(a.terminated[i]) == bool(b.terminated[j])


@pytest.mark.parametrize("task", [Counting, Talking])
def test_the_number_of_rows_and_the_order_of_seeds_change_no_episode(backbone, task):
    actor = actor_of(backbone)
    seeds = list(range(11))
    one, three, many = (
        collect(episodes_of(backbone, task, rows, 25, world_temperature=0.8), actor, seeds=seeds)
        for rows in (1, 3, 32)
    )
    back = collect(episodes_of(backbone, task, 4, 25, world_temperature=0.8), actor, seeds=seeds[::-1])
    for i in range(11):
        same_episode(one, i, three, i)
        same_episode(one, i, many, i)
        same_episode(one, i, back, 10 - i)
    assert len({tuple(row) for row in one.ids.tolist()}) == 11, "seeds make no difference"


def test_one_episodes_object_may_be_collected_over_and_over(backbone):
    actor, episodes = actor_of(backbone), episodes_of(backbone)
    first = collect(episodes, actor, seeds=range(5))
    collect(episodes, actor, seeds=range(5, 12))
    again = collect(episodes, actor, seeds=range(5))
    for i in range(5):
        same_episode(first, i, again, i)


def test_a_collection_makes_one_forward_pass_a_step_and_asks_for_no_observation(one_token, monkeypatch):
    pytest.importorskip("numba")
    episodes, passes, steps = episodes_of(one_token, num_rows=3), [], []
    run = session_module.run_rows

    def counted(stack, kv, chunk, **inputs):
        if "input_ids" in inputs:
            passes.append(list(chunk.widths))
        return run(stack, kv, chunk, **inputs)

    monkeypatch.setattr(session_module, "run_rows", counted)
    monkeypatch.setattr(episodes, "_observe", lambda rows: pytest.fail("an observation was asked for"))
    collect(episodes, actor_of(one_token), seeds=range(9), on_step=lambda **seen: steps.append(seen))
    assert len(passes) == len(steps) + 1, "one for each step's actions, and one for the last tokens"
    assert any(min(widths) == 1 < max(widths) for widths in passes), "prompts ran beside single tokens"


@pytest.mark.parametrize("task", [Counting, Talking])
def test_sharing_forward_passes_changes_no_episode(backbone, task, monkeypatch):
    shared = collect(episodes_of(backbone, task, num_rows=3), actor_of(backbone), seeds=range(12))
    monkeypatch.setattr(Rows, "deferred", lambda self: nullcontext())
    apart = collect(episodes_of(backbone, task, num_rows=3), actor_of(backbone), seeds=range(12))
    for i in range(12):
        same_episode(shared, i, apart, i)
    torch.testing.assert_close(shared.hidden, apart.hidden, atol=1e-4, rtol=0)


def test_the_last_token_of_an_ended_episode_is_named_without_a_step_of_the_next(tiny_cola, tiny_tokenizer):
    """Its state is computed with the next prompt's."""
    model = copy.deepcopy(tiny_cola)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    episodes = episodes_of(LatentBackbone(model, tiny_tokenizer), num_rows=2)
    rollout = collect(episodes, InitialPolicy(), seeds=range(6))
    texts = [ids[:length].tolist() for ids, length in zip(rollout.ids, rollout.lengths, strict=True)]
    last = next(text for text in texts[:4] if sum(ids.count(text[-1]) for ids in texts) == 1)
    with torch.no_grad():
        model.base.embed_tokens.weight[last[-1]] = float("nan")
    with pytest.raises(FloatingPointError) as failure:
        collect(episodes, InitialPolicy(), seeds=range(6))
    assert str(failure.value).endswith(
        f"is not finite at position {len(last) - 1}, token {last[-1]} of the text that it held before"
    )


def test_a_hidden_state_that_is_not_finite_stops_with_row_and_step(tiny_cola, tiny_tokenizer):
    model = copy.deepcopy(tiny_cola)
    backbone = LatentBackbone(model, tiny_tokenizer)
    rows: list[int] = []

    def breaks(session, which):
        if rows:
            with torch.no_grad():
                model.base.embed_tokens.weight.fill_(float("nan"))
        rows.extend(which)
        return session.policy(which)

    episodes = episodes_of(backbone, num_rows=2)
    with pytest.raises(NotFiniteError, match=r"hidden state of row 0 .*\(at step 1 of row 0\)"):
        collect(episodes, breaks, seeds=range(2))
    with pytest.raises(ResetNeeded):
        episodes.step([0], [1])


def test_a_group_shares_its_problem_and_differs_in_its_draws(latent_backbone):
    rollout = collect(
        episodes_of(latent_backbone),
        actor_of(latent_backbone),
        seeds=range(8),
        problem_seeds=[70] * 4 + [71] * 4,
    )
    numbers = [info["number"] for info in rollout.infos]
    assert len(set(numbers[:4])) == len(set(numbers[4:])) == 1
    assert numbers[0] != numbers[4]
    assert len({tuple(row) for row in rollout.ids[:4].tolist()}) == 4
    assert rollout.seeds.tolist() == list(range(8))
    assert rollout.problem_seeds.tolist() == [70] * 4 + [71] * 4


def test_the_policys_draws_are_not_the_worlds(latent_backbone):
    """One row seed feeds three streams; were two of them one, codes and tokens would move together."""
    from cola_agents.rl import collecting as module
    from cola_envs import state

    assert module._POLICY_STREAM not in (state.WORLD, state.PROBLEM, state.NEXT)


def test_select_cuts_to_the_longest_of_what_it_takes(backbone):
    rollout = collect(episodes_of(backbone, Talking, max_tokens=30), actor_of(backbone), seeds=range(7))
    index = rollout.lengths.argsort()[:3]
    for picked in (rollout.select(index), rollout.select(index.numpy())):
        assert len(picked) == len(picked.infos) == len(picked.seeds) == 3
        assert picked.ids.shape[1] == int(rollout.lengths[index].max())
        for j, i in enumerate(index.tolist()):
            same_episode(rollout, i, picked, j)


def test_greedy_latent_play_is_generate(latent_backbone):
    actor = LatentActor(latent_backbone)
    rollout = collect(episodes_of(latent_backbone, max_tokens=20), actor, seeds=range(5), temperature=0.0)
    model = copy.deepcopy(latent_backbone.model)
    with torch.no_grad():
        model.lm_head.weight[tiny.TOKENIZER :] = 0  # generate() knows of no unused ids
    for n in range(5):
        start = int(rollout.mask[n].nonzero().min()) + 1
        prompt = rollout.ids[n : n + 1, :start]
        out = model.generate(prompt, max_new_tokens=20)[0].tolist()
        assert out == rollout.ids[n, : int(rollout.lengths[n])].tolist()
    assert not rollout.log_probs.any()


def test_greedy_token_play_is_generate(token_backbone):
    actor = TokenActor(TokenBackbone(copy.deepcopy(token_backbone.model), token_backbone.tokenizer))
    rollout = collect(
        episodes_of(token_backbone, max_tokens=20), actor_of(token_backbone), seeds=range(2), temperature=0.0
    )
    assert not rollout.log_probs.any()
    plain = collect(episodes_of(token_backbone, max_tokens=20), actor, seeds=range(4), temperature=0.0)
    model = copy.deepcopy(token_backbone.model)
    with torch.no_grad():
        model.lm_head.weight[tiny.TOKENIZER :] = 0
    for n in range(4):
        start = int(plain.mask[n].nonzero().min()) + 1
        out = model.generate(plain.ids[n : n + 1, :start], max_new_tokens=20, do_sample=False)[0].tolist()
        assert out == plain.ids[n, : int(plain.lengths[n])].tolist()


def test_terminated_is_not_truncated(latent_backbone):
    actor = LatentActor(latent_backbone)
    cut = collect(episodes_of(latent_backbone, max_tokens=5, budget_end="truncate"), actor, seeds=range(6))
    assert not cut.terminated.all()
    assert not cut.rewards[~cut.terminated].any(), "what was cut is not graded"
    graded = collect(episodes_of(latent_backbone, max_tokens=5), actor, seeds=range(6))
    assert graded.terminated.all()


def test_a_policy_may_be_a_plain_function_of_session_and_rows(latent_backbone):
    def clone(session, rows):
        return session.policy(rows)

    episodes = episodes_of(latent_backbone)
    ours = collect(episodes, clone, seeds=range(5))
    theirs = collect(episodes, LatentActor(latent_backbone), seeds=range(5))
    for i in range(5):
        same_episode(ours, i, theirs, i)
    assert len(collect(episodes, clone)) == episodes.num_rows, "one episode a row where no seeds are given"


def test_rows_that_a_collection_does_not_use_must_be_reset(latent_backbone):
    episodes = make_rows("CoLA-Text-v0", 3, task=Counting, model=latent_backbone, max_tokens=4).episodes
    episodes.reset(range(3), [1, 2, 3])
    collect(episodes, InitialPolicy(), seeds=[7])
    with pytest.raises(ResetNeeded, match="row 2 is over"):
        episodes.step([2], [1])
    with pytest.raises(RuntimeError, match="row 2 of the session holds no tokens"):
        episodes.session.hidden([2])
    episodes.reset([2], [3])
    assert episodes.step([2], [1])[0].shape[0] == 1


def test_seeds_that_do_not_fit_are_refused(latent_backbone):
    actor, episodes = LatentActor(latent_backbone), episodes_of(latent_backbone)
    with pytest.raises(ValueError, match="2 seeds and 1 problem seeds"):
        collect(episodes, actor, seeds=[1, 2], problem_seeds=[3])
    with pytest.raises(ValueError, match="0 seeds"):
        collect(episodes, actor, seeds=[])


@pytest.mark.parametrize("part", ["head", "trunk"])
def test_a_policy_that_gives_nan_stops_with_row_and_step(latent_backbone, part):
    actor = LatentActor(latent_backbone)
    with torch.no_grad():
        next(iter(getattr(actor, part).parameters())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="row 0"):
        collect(episodes_of(latent_backbone), actor, seeds=range(3))


def test_an_actor_starts_as_the_models_own_policy_and_owns_its_weights(latent_backbone):
    rollout = collect(episodes_of(latent_backbone), LatentActor(latent_backbone), seeds=range(3))
    actor = LatentActor(latent_backbone)
    with torch.no_grad():
        expected = latent_backbone.model.policy(rollout.hidden)
    torch.testing.assert_close(logits_of(actor, rollout), expected, atol=1e-5, rtol=0)
    shared = {p.data_ptr() for p in latent_backbone.model.parameters()}
    assert not shared & {p.data_ptr() for p in actor.parameters()}
    with torch.no_grad():
        assert not actor.values(actor.features(rollout)).any(), "the value starts at zero"


def test_a_token_actor_never_draws_what_is_no_token(token_backbone):
    actor = TokenActor(TokenBackbone(copy.deepcopy(token_backbone.model), token_backbone.tokenizer))
    rollout = collect(episodes_of(token_backbone), actor, seeds=range(8), temperature=20.0)
    assert int(rollout.actions.max()) < tiny.TOKENIZER
    assert logits_of(actor, rollout).shape[-1] == tiny.TOKENIZER


def test_make_actor_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="no policy can be trained over a object, which has no action_mask, "):
        make_actor(object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda rows: torch.zeros(len(rows), 3), ValueError, "action logits"),
        (lambda rows: torch.zeros(len(rows), 100_000), ValueError, "action logits"),
        (lambda rows: torch.zeros(len(rows) + 1, tiny.CODES), ValueError, "action logits"),
        (lambda rows: np.zeros((len(rows), tiny.CODES)), TypeError, "ndarray"),
        (lambda rows: None, TypeError, "NoneType"),
    ],
)
def test_what_is_no_action_logits_is_refused(latent_backbone, returned, error, message):
    episodes = episodes_of(latent_backbone, max_tokens=3)
    with pytest.raises(error, match=message):
        collect(episodes, lambda session, rows: returned(rows), seeds=range(2))


def test_collect_says_where_an_environment_keeps_its_episodes(latent_backbone):
    with pytest.raises(TypeError, match=r"unwrapped\.episodes"):
        collect(object(), lambda session, rows: None)


def test_episodes_are_selected_by_number_or_by_a_mask(tiny_cola, tiny_tokenizer):
    episodes = make_rows(
        "CoLA-Arithmetic-v0", 4, model=tiny_cola, tokenizer=tiny_tokenizer, max_tokens=4
    ).episodes
    rollout = collect(episodes, InitialPolicy(), seeds=range(5))
    chosen = torch.tensor([True, False, False, True, False])
    by_mask, by_number = rollout.select(chosen), rollout.select(torch.tensor([0, 3]))
    assert torch.equal(by_mask.ids, by_number.ids)
    assert by_mask.seeds.tolist() == by_number.seeds.tolist() == [0, 3]
    assert [info["text"] for info in by_mask.infos] == [rollout.infos[n]["text"] for n in (0, 3)]
