"""The comparison with peers compares like with like; nothing here is timed for its own sake."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.peers import python_work, report, trl_grpo
from benchmarks.peers.python_work import calls_per_step, count_calls, measure_python_work
from benchmarks.peers.report import peers_table, targets
from benchmarks.peers.rollouts import measure_rollouts
from benchmarks.peers.rows import PAD, rows_ppo
from benchmarks.peers.setting import Clock, PeerSetting, TaskRewards, TurnGRPO, TurnPPO, Weights
from benchmarks.peers.trl_grpo import TRLRun, endless_tokenizer
from benchmarks.peers.updates import measure_updates, rows_beside
from benchmarks.speed.turns import ratios
from cola_agents.decoding import session as session_module
from cola_agents.rl import collecting
from tests import tiny

needs_trl = pytest.mark.skipif(
    find_spec("trl") is None, reason="TRL is not installed (pip install 'cola-rl[peers]')"
)
SETTING = PeerSetting(prompts=2, group_size=3, tokens=5, kl_coef=0.5)


@pytest.fixture(scope="module")
def weights():
    return Weights(tiny.make_cola(base=tiny.make_base(vocab_size=tiny.TOKENIZER)), tiny.make_tokenizer())


@pytest.fixture(scope="module")
def agent(weights):
    """Token-level PPO that has moved from its initial policy, so that no KL and no value is zero."""
    agent = TurnPPO("token", SETTING, weights, passes=1, minibatch=SETTING.rows, whiten=False)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return agent


@pytest.fixture(scope="module")
def rollout(agent):
    """Its episodes, with a reward at each end that differs from episode to episode."""
    rollout = agent.first_turn()
    last = rollout.lengths - 2
    rollout.rewards[torch.arange(len(rollout)), last] = torch.linspace(-1, 1, len(rollout))
    return rollout


def gradients_of_ours(agent, rollout):
    agent.optimiser.zero_grad()
    loss, _ = agent.loss(agent.batch_of(rollout))
    loss.backward()
    return {name: p.grad.clone() for name, p in agent.actor.named_parameters()}


def gradients_of_rows(agent, rollout, batch_size):
    """What Stable-Baselines3's own train() leaves behind at a learning rate that moves nothing."""
    still = PeerSetting(**{**vars(SETTING), "lr": 0.0, "max_grad_norm": 1e9})
    peer = rows_beside(agent, rollout, still, passes=1, batch_size=batch_size, normalise=False)
    peer.train()
    return {name: p.grad.clone() for name, p in peer.policy.actor.named_parameters()}


# ------------------------------------------------------------------ per-token rows


def test_per_token_rows_have_the_gradient_of_whole_sequences(agent, rollout):
    ours = gradients_of_ours(agent, rollout)
    rows = gradients_of_rows(agent, rollout, rollout.num_actions)
    assert ours.keys() == rows.keys()
    scale = max(grad.abs().max() for grad in ours.values())
    assert scale > 1e-2, "nothing to compare"
    for name, grad in ours.items():
        torch.testing.assert_close(rows[name], grad, rtol=0, atol=1e-4 * min(1.0, float(scale)))
    assert ours["value_head.weight"].abs().max() > 1e-3, "the value's share was not compared"


def test_that_comparison_notices_other_rewards(agent, rollout):
    ours = gradients_of_ours(agent, rollout)
    changed = copy.copy(rollout)
    object.__setattr__(changed, "rewards", rollout.rewards * 1.01)
    rows = gradients_of_rows(agent, changed, rollout.num_actions)
    assert max((rows[name] - grad).abs().max() for name, grad in ours.items()) > 1e-3


def test_rows_hold_prefixes_actions_and_our_advantages(agent, rollout):
    batch = agent.batch_of(rollout)
    peer = rows_beside(agent, rollout, SETTING, passes=1, batch_size=2)
    buffer = peer.rollout_buffer
    mask = rollout.mask
    np.testing.assert_allclose(
        buffer.advantages.flatten(), batch.advantages[mask].numpy(), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(buffer.returns.flatten(), batch.returns[mask].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(buffer.actions.flatten(), rollout.actions[mask].numpy())
    row = 0
    for n, t in mask.nonzero().tolist():
        seen = buffer.observations[row, 0]
        assert seen[: t + 1].tolist() == rollout.ids[n, : t + 1].tolist()
        assert (seen[t + 1 :] == PAD).all()
        row += 1
    assert row == rollout.num_actions == len(buffer.observations)


def test_a_row_does_not_see_the_rows_beside_it(agent, rollout):
    peer = rows_beside(agent, rollout, SETTING, passes=1, batch_size=2)
    seen = torch.tensor(peer.rollout_buffer.observations[:, 0])
    actions = torch.tensor(peer.rollout_buffer.actions.flatten())
    with torch.no_grad():
        together = peer.policy.evaluate_actions(seen, actions)
        for i in (0, 4, 7):
            alone = peer.policy.evaluate_actions(seen[i : i + 1], actions[i : i + 1])
            for one, all_of_them in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], all_of_them[i], rtol=1e-4, atol=1e-5)


def test_rows_refuse_episodes_that_were_cut(agent, rollout):
    cut = copy.copy(rollout)
    object.__setattr__(cut, "terminated", torch.zeros_like(rollout.terminated))
    with pytest.raises(ValueError, match="one of these was cut"):
        rows_ppo(
            agent.actor, cut, cut.rewards, cut.rewards, SETTING,
            passes=1, batch_size=2, value_coef=0.5, gamma=1.0, lam=1.0,
        )  # fmt: skip


def test_rows_leave_the_actor_that_they_were_made_of_alone(agent, rollout):
    before = {name: p.detach().clone() for name, p in agent.actor.named_parameters()}
    fast = PeerSetting(**{**vars(SETTING), "lr": 0.1})
    peer = rows_beside(agent, rollout, fast, passes=2, batch_size=7)
    peer.train()
    moved = dict(peer.policy.actor.named_parameters())
    assert any(not torch.equal(moved[name], value) for name, value in before.items())
    assert all(torch.equal(p, before[name]) for name, p in agent.actor.named_parameters())


# ------------------------------------------------------------------ ours, and the rewards


def test_every_answer_has_its_whole_budget_at_both_levels(weights):
    for level in ("latent", "token"):
        agent = TurnGRPO(level, SETTING, weights, Clock())
        agent.iterate()
        assert agent.played.mask.sum(1).tolist() == [SETTING.tokens] * SETTING.rows
        assert agent.num_updates == 1


def test_a_vocabulary_beyond_the_tokenizer_is_refused():
    with pytest.raises(ValueError, match="280 entries and the model 288"):
        Weights(tiny.make_cola(), tiny.make_tokenizer())


def test_levels_share_the_very_weights(weights):
    latent, token = weights.backbones["latent"], weights.backbones["token"]
    assert latent.base is token.base
    assert latent.lm_head.weight is token.lm_head.weight


def test_turns_play_other_problems_and_all_levels_the_same(weights):
    turns = [SETTING.problems(turn).tolist() for turn in range(2)]
    assert turns == [[0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3]]
    agents = [TurnGRPO(level, SETTING, weights, Clock()) for level in ("latent", "token")]
    for turn in turns:
        for agent in agents:
            agent.iterate()
            assert agent.played.problem_seeds.tolist() == turn


def test_the_reward_function_pays_what_the_environment_paid():
    """Bundled weights: the tiny ones never solve anything, so that all rewards would be zero."""
    setting = PeerSetting(prompts=8, group_size=4, tokens=24)
    weights = Weights()
    agent = TurnGRPO("token", setting, weights, Clock())
    agent.iterate()
    played = agent.played
    rewards = TaskRewards(setting, weights.backbones["token"].tokenizer.decode)
    prompts = rewards.prompts_of(played.problem_seeds)
    answers = [ids[mask].tolist() for ids, mask in zip(played.ids[:, 1:], played.mask[:, :-1], strict=True)]
    paid = rewards(prompts, completion_ids=answers, problem=played.problem_seeds.tolist())
    assert paid == played.episode_rewards.tolist()
    assert len(set(paid)) > 1, "all rewards were equal: nothing was compared"
    with pytest.raises(RuntimeError, match="not those of the problems"):
        rewards(prompts[::-1], completion_ids=answers, problem=played.problem_seeds.tolist())


@pytest.mark.parametrize("changed", [{"prompts": 0}, {"group_size": 1}, {"tokens": 0}])
def test_sizes_that_make_no_group_are_refused(changed):
    with pytest.raises(ValueError, match="group_size >= 2"):
        PeerSetting(**changed)


# ------------------------------------------------------------------ TRL


def test_without_trl_the_cure_is_named_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trl_grpo, "find_spec", lambda name: None)
    monkeypatch.setattr(report, "measure_rollouts", lambda *a, **k: pytest.fail("something was measured"))
    assert main(["peers", "--out", str(tmp_path / "peers.json")]) == 2
    said = capsys.readouterr().err
    assert "cola-rl[peers]" in said
    assert "--without-trl" in said


@needs_trl
def test_trl_plays_the_same_prompts_for_as_many_tokens(weights):
    figures = measure_rollouts(SETTING, weights, 1, with_trl=True)
    assert figures["tokens_per_turn"] == SETTING.rows * SETTING.tokens
    assert set(figures["tokens_per_cpu_s"]) == {"trl", "latent", "token"}
    assert figures["rollouts_faster_than_trl"]["token"]["median"] > 0
    for name in ("trl", "latent", "token"):
        of = figures["seconds"]
        assert len(of[f"{name} iteration"]["all_cpu_s"]) == 1, "the warm-up was counted"
        assert of[f"{name} rollout"]["cpu_s"] < of[f"{name} iteration"]["cpu_s"]


@needs_trl
def test_trl_starts_from_our_weights_and_scores_its_answers_as_ours_does(weights):
    run = TRLRun(SETTING, weights, Clock(), 1)
    ours = weights.backbones["token"]
    theirs = run.trainer.model.state_dict()
    for name, tensor in weights.whole.state_dict().items():
        assert torch.equal(theirs[name], tensor), name
    run.run(lambda turn: None)
    assert [len(ids) for ids in run.rewards.completions] == [SETTING.tokens] * SETTING.rows
    assert run.prompt_ids == [
        ours.tokenizer.encode(prompt) for prompt in run.rewards.prompts_of(SETTING.problems(0))
    ]
    ids = torch.tensor(run.prompt_ids[0] + run.rewards.completions[0])[None]
    with torch.no_grad():
        expected = ours.lm_head(ours.base(ids, use_cache=False).last_hidden_state).log_softmax(-1)
        # The reference keeps the weights that were given; the policy has made a step.
        found, *_ = run.trainer._get_per_token_logps_and_entropies(
            run.trainer.ref_model, ids, torch.ones_like(ids), SETTING.tokens
        )
    at = ids.shape[1] - SETTING.tokens
    expected = expected[0, at - 1 : -1].gather(-1, ids[0, at:, None]).squeeze(-1)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


def test_an_endless_tokenizer_ends_at_no_token_of_the_model(weights):
    changed = endless_tokenizer(weights.source)
    assert changed.eos_token_id >= weights.whole.config.vocab_size
    assert weights.source.eos_token_id == 0, "the shared tokenizer was changed"
    text = "Q: 8+6-4=?\nA:"
    assert changed(text)["input_ids"] == weights.backbones["token"].tokenizer.encode(text)
    assert weights.backbones["token"].tokenizer.eos_token_id is None


# ------------------------------------------------------------------ Python work


def test_calls_of_python_and_c_are_counted():
    def inner(values):
        values.append(1)

    def run():
        values = []
        for _ in range(5):
            inner(values)

    counted = count_calls(run)
    here = "tests/test_peers.py:test_calls_of_python_and_c_are_counted.<locals>"
    assert counted[f"{here}.run"] == 1
    assert counted[f"{here}.inner"] == 5
    assert counted[f"list.append in {here}.inner"] == 5


def test_python_work_of_a_row_does_not_grow_with_the_rows(weights):
    work = measure_python_work(weights, rows=(3, 9), tokens=(4, 12), repeats=1)
    for level in ("latent", "token"):
        few, many = work[level]["calls_per_row_and_step"]
        assert many < few
        # An append to the row's tokens, actions and origins at the least.
        assert 3 <= work[level]["calls_that_each_row_adds"] < 60
        assert work[level]["added_by"]


@pytest.mark.parametrize("level", ["latent", "token"])
def test_no_pass_of_the_model_counts_as_the_loops_own(weights, level, monkeypatch):
    """Passes that take a second each, on a clock of their own, are all in the session's share."""
    now = [0.0]
    monkeypatch.setattr(python_work.time, "process_time", lambda: now[0])
    run_rows = session_module.run_rows

    def slow(*args, **kwargs):
        now[0] += 1.0
        return run_rows(*args, **kwargs)

    monkeypatch.setattr(session_module, "run_rows", slow)
    spent = python_work._timed(python_work._plays(level, weights, 3, (4, 6))[0])
    assert spent["all"] >= 4
    assert spent["session"] == spent["all"]


def test_work_that_grows_with_the_rows_is_seen(weights, monkeypatch):
    def added_by_a_row():
        few, many = (sum(calls_per_step("token", weights, rows, (4, 8)).values()) for rows in (3, 9))
        return (many - few) / 6

    before = added_by_a_row()
    original = collecting.sample

    def wasteful(logits, u, **kwargs):
        for _ in range(len(logits) ** 2):
            divmod(7, 3)
        return original(logits, u, **kwargs)

    monkeypatch.setattr(collecting, "sample", wasteful)
    assert added_by_a_row() - before == pytest.approx((81 - 9) / 6, abs=0.5)


# ------------------------------------------------------------------ the whole


def test_ratios_are_of_turns_and_show_their_spread():
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_updates_are_timed_for_all_three(weights):
    setting = PeerSetting(prompts=2, group_size=2, tokens=4)
    figures = measure_updates(setting, weights, 1, passes=2, minibatches=2)
    assert figures["gradient_steps"] == 4
    assert figures["actions"] == 16
    assert figures["rows_cpu_s"] > 0
    with pytest.raises(ValueError, match="do not divide"):
        measure_updates(setting, weights, 1, passes=1, minibatches=3)


def test_the_command_writes_what_the_paper_reads(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "Weights", lambda: weights)
    out = tmp_path / "peers.json"
    small = "--prompts 1 --group-size 2 --tokens 4 --repeats 1 --ppo-episodes 2 --ppo-minibatches 1"
    small += " --ppo-repeats 1 --work-rows 2 4 --without-trl"
    assert main(["peers", *small.split(), "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    updates = results["updates"]
    assert updates["latent_cpu_s"] > 0
    assert updates["token_cpu_s"] > 0
    assert set(updates["token_of_latent"]) == {"median", "low", "high"}
    assert updates["grpo"][0]["latent_cpu_s"] > 0
    assert results["with_trl"] is False
    assert "--without-trl" in results["note"]
    assert "trl" not in results["peer_packages"]
    unmeasured = [t for t in results["targets"] if "TRL" in t["target"]]
    assert unmeasured
    assert all(t["met"] is None for t in unmeasured)
    printed = capsys.readouterr().out
    assert printed.startswith(peers_table(results))
    assert "not measured" in printed


def test_a_missed_target_is_said():
    work = {"calls_per_row_and_step": [3.0, 4.0]}
    results = {
        "grpo": [
            {"rows": 8, "rollouts_faster_than_trl": {"token": {"median": 1.2}, "latent": {"median": 1.19}}}
        ],
        "updates": {"token_of_latent": {"median": 1.9}},
        "python_work": {"rows": [2, 4], "token": work, "latent": {"calls_per_row_and_step": [4.0, 3.0]}},
    }
    assert [target["met"] for target in targets(results)] == [True, False, False, False, True]
