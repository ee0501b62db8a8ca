"""The Q-function: trained on recorded episodes, attached to a session, saved and loaded."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.rollout import Rollout
from cola_agents.search.fitting import split_problems, within_problems
from cola_agents.search.judges import OutcomeModel
from cola_agents.search.q import (
    QFunction,
    acting,
    ending_values,
    episode_targets,
    q_evaluator,
    td_target,
    train_q,
)
from cola_agents.train.options import QConfig
from cola_envs import EachRow, Episodes, Turn
from tests.envs.tiny import Talk


class FirstToken:
    """Paid where the first token's id is even; three tokens long."""

    stop = ()

    def reset(self, rng: np.random.Generator) -> str:
        return "Q: 8+6"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(len(text) > 3))


def played(backbone: Any, task: Any = FirstToken, max_tokens: int = 3, count: int = 24) -> Rollout:
    episodes = Episodes(backbone, EachRow(task, 8), num_rows=8, max_tokens=max_tokens)
    return collect(episodes, InitialPolicy(), seeds=range(count), temperature=2.0)


@pytest.mark.parametrize("level", ["latent", "token"])
def test_values_in_a_session_are_those_of_the_whole_episode(
    level: str, latent_backbone: LatentBackbone, token_backbone: TokenBackbone
) -> None:
    backbone: Any = latent_backbone if level == "latent" else token_backbone
    q = QFunction.over(backbone)
    torch.nn.init.normal_(q.head.weight)
    rollout = played(backbone, count=3)
    with torch.no_grad():
        whole = q(rollout)
    session = backbone.session(3)
    values = q.attach(session)
    for length in (4, 6, 5):  # forwards, and back
        session.load([0, 1, 2], rollout.ids[:, :length].tolist())
        torch.testing.assert_close(values([0, 1, 2]), whole[:, length - 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("trunk", ["policy", "model"])
def test_a_q_function_that_was_trained_on_is_read_anew_after_forget(
    trunk: Any, latent_backbone: LatentBackbone
) -> None:
    q = QFunction.over(latent_backbone, trunk=trunk)
    torch.nn.init.normal_(q.head.weight)
    session = latent_backbone.session(2)
    values, texts = q.attach(session), [[1, 2, 3], [4, 5]]
    session.load([0, 1], texts)
    before = values([0, 1])
    with torch.no_grad():
        for parameter in q.trunk.parameters():
            parameter.mul_(1.3)
    session.forget()
    session.load([0, 1], texts)
    fresh = latent_backbone.session(2)
    fresh.load([0, 1], texts)
    torch.testing.assert_close(values([0, 1]), q.attach(fresh)([0, 1]))
    assert not torch.allclose(values([0, 1]), before, atol=0.01)


def test_targets_are_the_published_ones_and_an_end_is_worth_its_reward() -> None:
    # Two actions, gamma .5. Row 0 acts three times and is paid 1 at the end, row 1 acts once.
    online = torch.tensor([[[0.0, 9.0], [3.0, 1.0], [0.0, 2.0]], [[5.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    frozen = torch.tensor([[[0.0, 0.0], [0.4, 8.0], [7.0, 0.6]], [[0.0, 0.0], [6.0, 6.0], [6.0, 6.0]]])
    rewards = torch.tensor([[0.1, 0.0, 1.0], [2.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    targets = episode_targets(rewards, online, frozen, mask, gamma=0.5)
    # The online network chooses (3 > 1: action 0; 2 > 0: action 1), the frozen one says what that is worth.
    torch.testing.assert_close(targets[0], torch.tensor([0.1 + 0.5 * 0.4, 0.5 * 0.6, 1.0]))
    assert targets[1, 0] == 2.0
    torch.testing.assert_close(targets[:, :2], td_target(rewards, online, frozen, mask, gamma=0.5))


def test_acting_positions_skip_what_the_task_says_in_between(latent_backbone: LatentBackbone) -> None:
    rollout = played(latent_backbone, Talk, max_tokens=12, count=6)
    positions, rewards, mask, known = acting(rollout)
    for n in range(len(rollout)):
        wanted = rollout.mask[n].nonzero().flatten()
        assert positions[n][mask[n]].tolist() == wanted.tolist()
        torch.testing.assert_close(rewards[n][mask[n]], rollout.rewards[n, wanted])
    assert known.equal(mask)
    cut = rollout.select(np.arange(6))
    cut.terminated[:] = False
    assert (acting(cut)[3].sum(1) == mask.sum(1) - 1).all()
    q = QFunction.over(latent_backbone)
    torch.nn.init.normal_(q.head.weight)
    with torch.no_grad():
        there, whole = q.at(rollout, positions), q(rollout)
    for n in range(len(rollout)):
        torch.testing.assert_close(there[n], whole[n, positions[n]])


def test_it_learns_what_recorded_actions_led_to(latent_backbone: LatentBackbone) -> None:
    rollout = played(latent_backbone, count=64)
    # What is paid depends on the first token alone.
    each = torch.arange(64)
    first = rollout.mask.float().argmax(1)
    wanted = (rollout.ids[each, first + 1] % 2).float()
    assert 10 < wanted.sum() < 54
    rollout.rewards.zero_()
    rollout.rewards[each, rollout.lengths - 2] = wanted
    q = QFunction.over(latent_backbone, gamma=1.0)
    records = train_q(q, rollout, QConfig(steps=150, batch_size=32, lr=3e-3, target_every=10))
    with torch.no_grad():
        chosen = q(rollout)[each, first, rollout.actions[each, first]]
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    assert chosen[wanted == 1].mean() - chosen[wanted == 0].mean() > 0.4


def test_in_bfloat16_small_steps_are_not_lost(tiny_cola: Any, tiny_tokenizer: Any) -> None:
    """Most are smaller than the spacing of bfloat16 numbers; the float32 twins add them up."""
    drift = {}
    for dtype in (torch.float32, torch.bfloat16):
        backbone = LatentBackbone(copy.deepcopy(tiny_cola).to(dtype), tiny_tokenizer)
        q, rollout = QFunction.over(backbone), played(backbone)
        torch.nn.init.constant_(q.head.weight, 0.1)
        before = [p.detach().float().clone() for p in q.trunk.parameters()]
        rollout.rewards.copy_(rollout.mask)
        train_q(q, rollout, QConfig(steps=40, batch_size=8, lr=2e-5))
        after = [p.detach().float() for p in q.trunk.parameters()]
        drift[dtype] = sum((a - b).abs().sum().item() for a, b in zip(after, before, strict=True))
        assert {p.dtype for p in q.trunk.parameters()} == {dtype}
    assert drift[torch.bfloat16] > 0.5 * drift[torch.float32]


def _told(values: list[float], paid: list[float], problems: list[int]) -> tuple[Any, Rollout]:
    """A Q-function's stand-in and episodes of two actions: what it says of the last, what each was paid."""
    count = len(values)
    rewards = torch.zeros(count, 4)
    rewards[:, 2] = torch.tensor(paid)
    rollout = Rollout(
        ids=torch.tensor(problems)[:, None].repeat(1, 4),
        lengths=torch.full((count,), 4),
        hidden=torch.zeros(count, 4, 1),
        mask=torch.tensor([[False, True, True, False]]).repeat(count, 1),
        actions=torch.tensor([[0, 0, 1, 0]]).repeat(count, 1),
        log_probs=torch.zeros(count, 4),
        rewards=rewards,
        terminated=torch.ones(count, dtype=torch.bool),
        seeds=np.arange(count),
        problem_seeds=np.array(problems),
        infos=[{"value": value} for value in values],
    )

    class Said:
        def at(self, part: Rollout, positions: torch.Tensor) -> torch.Tensor:
            values = torch.full((*positions.shape, 2), 9.0)
            assert positions.flatten().tolist() == [2] * len(part)
            values[..., 1] = torch.tensor([info["value"] for info in part.infos])[:, None]
            return values

    return Said(), rollout


def test_a_judge_is_measured_among_answers_to_one_problem() -> None:
    # Problem 7: of (.9 paid 0), (.1 paid 1), (.5 paid 1) no better paid one is above. Problem 8: a tie and a
    # win. Problem 9 is paid alike and says nothing, and that 8's values are above 7's is of no account.
    q, rollout = _told(
        [0.9, 0.1, 0.5, 2.0, 2.0, 3.0, 5.0, 6.0], [0, 1, 1, 0, 1, 1, 1, 1], [7, 7, 7, 8, 8, 8, 9, 9]
    )
    values = partial(ending_values, q)
    assert within_problems(values, rollout, batch_size=3) == pytest.approx((0.0 + 0.75) / 2)
    assert within_problems(values, rollout.select(np.array([6, 7]))) is None


def test_problems_are_held_out_whole_and_the_best_weights_there_are_kept(
    latent_backbone: LatentBackbone,
) -> None:
    class Asked(FirstToken):
        """Sixteen questions, though thirty-two seeds ask them."""

        def reset(self, rng: np.random.Generator) -> str:
            return f"Q: {next(numbers) // 2 % 16}"

    numbers = (number for number in range(64))
    episodes = Episodes(latent_backbone, EachRow(Asked, 8), num_rows=8, max_tokens=3)
    seeds = range(64)
    rollout = collect(
        episodes, InitialPolicy(), seeds=seeds, problem_seeds=[s // 2 for s in seeds], temperature=2.0
    )
    each, first = torch.arange(64), rollout.mask.float().argmax(1)
    rollout.rewards.zero_()
    rollout.rewards[each, rollout.lengths - 2] = (rollout.ids[each, first + 1] % 2).float()
    learned, held_out = split_problems(rollout, 4)
    assert (len(learned), len(held_out)) == (48, 16)
    prompts = [{tuple(ids[:6].tolist()) for ids in part.ids} for part in (learned, held_out)]
    assert not prompts[0] & prompts[1]
    q = QFunction.over(latent_backbone, gamma=1.0)
    config = QConfig(steps=60, batch_size=32, lr=3e-3, target_every=10, check_every=7)
    records = train_q(q, learned, config, held_out=held_out)
    looks = {record["step"]: record["held_out"] for record in records if "held_out" in record}
    assert list(looks) == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert within_problems(partial(ending_values, q), held_out) == max(looks.values()) > 0.5
    for count in (0, 16):
        with pytest.raises(ValueError, match="1 to 15 can be held out"):
            split_problems(rollout, count)
    held_out.rewards.zero_()
    with pytest.raises(ValueError, match="no held-out problem has two answers"):
        train_q(q, learned, config, held_out=held_out)


def test_saved_and_loaded_it_judges_the_same_and_only_its_own_model(
    tmp_path,
    latent_backbone: LatentBackbone,
    token_backbone: TokenBackbone,
    tiny_cola_difference,
    tiny_tokenizer,
) -> None:
    q = QFunction.over(latent_backbone, gamma=0.9)
    torch.nn.init.normal_(q.head.weight)
    q.save(tmp_path / "q")
    again = QFunction.load(tmp_path / "q", latent_backbone)
    rollout = played(latent_backbone, count=2)
    with torch.no_grad():
        torch.testing.assert_close(again(rollout), q(rollout))
    assert again.gamma == 0.9
    with pytest.raises(ValueError, match="has 16 actions"):
        QFunction.load(tmp_path / "q", token_backbone)
    with pytest.raises(ValueError, match="fingerprint"):
        QFunction.load(tmp_path / "q", LatentBackbone(tiny_cola_difference, tiny_tokenizer))
    with pytest.raises(FileNotFoundError, match=r"no q\.json"):
        QFunction.load(tmp_path, latent_backbone)
    with pytest.raises(FileExistsError, match="nothing was written"):
        q.save(tmp_path / "q")


@pytest.mark.parametrize("kind", [QFunction, OutcomeModel])
def test_a_damaged_file_of_it_is_named(kind: Any, tmp_path, latent_backbone: LatentBackbone) -> None:
    name = "q" if kind is QFunction else "outcome"
    weights, about = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.json"
    kind.over(latent_backbone).save(tmp_path)
    whole, said = weights.read_bytes(), about.read_text()
    other = save({"head.weight": torch.zeros(3, 3)})
    for content in (whole[: len(whole) // 2], b"", other):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.safetensors is damaged, or not of this model"):
            kind.load(tmp_path, latent_backbone)
    weights.unlink()
    with pytest.raises(ValueError, match=rf"{name}\.safetensors is missing"):
        kind.load(tmp_path, latent_backbone)
    weights.write_bytes(whole)
    fields = json.loads(said)
    for changed in ("{", "[]", *(json.dumps({**fields, field: []}) for field in fields)):
        about.write_text(changed)
        with pytest.raises(ValueError, match=rf"{name}\.json is damaged"):
            kind.load(tmp_path, latent_backbone)


@pytest.mark.parametrize("gamma", [5.0, float("nan"), -0.1, "a"])
def test_a_discount_outside_0_to_1_is_refused(gamma: Any, latent_backbone: LatentBackbone) -> None:
    with pytest.raises(ValueError, match="gamma must be"):
        QFunction.over(latent_backbone, gamma=gamma)


def test_a_state_is_worth_its_best_action() -> None:
    logits = torch.tensor([[3.0, 2.0, 0.0]])
    values = torch.tensor([[0.1, 0.5, 0.9]])
    prior, value, *_ = q_evaluator(lambda rows: logits, lambda rows: values)([0])
    assert value[0] == pytest.approx(0.9)
    np.testing.assert_allclose(prior.sum(-1), 1.0)


def test_a_policy_trunk_at_token_level_is_refused(token_backbone: TokenBackbone) -> None:
    with pytest.raises(ValueError, match="trunk must be 'model'"):
        QFunction.over(token_backbone, trunk="policy")
