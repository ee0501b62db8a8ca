"""The comparison: its arms are what they are said to be, its search is fair, and it can be interrupted."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.compare import campaign as campaigns
from benchmarks.compare import runs
from benchmarks.compare.arms import ARMS
from benchmarks.compare.campaign import Plan, campaign
from benchmarks.compare.journal import Journal, _check_probe
from benchmarks.compare.pushforward import EMPTY, code_groups, pushed, sampled_world_kl
from benchmarks.compare.rank import RankBackbone, RankLoss, ranks
from benchmarks.compare.report import write_report
from benchmarks.compare.runs import Cell, run, token_kl
from benchmarks.compare.tuning import Score, best, edges, first_settings, next_setting, scored
from cola_agents.common.files import LOCK, InUseError
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.sizes import GROWTH
from cola_agents.rl.losses import categorical_kl
from cola_agents.train.data.packing import IGNORED, Batch
from tests import tiny
from tests.common.test_files import hold, status_of
from tests.comparisons import SMALL

ROOT = Path(__file__).parents[1]
OPTIONS = (("lr", 1e-3), ("kl_coef", 0.1))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of pre-trained models as ``benchmarks models`` writes it, random and tiny."""
    return tiny.write_models(tmp_path_factory.mktemp("models"), seeds=(0, 1))


@pytest.fixture(scope="module")
def records(models):
    """A run of every arm."""
    return {name: run(Cell("main", name, 0, 5, OPTIONS), SMALL, models) for name in ARMS}


def _agent(name, models, **options):
    return runs.make_agent(ARMS[name], SMALL, models / "0", 5, {"lr": 1e-2, **options})


# ---------------------------------------------------------------- arms


def test_every_arm_meets_the_same_problems_and_leaves_figures_and_a_curve(records):
    assert len({record["prompts_sha256"] for record in records.values()}) == 1
    for name, record in records.items():
        assert record["curve"]["episodes"] == [4, 8], name
        assert np.all(np.diff([0, *record["curve"]["cpu_s"]]) > 0), name
        assert {"reward", "reward_greedy", "pass@64", "token_kl", "arithmetic", "cross_entropy"} <= set(
            record["after"]
        ), name
        json.dumps(record, allow_nan=False)


def test_arms_over_one_base_start_as_the_same_policy_and_train_other_weights(records):
    start = {name: records[name]["before"] for name in ("token", "token-frozen", "token-lora")}
    assert start["token"] == start["token-frozen"] == start["token-lora"]
    assert start["token"]["token_kl"] == 0
    sizes = {name: records[name]["trained_parameters"] for name in records}
    assert sizes["token"] == sizes["token-truncated"] != sizes["token-frozen"] != sizes["token-lora"]
    assert sizes["latent"] == sizes["latent-sampled"] == sizes["pushforward"] == sizes["rank"]


def test_the_token_arm_trains_a_copy_of_the_base(models):
    agent = _agent("token", models)
    base = ARMS["token"].backbone(models / "0").model
    before = {name: p.clone() for name, p in base.named_parameters()}
    played = agent.evaluate(4)
    with torch.no_grad():
        at_base = base(played.ids).logits[played.mask]
    first = agent.actor.logits(agent.actor.features(played)[played.mask])
    torch.testing.assert_close(first, at_base[:, : first.shape[1]], atol=1e-4, rtol=0)
    batch = agent.same_for_all_actions(
        played, torch.arange(4.0) - 1.5, played.mask, {"frac_zero_advantage": 0.0}
    )
    agent.train_on(batch)
    assert not torch.equal(first, agent.actor.logits(agent.actor.features(played)[played.mask]))
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())


@pytest.mark.parametrize("name", ["latent", "token", "token-frozen", "rank"])
def test_no_arm_computes_more_than_it_needs(models, name, monkeypatch):
    """CPU seconds are compared: an arm's update runs its last layer at acting positions only."""
    agent = _agent(name, models)
    with torch.no_grad():
        if name == "token-frozen":
            agent.actor.out.weight.add_(0.1)
        rollout = agent.evaluate(4)
        every = agent.actor.features(rollout)[rollout.mask]
        monkeypatch.setattr(type(agent.actor.trunk), "forward", None)  # which runs the whole stack
        torch.testing.assert_close(agent.actor.acting(rollout), every, atol=1e-5, rtol=1e-5)


def test_a_policy_stack_on_a_frozen_base_learns_and_leaves_the_base_alone(models):
    agent = _agent("token-frozen", models)
    base = {name: p.clone() for name, p in agent.backbone.model.named_parameters()}
    rollout = agent.evaluate(4)
    first = agent.actor.logits(agent.actor.features(rollout)[rollout.mask])
    with torch.no_grad():
        assert torch.equal(first, agent.backbone.lm_head(rollout.hidden[rollout.mask])[:, : first.shape[1]])
    trunk = next(agent.actor.trunk.parameters()).clone()
    with torch.no_grad():
        agent.actor.out.weight.add_(0.1)
    agent.episodes.session.forget()
    rewarded = rollout.rewards[:, -1] + torch.arange(4)
    batch = agent.same_for_all_actions(
        rollout, rewarded - rewarded.mean(), rollout.mask, {"frac_zero_advantage": 0.0}
    )
    agent.train_on(batch)
    assert all(torch.equal(p, base[name]) for name, p in agent.backbone.model.named_parameters())
    assert not torch.equal(next(agent.actor.trunk.parameters()), trunk)
    # What is played is what is learned: cached step by step, and all positions at once.
    played = agent.evaluate(4)
    log_probs = agent.actor.logits(agent.actor.features(played)[played.mask]).log_softmax(-1)
    taken = log_probs.gather(-1, played.actions[played.mask][:, None])[:, 0]
    torch.testing.assert_close(taken, played.log_probs[played.mask], atol=1e-4, rtol=0)


def test_the_stack_on_a_frozen_base_has_the_shape_of_the_latent_policy(models, tmp_path):
    shutil.copytree(models / "0" / "base", tmp_path / "0" / "base")
    tiny.make_cola(num_codes=64, num_policy_layers=3).save_pretrained(tmp_path / "0" / "cola")
    tiny.make_tokenizer().save_pretrained(tmp_path / "0" / "cola")
    agent = runs.make_agent(ARMS["token-frozen"], SMALL, tmp_path / "0", 5, {})
    latent = runs.make_agent(ARMS["latent"], SMALL, tmp_path / "0", 5, {})
    assert len(agent.actor.trunk.layers) == len(latent.actor.trunk.layers) == 3


# ---------------------------------------------------------------- a model that is not bundled


def test_a_model_of_ones_own_is_measured_by_the_task_alone(tmp_path):
    """Its latent parts lie apart from the base, in several files."""
    own = tmp_path / "models" / "0"
    base = tiny.make_base(initializer_range=0.02)
    base.save_pretrained(own / "base")
    cola = CoLAForCausalLM.from_base(own / "base", **{**GROWTH, "num_policy_layers": 2})
    cola.save_pretrained(own / "cola", whole=False, max_shard_size=20_000)
    for folder in (own / "base", own / "cola"):
        tiny.make_tokenizer().save_pretrained(folder)
    assert len(list((own / "cola").glob("*.safetensors"))) > 1
    argv = ["compare", "--models", str(tmp_path / "models"), "--model-seeds", "0", "--seeds", "1"]
    argv += ["--arms", "latent", "token-lora", "token-frozen", "token", "--task-only", "--kl-episodes", "0"]
    argv += ["--given"]
    argv += [f"{arm}:lr=1e-3,kl_coef=0.1" for arm in ("latent", "token-lora", "token-frozen", "token")]
    argv += ["--env", "max_tokens=8", "--updates", "2", "--prompts", "2", "--group-size", "2"]
    argv += ["--episodes", "4", "--jobs", "1", "--dtype", "float32", "--device", "cpu"]
    assert main([*argv, "--out", str(tmp_path / "c")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "c" / "runs.jsonl").read_text().splitlines()]
    trained = [record for record in lines if record["phase"] == "main"]
    assert len(trained) == 4
    for record in trained:
        parts = {"format", "correct", "format_greedy", "correct_greedy"}
        measured = {"reward", "success", "reward_greedy", *parts}
        assert record["before"].keys() == record["after"].keys() == measured
        assert record["costs"]["update_s"] > 0
        assert record["costs"]["save_mib"] > 0
    sizes = {record["arm"]: record["costs"]["save_mib"] for record in trained}
    assert sizes["token-lora"] < sizes["token"]
    page = (tmp_path / "c" / "report.md").read_text()
    assert "## What a run took" in page
    assert "## What RL cost" not in page
    # Another base under the same codes is another comparison.
    tiny.make_base(7).save_pretrained(own / "base")
    assert main([*argv, "--out", str(tmp_path / "c")]) == 2


def test_the_form_and_the_right_answer_are_told_apart_where_a_task_pays_for_both(models, monkeypatch):
    agent = _agent("latent", models)
    played = agent.evaluate

    def told(*args, greedy=False, **options):
        rollout = played(*args, greedy=greedy, **options)
        for number, info in enumerate(rollout.infos):
            info |= {"format": greedy or number < 3, "correct": number == 3}
        return rollout

    monkeypatch.setattr(agent, "evaluate", told)
    protocol = replace(SMALL, task_only=True, kl_episodes=0)
    figures, _ = runs._measured(agent, protocol, 2)
    assert (figures["format"], figures["correct"]) == (0.75, 0.25)
    assert (figures["format_greedy"], figures["correct_greedy"]) == (1, 0.25)
    assert figures["success"] == 0
    assert "format_greedy" not in runs._measured(agent, protocol, 1)[0]


def test_a_task_that_pays_for_the_answer_alone_has_no_share_of_a_form(models):
    protocol = replace(SMALL, task="TextRooms", task_only=True, kl_episodes=0)
    record = run(Cell("main", "latent", 0, 5, OPTIONS), protocol, models)
    assert record["after"].keys() == {"reward", "success", "reward_greedy"}


def test_what_is_not_measured_cannot_be_kept():
    with pytest.raises(ValueError, match="keep 'nothing'"):
        _plan(protocol=replace(SMALL, task_only=True), keep="grammar")


def test_a_folder_that_is_older_than_a_setting_goes_on(models, fake_runs, tmp_path):
    campaign(_plan(), models, tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    for name in ("task_only", "device", "dtype"):
        del config["plan"]["protocol"][name]
    del config["plan"]["given"]
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    del fake_runs[:]
    campaign(_plan(), models, tmp_path / "c")
    assert not fake_runs
    with pytest.raises(ValueError, match="was begun with protocol="):
        campaign(_plan(protocol=replace(SMALL, task_only=True), keep=None), models, tmp_path / "c")


@pytest.mark.parametrize(
    ("task", "own", "held"),
    [
        ("Arithmetic", {"level": 2}, {"level": 2}),
        ("Arithmetic", {"max_tokens": 8}, {"level": 1, "max_tokens": 8}),
        ("Text", {"max_tokens": 8}, {"max_tokens": 8, "task": "StoryTask"}),
    ],
)
def test_runs_whose_side_effects_were_measured_on_other_tasks_get_no_further_arms(
    task, own, held, models, fake_runs, tmp_path
):
    """Records of before do not say on what; they were measured with the comparison's own level, say."""
    plan = _plan(protocol=replace(SMALL, task=task, env_kwargs=own), keep=None)
    folder = tmp_path / "c"
    campaign(plan, models, folder)
    config = json.loads((folder / "config.json").read_text())
    new = config.pop("probe")
    assert new == {"Arithmetic": {"level": 1}, "Text": {"task": "StoryTask"}}
    (folder / "config.json").write_text(json.dumps(config))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    del fake_runs[:]
    more = replace(plan, arms=(*plan.arms, "rank"))
    with pytest.raises(ValueError, match="another --out") as error:
        campaign(more, models, folder)
    for part in (json.dumps({**new, task: held}), json.dumps(new), "has no 'probe'", "benchmarks report"):
        assert part in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not fake_runs
    # What is said to have been measured as now goes on, and what is said to have been measured otherwise not.
    (folder / "config.json").write_text(json.dumps({**config, "probe": {**new, "Arithmetic": {"level": 3}}}))
    with pytest.raises(ValueError, match=r'measured on \{"Arithmetic": \{"level": 3\}') as error:
        campaign(more, models, folder)
    assert "no 'probe'" not in str(error.value)
    (folder / "config.json").write_text(json.dumps({**config, "probe": new}))
    campaign(more, models, folder)
    assert {cell.arm for cell in fake_runs} == {"rank"}


@pytest.mark.parametrize(
    "protocol",
    [
        SMALL,
        replace(SMALL, task="Arithmetic", env_kwargs={"level": 1, "prompt_format": "plain"}),
        replace(SMALL, task="Arithmetic", env_kwargs={"level": 2}, task_only=True, kl_episodes=0),
    ],
)
def test_older_folders_whose_side_effects_were_measured_as_now_or_not_at_all_go_on(
    protocol, models, fake_runs, tmp_path
):
    plan = _plan(protocol=protocol, keep=None)
    campaign(plan, models, tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    del config["probe"], fake_runs[:]
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    campaign(replace(plan, arms=(*plan.arms, "rank")), models, tmp_path / "c")
    assert {cell.arm for cell in fake_runs} == {"rank"}


@pytest.mark.parametrize("name", ["compare", "controls"])
def test_the_recorded_arithmetic_gets_no_further_arms(name):
    """Its probe asked level 2, as a fault made it; that of new runs asks level 1."""
    config = json.loads((ROOT / "benchmarks/results" / name / "arithmetic/config.json").read_text())
    now = {**config, "probe": runs.probe_of(runs.Protocol(**config["plan"]["protocol"]))}
    with pytest.raises(ValueError, match=r'were measured on \{"Arithmetic": \{"level": 2\}'):
        _check_probe(config, now, Path(name))


def test_a_record_says_on_what_its_side_effects_were_measured(records, models):
    assert all(one["probe"] == runs.probe_of(SMALL) for one in records.values())
    assert runs.probe_of(replace(SMALL, task_only=True, kl_episodes=0)) is None


# ---------------------------------------------------------------- pushforward


def test_groups_of_codes_are_what_the_world_model_says(models):
    backbone = ARMS["latent"].backbone(models / "0")
    session = backbone.session(2)
    session.load([0, 1], [[5, 9, 3], [7, 1]])
    tokens = session.outcomes([0, 1])[0][..., 0]
    groups = code_groups(backbone, session.last([0, 1]).clone()).numpy()
    for row in range(2):
        assert [list(tokens[row]).index(t) for t in tokens[row]] == groups[row].tolist()
    assert len(np.unique(groups[0])) < 64, "the model is to have codes that are alike"


def test_a_pushforward_is_the_sum_over_codes_and_so_is_its_gradient():
    torch.manual_seed(0)
    logits = torch.randn(3, 6, requires_grad=True)
    groups = torch.tensor([[0, 0, 2, 3, 2, 0], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0]])
    found = pushed(logits, groups)
    token = torch.nn.functional.one_hot(groups, 6).float()
    brute = torch.einsum("ma,mag->mg", logits.softmax(-1), token)
    taken = groups[:, 4]
    torch.testing.assert_close(found.exp().clamp_min(2 * EMPTY), brute.clamp_min(2 * EMPTY))
    (ours,) = torch.autograd.grad(found.gather(-1, taken[:, None]).sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(brute.gather(-1, taken[:, None]).log().sum(), logits)
    torch.testing.assert_close(ours, theirs)
    assert not ours[2].any(), "where all codes give one token there is nothing to learn"


def test_the_pushforward_arm_plays_as_the_latent_one_and_learns_otherwise(models):
    latent, pushforward = _agent("latent", models), _agent("pushforward", models)
    a, b = latent.play(*latent.draw_seeds(2, 4)), pushforward.play(*pushforward.draw_seeds(2, 4))
    assert torch.equal(a.ids, b.ids)
    assert (b.log_probs[b.mask] >= a.log_probs[a.mask] - 1e-5).all(), (
        "a token is at least as likely as a code"
    )
    assert (b.log_probs[b.mask] > a.log_probs[a.mask] + 1e-3).any()
    rewarded = torch.arange(8.0) - 3.5
    change = []
    for agent, rollout in ((latent, a), (pushforward, b)):
        before = agent.actor.head.weight.clone()
        figures = agent.train_on(agent.same_for_all_actions(rollout, rewarded, rollout.mask, {}))
        assert abs(figures["approx_kl"][0]) < 1e-6, "on-policy: the ratio is one"
        change.append(agent.actor.head.weight - before)
    assert not torch.allclose(*change)


# ---------------------------------------------------------------- KL in token space


def test_kl_in_token_space_sees_no_change_among_codes_of_one_token(models):
    agent = _agent("latent", models)
    rollout = agent.evaluate(2)
    assert token_kl(agent, rollout) == 0
    with torch.no_grad():
        agent.actor.head.weight.normal_(std=0.3)
    at, backbone = rollout.mask, agent.backbone
    groups = code_groups(backbone, rollout.hidden[at])
    ours = agent.actor.logits(agent.actor.features(rollout)[at])
    theirs = agent.policy.reference.logits(agent.policy.reference.features(rollout)[at])
    codes = categorical_kl(ours.log_softmax(-1), theirs.log_softmax(-1)).sum() / 2
    found = token_kl(agent, rollout)
    assert 0 < found < codes.item(), "merging outcomes loses divergence (data processing)"
    alone = torch.zeros_like(groups)
    assert categorical_kl(pushed(ours, alone), pushed(theirs, alone)).abs().max() < 1e-5


def test_kl_under_a_sampled_world_model_is_that_of_the_mixtures(models):
    backbone = ARMS["latent"].backbone(models / "0")
    torch.manual_seed(0)
    hidden, ours, theirs = torch.randn(3, 32), torch.randn(3, 64), torch.randn(3, 64)
    found = sampled_world_kl(backbone, hidden, ours, theirs)
    tokens = torch.arange(len(backbone.tokenizer))
    each = torch.stack(
        [
            torch.stack([backbone.compose(hidden, p.log_softmax(-1), t.expand(3)) for t in tokens], dim=-1)
            for p in (ours, theirs)
        ]
    )
    brute = categorical_kl(*each.log_softmax(-1))
    torch.testing.assert_close(found, brute, atol=1e-4, rtol=1e-3)


# ---------------------------------------------------------------- rank codes


def test_rank_i_is_the_bases_ith_likeliest_token(models):
    backbone = ARMS["rank"].backbone(models / "0")
    plain = LatentBackbone(backbone.model, backbone.tokenizer)
    assert backbone.fingerprint != plain.fingerprint
    session = backbone.session(2)
    session.load([0, 1], [[5, 9, 3], [7, 1]])
    logits = backbone.token_logits(session.last([0, 1]))
    ordered = logits.argsort(dim=-1, descending=True, stable=True)
    assert (ordered[:, :64] < len(backbone.tokenizer)).all()
    for rank in (0, 3, 63):
        tokens = [t[0] for t in session.decode([0, 1], np.array([rank, rank])).tokens]
        assert tokens == ordered[:, rank].tolist()
    assert session.outcomes([0, 1])[0][..., 0].tolist() == ordered[:, :64].tolist()
    log_actions = torch.randn(2, 64).log_softmax(-1)
    found = backbone.compose(session.last([0, 1]), log_actions, ordered[:, 5])
    torch.testing.assert_close(found, log_actions[:, 5])
    assert torch.isinf(backbone.compose(session.last([0, 1]), log_actions, ordered[:, 64])).all()


def test_ranks_are_cloned_and_tokens_without_one_do_not_count(models):
    model = ARMS["rank"].backbone(models / "0").model
    ids = torch.randint(tiny.TOKENIZER, (2, 6), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    targets[:, -1] = IGNORED
    batch = Batch(ids, targets, torch.arange(6).expand(2, -1), torch.zeros_like(ids))
    loss, _ = RankLoss(model)(batch, [])
    with torch.no_grad():
        h = model.hidden(ids)
        rank = ranks(model.lm_head(h), targets.clamp_min(0))
        counts = (targets != IGNORED) & (rank < 64)
        log_probs = model.policy(h).log_softmax(-1)
    assert 0 < counts.sum() < (targets != IGNORED).sum(), "some are to be beyond"
    expected = -log_probs[counts].gather(-1, rank[counts][:, None]).mean()
    torch.testing.assert_close(loss, expected)


def test_a_rank_backbone_acts_at_latent_level(models):
    backbone = ARMS["rank"].backbone(models / "0")
    assert isinstance(backbone, RankBackbone)
    assert backbone.level == "latent"
    assert backbone.action_space.n == 64


# ---------------------------------------------------------------- floors


def test_the_constant_code_is_the_best_of_all_on_training_problems(models, monkeypatch):
    played = []

    def play(protocol, backbone, split, logits, problems):
        played.append((split, logits, list(problems)))
        reward = torch.zeros(len(problems))
        reward[7 if split == "train" else 0] = 1.0
        return type("R", (), {"episode_rewards": reward})

    monkeypatch.setattr(runs, "_play", play)
    record = runs.run(Cell("floor", "constant-code", 0, 0), SMALL, models)
    assert record["code"] == 7
    split, logits, problems = played[-1]
    assert split == "test"
    assert (logits.argmax(-1) == 7).all()
    assert problems == list(range(runs.TEST_SEED, runs.TEST_SEED + 4))
    assert {split for split, _, _ in played[:-1]} == {"train"}


def test_floors_are_played_for_real(models):
    for name in runs.FLOORS:
        assert run(Cell("floor", name, 0, 0), SMALL, models)["after"]["reward"] == 0.0


def test_a_comparison_plays_the_floors_that_it_names(models, fake_runs, tmp_path):
    argv = ["compare", "--models", str(models), "--arms", "latent", "--out", str(tmp_path / "c")]
    argv += ["--jobs", "1", "--model-seeds", "0", "--given", "latent:lr=1e-3,kl_coef=0.1"]
    assert main([*argv, "--floors", "random-codes"]) == 0
    assert [cell.arm for cell in fake_runs if cell.phase == "floor"] == ["random-codes"]
    assert main(argv) == 0
    assert [cell.arm for cell in fake_runs if cell.phase == "floor"] == list(runs.FLOORS)
    with pytest.raises(ValueError, match="unknown floor 'constant': there are random-codes, constant-code"):
        _plan(floors=("constant",))
    with pytest.raises(ValueError, match="floors are given twice"):
        _plan(floors=("random-codes", "random-codes"))


def test_a_comparison_may_have_no_floor(models, fake_runs, tmp_path):
    argv = ["compare", "--models", str(models), "--arms", "latent", "--out", str(tmp_path / "c")]
    argv += ["--jobs", "1", "--model-seeds", "0", "--given", "latent:lr=1e-3,kl_coef=0.1"]
    assert main([*argv, "--floors"]) == 0
    assert {cell.phase for cell in fake_runs} == {"main"}


def test_a_comparison_goes_on_with_smaller_parts_of_a_gradient_step(models, fake_runs, tmp_path):
    given = {"latent": (1e-3, 0.1), "token": (1e-3, 0.1)}
    campaign(_plan(given=given), models, tmp_path / "c")
    del fake_runs[:]
    plan = _plan(given=given)
    campaign(replace(plan, protocol=replace(plan.protocol, micro_batch=2)), models, tmp_path / "c")
    assert not fake_runs
    assert json.loads((tmp_path / "c" / "config.json").read_text())["plan"]["protocol"]["micro_batch"] == 2


def test_a_gradient_step_in_parts_gives_the_same_run(models):
    whole, parts = (
        run(Cell("main", "latent", 0, 5, OPTIONS), replace(SMALL, micro_batch=size), models)
        for size in (None, 1)
    )
    assert parts["curve"]["reward"] == whole["curve"]["reward"]
    for protocol, size in ((SMALL, None), (replace(SMALL, micro_batch=1), 1)):
        agent = runs.make_agent(ARMS["token"], protocol, models / "0", 0, dict(OPTIONS))
        assert agent.options.micro_batch == size
        agent.close()


# ---------------------------------------------------------------- the search


def test_what_does_no_harm_comes_before_what_is_fast():
    assert scored(0.2, 0.01, 0.02) > scored(0.9, 0.03, 0.02) > scored(0.9, 0.3, 0.02)
    assert scored(0.3, None, 0.02) < scored(0.4, -0.1, 0.02)


def _tried(worth):
    return {setting: Score(True, value) for setting, value in worth.items()}


def test_the_grid_is_extended_while_its_edge_wins():
    assert len(first_settings((1.0, 3.0, 9.0))) == 6
    low = _tried({(1.0, 0.1): 0.9, (3.0, 0.1): 0.5, (1.0, 0.01): 0.1, (3.0, 0.01): 0.1})
    assert edges(low) == ["lr", "kl_coef"]
    assert next_setting(low) == (0.333, 0.1)
    high = _tried({(1.0, 0.1): 0.1, (3.0, 0.1): 0.5})
    assert next_setting(high) == (9.0, 0.1)
    only_kl = _tried({(1.0, 0.1): 0.1, (3.0, 0.1): 0.5, (9.0, 0.1): 0.2, (3.0, 0.01): 0.3})
    assert edges(only_kl) == ["kl_coef"]
    assert next_setting(only_kl) == (3.0, 0.316)


def test_a_best_setting_inside_the_grid_is_refined_towards_its_better_neighbour():
    scores = _tried({(1.0, 0.1): 0.1, (3.0, 0.1): 0.5, (9.0, 0.1): 0.2, (3.0, 0.01): 0.3, (3.0, 0.3): 0.0})
    assert edges(scores) == []
    assert best(scores) == (3.0, 0.1)
    assert next_setting(scores) == (5.2, 0.1)
    seen = dict(scores)
    for _ in range(20):
        setting = next_setting(seen)
        assert setting not in seen
        seen[setting] = Score(True, 0.0)


# ---------------------------------------------------------------- the campaign


def _plan(**changed):
    settings = {
        "protocol": SMALL,
        "arms": ("latent", "token"),
        "model_seeds": (0, 1),
        "seeds": 2,
        "tuning_models": 1,
        "keep": "arithmetic",
        "allowed": 0.02,
    }
    return Plan(**{**settings, **changed})


@pytest.fixture
def fake_runs(monkeypatch):
    """Runs that are made up, and the cells that were asked for; the best rate is the middle one, KL .1."""
    asked = []

    def made_up(cell, protocol, models):
        asked.append(cell)
        options = dict(cell.options)
        off = abs(math.log(options.get("lr", 1) / 1e-3)) + abs(math.log((options.get("kl_coef") or 1) / 0.1))
        height = round(1 / (1 + off), 4)
        return {
            **cell.key(),
            "curve": {"episodes": [4, 8], "cpu_s": [1, 2], "reward": [height, height]},
            "before": {"arithmetic": 0.5},
            "after": {"arithmetic": 0.5, "reward": height},
        }

    monkeypatch.setattr(campaigns, "run", made_up)
    return asked


@pytest.mark.parametrize(
    ("given", "count"),
    [([], 2), (["--model-seeds", "3"], 1), (["--model-seeds", "0", "1", "--tuning-models", "1"], 1)],
)
def test_options_are_searched_on_two_models_unless_there_is_one(given, count, tmp_path, monkeypatch):
    plans = []
    monkeypatch.setattr(campaigns, "campaign", lambda plan, *args, **kwargs: plans.append(plan))
    monkeypatch.setattr("benchmarks.compare.report.write_report", str)
    assert main(["compare", "--models", "models", *given, "--out", str(tmp_path / "c")]) == 0
    assert [plan.tuning_models for plan in plans] == [count]


def test_a_campaign_searches_equally_and_reports_on_other_seeds(models, fake_runs, tmp_path):
    campaign(_plan(), models, tmp_path / "c", frontier=[0.0])
    by = {
        phase: [c for c in fake_runs if c.phase == phase] for phase in ("floor", "tuning", "main", "frontier")
    }
    assert len(by["floor"]) == 4
    counts = {arm: sum(c.arm == arm for c in by["tuning"]) for arm in ("latent", "token")}
    assert counts["latent"] == counts["token"] >= 6
    assert {c.options for c in by["main"]} == {(("lr", 1e-3), ("kl_coef", 0.1))}
    assert len(by["main"]) == 2 * 2 * 2
    assert not {c.seed for c in by["tuning"]} & {c.seed for c in by["main"]}
    pairs = {arm: [(c.model_seed, c.seed) for c in by["main"] if c.arm == arm] for arm in counts}
    assert pairs["latent"] == pairs["token"]
    assert {c.options[1] for c in by["frontier"]} == {("kl_coef", 0.0)}


def test_options_that_are_given_are_not_searched_for(models, fake_runs, tmp_path):
    given = {"latent": (2e-3, 0.1)}
    campaign(_plan(given=given), models, tmp_path / "c")
    assert {cell.arm for cell in fake_runs if cell.phase == "tuning"} == {"token"}
    ran = {cell.arm: dict(cell.options) for cell in fake_runs if cell.phase == "main"}
    assert ran == {"latent": {"lr": 2e-3, "kl_coef": 0.1}, "token": {"lr": 1e-3, "kl_coef": 0.1}}
    page = write_report(tmp_path / "c")
    assert "options that were given and not searched for: `latent`" in page
    del fake_runs[:]
    campaign(_plan(given=given), models, tmp_path / "c")
    assert not fake_runs
    with pytest.raises(ValueError, match=r"began with lr 0\.002 and KL 0\.1"):
        campaign(_plan(given={"latent": (1e-3, 0.1)}), models, tmp_path / "c")
    with pytest.raises(ValueError, match="none of the arms"):
        _plan(given={"rank": (1e-3, 0.1)})


def test_a_search_among_candidates_tries_these_alone(models, fake_runs, tmp_path):
    candidates = {"latent": ((1e-3, 0.01), (3e-3, 0.01)), "token": ((1e-5, 0.01), (1e-4, 0.01))}
    protocol = replace(_plan().protocol, tuning_updates=3)
    plan = _plan(candidates=candidates, protocol=protocol)
    campaign(plan, models, tmp_path / "c")
    tried = {
        arm: {cell.options for cell in fake_runs if cell.phase == "tuning" and cell.arm == arm}
        for arm in candidates
    }
    assert tried == {
        arm: {(("lr", lr), ("kl_coef", kl)) for lr, kl in settings} for arm, settings in candidates.items()
    }
    ran = {cell.arm: dict(cell.options)["lr"] for cell in fake_runs if cell.phase == "main"}
    assert ran == {"latent": 1e-3, "token": 1e-4}
    page = write_report(tmp_path / "c")
    assert "searched on runs of 3 updates on other RL seeds over model 0" in page
    assert "2 settings an arm, an edge still winning for `latent` (lr), `token` (lr)" in page
    del fake_runs[:]
    campaign(plan, models, tmp_path / "c")
    assert not fake_runs


def test_a_candidate_that_is_named_twice_is_one(models, fake_runs, tmp_path):
    pair = ((1e-3, 0.01), (3e-3, 0.01))
    campaign(_plan(candidates={"latent": (*pair, pair[0]), "token": pair}), models, tmp_path / "c")
    assert sum(cell.phase == "tuning" for cell in fake_runs) == 4
    held = json.loads((tmp_path / "c" / "config.json").read_text())
    assert {one["settings"] for one in held["chosen"].values()} == {2}
    assert held["plan"]["candidates"]["latent"] == [list(setting) for setting in pair]
    assert "2 settings an arm" in write_report(tmp_path / "c")
    # An arm that joins gets as many distinct ones as the others had, however often one is named.
    joining = {"latent": pair, "token": pair, "rank": (*pair, pair[1])}
    campaign(_plan(arms=("latent", "token", "rank"), candidates=joining), models, tmp_path / "c")


def test_arms_are_searched_among_as_many_candidates():
    pair = ((1e-3, 0.01), (3e-3, 0.01))
    for candidates in (
        {"latent": pair},
        {"latent": pair, "token": (*pair, (1e-2, 0.01))},
        {"latent": pair, "token": (pair[0], pair[0])},
    ):
        with pytest.raises(ValueError, match=r"as many different candidates, .* latent: 2, token: [013]"):
            _plan(candidates=candidates)
    with pytest.raises(ValueError, match="leave one out"):
        _plan(candidates={"latent": pair, "token": pair}, given={"latent": pair[0]})
    with pytest.raises(ValueError, match="none of the arms"):
        _plan(candidates={"rank": pair})
    assert _plan(candidates={"latent": pair}, given={"token": pair[0]}).given


def test_a_run_of_the_search_makes_as_many_updates_as_it_is_told(models):
    """``tuning_updates`` holds for runs of the search, ``updates`` for the others."""
    protocol = replace(SMALL, tuning_updates=1)
    for phase, updates in (("tuning", 1), ("main", SMALL.updates)):
        record = run(Cell(phase, "latent", 0, 5, OPTIONS), protocol, models)
        assert len(record["curve"]["reward"]) == updates


def test_a_comparison_may_be_given_all_of_its_options(models, fake_runs, tmp_path):
    campaign(_plan(given={"latent": (1e-3, 0.1), "token": (1e-3, 0.01)}), models, tmp_path / "c")
    assert {cell.phase for cell in fake_runs} == {"floor", "main"}
    page = write_report(tmp_path / "c")
    assert "searched on" not in page
    assert "not searched for: `latent`, `token`" in page


@pytest.mark.parametrize("text", ["latent", "latent:lr=1", "latent:lr=1,kl_coef=x", "latent:lr=1,kl=2"])
def test_given_options_that_are_not_the_two_are_refused(models, tmp_path, text, capsys):
    argv = ["compare", "--models", str(models), "--arms", "latent", "--out", str(tmp_path / "c")]
    assert main([*argv, "--given", text]) == 2
    assert "lr=RATE,kl_coef=WEIGHT" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("changed", [{"arms": ("latent", "latent")}, {"model_seeds": (0, 0)}])
def test_what_is_named_twice_is_refused_before_anything_runs(changed):
    with pytest.raises(ValueError, match="given twice"):
        _plan(**changed)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--frontier=-1", "at least 0"),
        ("--kl-episodes=-1", "at least 0"),
        ("--warmup=-1", "at least 0"),
        ("--env=split=train", "sets split itself"),
        ("--env=foo=1", "unknown keyword argument 'foo'"),
    ],
)
def test_bad_settings_end_in_a_sentence(models, tmp_path, argument, message, capsys):
    argv = [
        "compare",
        "--models",
        str(models),
        "--arms",
        "latent",
        "--model-seeds",
        "0",
        "--tuning-models",
        "1",
    ]
    assert main([*argv, "--jobs", "1", "--out", str(tmp_path / "c"), argument]) == 2
    assert message in capsys.readouterr().err


def test_a_weight_of_the_frontier_that_is_given_twice_runs_once(models, fake_runs, tmp_path):
    campaign(_plan(), models, tmp_path / "c", frontier=[0.0, 0.0])
    ran = [cell for cell in fake_runs if cell.phase == "frontier"]
    assert len(ran) == len(set(ran)) == 4
    write_report(tmp_path / "c")


def test_settings_that_are_very_close_leave_room_between_them():
    scores = _tried(
        {(1.0, 0.1): 0.1, (1.01, 0.1): 0.5, (1.02, 0.1): 0.2, (1.01, 0.01): 0.3, (1.01, 1.0): 0.0}
    )
    seen = dict(scores)
    for _ in range(60):
        setting = next_setting(seen)
        assert setting not in seen
        seen[setting] = Score(True, 0.0)


def test_an_interrupted_campaign_goes_on_to_the_same_records(models, fake_runs, tmp_path, monkeypatch):
    campaign(_plan(), models, tmp_path / "whole")
    whole, count = (tmp_path / "whole/runs.jsonl").read_text(), len(fake_runs)
    made_up = campaigns.run

    def stopped(cell, protocol, models):
        if len(fake_runs) == count + 20:
            raise KeyboardInterrupt
        return made_up(cell, protocol, models)

    monkeypatch.setattr(campaigns, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        campaign(_plan(), models, tmp_path / "part")
    with (tmp_path / "part/runs.jsonl").open("a") as file:
        file.write('{"phase": "main", "ar')  # as a process leaves it that is killed while writing
    monkeypatch.setattr(campaigns, "run", made_up)
    campaign(_plan(), models, tmp_path / "part")
    assert (tmp_path / "part/runs.jsonl").read_text() == whole
    assert len(fake_runs) == 2 * count
    campaign(_plan(seeds=3), models, tmp_path / "part")
    assert len(fake_runs) == 2 * count + 4, "more seeds are added to what is there"


def test_an_arm_that_joins_a_comparison_is_searched_as_much_and_nothing_runs_again(
    models, fake_runs, tmp_path
):
    campaign(_plan(arms=("latent",)), models, tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    searched = config["chosen"]["latent"]["settings"]
    assert searched == sum(cell.phase == "tuning" for cell in fake_runs)
    # Two more than the arm that joins would be given by itself.
    searched = config["chosen"]["latent"]["settings"] = searched + 2
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    del fake_runs[:]
    campaign(_plan(arms=("latent", "token-longer")), models, tmp_path / "c")
    assert {cell.arm for cell in fake_runs} == {"token-longer"}
    assert sum(cell.phase == "tuning" for cell in fake_runs) == searched
    joined = json.loads((tmp_path / "c" / "config.json").read_text())
    assert joined["chosen"]["latent"] == config["chosen"]["latent"]
    assert joined["chosen"]["token-longer"]["settings"] == joined["chosen"]["latent"]["settings"]
    assert joined["models"]["0"].keys() == {"cola", "longer"}
    # Fewer arms, models and seeds later lose nothing of what is known about the others.
    campaign(_plan(arms=("latent",), model_seeds=(0,), seeds=1), models, tmp_path / "c")
    later = json.loads((tmp_path / "c" / "config.json").read_text())
    for name in ("models", "arms", "model_seeds", "seeds", "arms_are", "plan"):
        assert later[name] == joined[name], name


def test_a_folder_of_another_plan_is_refused(models, fake_runs, tmp_path):
    campaign(_plan(), models, tmp_path / "c")
    del fake_runs[:]
    with pytest.raises(ValueError, match=r"was begun with allowed=0\.02 and is now to go on with 0\.5"):
        campaign(_plan(allowed=0.5), models, tmp_path / "c")


def test_a_campaign_says_what_is_missing_before_it_begins(models, fake_runs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model 7/.*benchmarks models --seeds 7"):
        campaign(_plan(model_seeds=(0, 7)), models, tmp_path / "c")
    few = shutil.copytree(models, tmp_path / "few")
    for kind, option in (("longer", "--controls"), ("span-4", "--variants span-4")):
        shutil.rmtree(few / "1" / kind)
        arm = next(name for name, one in ARMS.items() if one.model == kind)
        with pytest.raises(FileNotFoundError, match=rf"no model 1/{kind}.*models --seeds 1 {option}`"):
            campaign(_plan(arms=(arm,)), few, tmp_path / "c")
    with pytest.raises(ValueError, match="unknown arm 'tokens': there are latent, "):
        _plan(arms=("latent", "tokens"))
    with pytest.raises(ValueError, match="at least one seed"):
        _plan(seeds=0)
    for keep in ("grammer", "cross_entropy", "token_kl"):
        with pytest.raises(ValueError, match=rf"can keep arithmetic, .* or 'nothing', got '{keep}'"):
            _plan(keep=keep)
    with pytest.raises(ValueError, match="begins with a grid of 6 settings an arm, got 2"):
        _plan(settings=2)
    with pytest.raises(ValueError, match=r"model seeds go from 0 to 69.*got model seeds \[0, 90\]"):
        _plan(model_seeds=(0, 90))
    with pytest.raises(ValueError, match="at least one job"):
        campaign(_plan(), models, tmp_path / "c", jobs=0)
    assert not fake_runs


def test_a_model_whose_runs_are_recorded_may_be_gone(models, fake_runs, tmp_path):
    few = shutil.copytree(models, tmp_path / "models")
    campaign(_plan(), few, tmp_path / "c")
    config = (tmp_path / "c" / "config.json").read_text()
    shutil.rmtree(few / "1")
    campaign(_plan(), few, tmp_path / "c")
    assert json.loads((tmp_path / "c" / "config.json").read_text())["models"] == json.loads(config)["models"]
    count = len(fake_runs)
    with pytest.raises(FileNotFoundError, match=r"no model 1/.*benchmarks models --seeds 1"):
        campaign(_plan(seeds=3), few, tmp_path / "c")
    assert len(fake_runs) == count, "nothing runs before what is missing is said"


def test_two_processes_make_the_records_of_one(models, tmp_path):
    plan = _plan(arms=("latent",), seeds=1)
    for jobs in (1, 2):
        journal = Journal(tmp_path / str(jobs), campaigns._described(plan, models))
        cells = [Cell("main", "latent", model, 3, OPTIONS) for model in (0, 1)]
        with campaigns._Workers(SMALL, models, journal, jobs) as workers:
            workers.do("runs", cells)

    def kept(jobs):
        lines = (tmp_path / str(jobs) / "runs.jsonl").read_text().splitlines()
        found = sorted(map(json.loads, lines), key=lambda record: record["model_seed"])
        for record in found:
            del record["costs"], record["cpu_s"], record["wall_s"], record["curve"]["cpu_s"]
        return found

    assert kept(1) == kept(2)


def test_a_campaigns_processes_end_with_it_even_when_it_is_killed(tmp_path):
    script = tmp_path / "campaign.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from benchmarks.compare.campaign import _begin\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _begin)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    root = Path(campaigns.__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
        text=True,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while _runs(worker):
        assert time.monotonic() < deadline, "the worker outlived its campaign"
        time.sleep(0.1)


def _runs(pid):
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---------------------------------------------------------------- damaged, held by another, ended by SIGTERM


@pytest.mark.parametrize(
    "raw", [b"\0" * 30, b"null", b'{"phase": "ma', b'{"a": "\xff"}', b"{}", b"[" * 100_000]
)
def test_a_damaged_record_is_made_again_at_the_end_and_named_in_the_middle(raw, models, fake_runs, tmp_path):
    campaign(_plan(), models, tmp_path / "c")
    path = tmp_path / "c" / "runs.jsonl"
    whole, count = path.read_bytes(), len(fake_runs)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + raw + b"\n")
    campaign(_plan(), models, tmp_path / "c")
    assert path.read_bytes() == whole
    assert len(fake_runs) == count + 1
    path.write_bytes(b"".join([*lines[:2], raw + b"\n", *lines[3:]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 3"):
        campaign(_plan(), models, tmp_path / "c")
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "null", "[", '{"plan": 1, "models": {}}', '{"plan": {}}', "\0\0"])
def test_a_damaged_configuration_is_named_and_left_alone(content, models, fake_runs, tmp_path):
    campaign(_plan(), models, tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        campaign(_plan(), models, tmp_path / "c")
    assert (tmp_path / "c" / "config.json").read_text() == content


def test_a_second_campaign_in_a_folder_is_refused_with_the_name_of_the_first(models, fake_runs, tmp_path):
    child = hold(tmp_path / "c", "folder")
    try:
        with pytest.raises(InUseError, match=f"is being written by process {child} on"):
            campaign(_plan(), models, tmp_path / "c")
        assert [path.name for path in (tmp_path / "c").iterdir()] == [LOCK]
        assert not fake_runs
    finally:
        os.kill(child, signal.SIGKILL)
        status_of(child)


def test_sigterm_ends_a_campaign_of_two_processes_at_once(models, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "compare", "--models", str(models), "--out", str(tmp_path)]
    small = ["--arms", "latent", "--model-seeds", "0", "--tuning-models", "1", "--jobs", "2"]
    with subprocess.Popen([*command, *small], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (tmp_path / "config.json").is_file():
            time.sleep(0.05)
        time.sleep(1)
        process.terminate()
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 143, told
    assert "benchmarks: stopped" in told
    assert not (tmp_path / LOCK).exists()
