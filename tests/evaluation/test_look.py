"""What `cola look` collects: the numbers are the recording's, the agent's and the model's own."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from cola_agents import PPO
from cola_agents.cli import main
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.evaluation.inspection import inspect_codebook
from cola_agents.evaluation.look.book import NODES, codebook, curves, samples, specific_information, tree
from cola_agents.evaluation.look.filling import Wanted
from cola_agents.evaluation.look.sources import look
from cola_agents.search import MCTS, SearchConfig
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_envs.page.log import EpisodeLog, Words
from cola_envs.page.write import LARGEST, page
from cola_envs.shown import shown
from tests import tiny

BARE = {"positions": 2, "simulations": 0, "tokens": 0}


def recorded(folder: Path, *more: str, task: str = "CoLA-Thinking-v0") -> tuple[Path, list[dict[str, Any]]]:
    """A recording of two tries at each of two problems, and its episodes."""
    path = folder / "tries.jsonl"
    made = ["generate", "--task", task, "--problems", "2", "--n", "2", "--out", str(path), *more]
    assert main(made) == 0
    return path, [json.loads(line) for line in path.read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """One in which every step is paid for."""
    return recorded(tmp_path_factory.mktemp("recorded"), "--set", "prior_coef=0.01")


def test_a_recordings_numbers_are_its_own(recording: tuple[Path, list[dict[str, Any]]]) -> None:
    path, episodes = recording
    data = look(path, Wanted(**BARE))
    shown = [one for one in data["episodes"] if one["level"] == "latent"]
    assert len(shown) == len(episodes) == 4
    for told, episode in zip(shown, episodes, strict=True):
        assert [step["action"] for step in told["steps"]] == episode["actions"]
        assert [step["log_prob"] for step in told["steps"]] == episode["log_probs"]
        assert [step["reward"] for step in told["steps"]] == episode["rewards"]
        assert told["seed"] == str(episode["seed"])
        assert "".join(piece["text"] for piece in told["pieces"][1:]) == episode["info"]["text"]
        for step in told["steps"]:
            table = step["table"]
            taken = table["policy"][table["codes"].index(step["action"])]
            assert taken == pytest.approx(math.exp(step["log_prob"]), abs=1e-4)


def test_another_code_leads_where_the_environment_leads(recording: tuple[Path, list[dict[str, Any]]]) -> None:
    path, episodes = recording
    told = look(path, Wanted(**BARE))["episodes"][0]
    env: Any = gym.make("CoLA-Thinking-v0", prior_coef=0.01).unwrapped
    forks = [at for at, step in enumerate(told["steps"]) if "others" in step]
    assert len(forks) == 2
    for at in forks:
        assert len({other["token"] for other in told["steps"][at]["others"]}) > 1
        for other in told["steps"][at]["others"]:
            options = {"problem_seed": episodes[0]["problem_seed"]}
            env.reset(seed=episodes[0]["seed"], options=options)
            total = sum(env.step(action)[1] for action in episodes[0]["actions"][:at])
            before = len(env.episodes.tokens(0))
            action = other["code"]
            for _ in range(other["steps"]):
                _, reward, terminated, truncated, _ = env.step(action)
                total += reward
                action = int(env.episodes.session.prior([0])[0].argmax())
            text = env.episodes.backbone.tokenizer.decode(env.episodes.tokens(0)[before:])
            assert "".join(run["text"] for run in other["runs"]) == text
            assert other["ended"] == (terminated or truncated)
            assert other["reward"] == pytest.approx(total, abs=1e-6)


def test_tables_are_kept_where_they_say_most_and_futures_need_theirs(
    recording: tuple[Path, list[dict[str, Any]]],
) -> None:
    wanted = Wanted(episodes=1, positions=2, tables=6, simulations=0, tokens=0)
    told = look(recording[0], wanted)["episodes"][0]
    assert sum("table" in step for step in told["steps"]) == 3
    assert all("table" in step for step in told["steps"] if "others" in step)


def test_a_recording_of_another_model_or_agent_is_refused(
    recording: tuple[Path, list[dict[str, Any]]], trained: Path, tmp_path: Path
) -> None:
    head, *lines = recording[0].read_text().splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({**json.loads(head), "fingerprint": "0" * 64}) + "\n" + "".join(lines))
    with pytest.raises(ValueError, match="recorded with a model of fingerprint 000000000000"):
        look(other, Wanted(**BARE))
    episode = json.loads(lines[0])
    ids = [*episode["ids"][:-1], 5]
    other.write_text(head + json.dumps({**episode, "ids": ids}) + "\n")
    with pytest.raises(ValueError, match="is not played the same here"):
        look(other, Wanted(**BARE))
    with pytest.raises(ValueError, match="was not recorded with the agent in"):
        look(recording[0], Wanted(**BARE), agent=trained)


def test_a_recording_of_an_agent_tells_the_policy_only_where_the_agent_is_given(
    trained: Path, tmp_path: Path
) -> None:
    path, _ = recorded(tmp_path, "--agent", str(trained))
    alone = look(path, Wanted(**BARE))["episodes"][0]["steps"][0]["table"]
    assert "policy" not in alone
    beside = look(path, Wanted(**BARE), agent=trained)["episodes"][0]["steps"]
    for step in beside:
        table = step["table"]
        taken = table["policy"][table["codes"].index(step["action"])]
        assert taken == pytest.approx(math.exp(step["log_prob"]), abs=1e-4)
        assert "prior" in table


def test_a_runs_episodes_are_judged_by_its_own_agent(trained: Path) -> None:
    data = look(trained, Wanted(episodes=3, **BARE))
    agent = PPO.load(trained)
    batch = agent.batch()
    seeds = {str(seed): number for number, seed in enumerate(batch.rollout.seeds)}
    shown = [one for one in data["episodes"] if one["level"] == "latent"]
    assert len(shown) == 3
    for told in shown:
        number = seeds[told["seed"]]
        at = batch.rollout.mask[number]
        for name, values in (("value", batch.values), ("advantage", batch.advantages)):
            assert values is not None
            given = [step[name] for step in told["steps"]]
            np.testing.assert_allclose(given, values[number, at].tolist(), atol=1e-5)
    assert data["run"]["curves"][0]["name"] == "reward"
    history = [record["reward"] for record in agent.history]
    assert data["run"]["curves"][0]["y"] == history
    logged = [json.loads(line) for line in (trained / "logs" / "progress.json").read_text().splitlines()]
    assert [one["text"] for one in data["run"]["samples"]] == [row["sample/text"] for row in logged]
    assert {pair["left"] for pair in data["pairs"]} == {0, 1, 2}
    agent.close()


def test_samples_are_read_from_csv_where_there_is_no_json(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_bytes((trained / "logs" / "progress.csv").read_bytes())
    assert samples(tmp_path) == samples(trained / "logs")
    assert samples(tmp_path / "nowhere") == []
    (log,) = (tmp_path / "damaged").mkdir() or [tmp_path / "damaged" / "progress.json"]
    whole = {"sample/text": "a", "time/total_timesteps": 3}
    log.write_text(json.dumps(whole) + '\n{"sample/te\n' + json.dumps({**whole, "time/total_timesteps": 5}))
    assert [one["timesteps"] for one in samples(tmp_path / "damaged")] == [3, 5]


def test_curves_leave_out_what_never_changes_and_say_none_where_nothing_was_told() -> None:
    history = [
        {"update": 1, "timesteps": 10, "episodes": 2, "clip": 0.2, "reward": 0.0, "kl": 0.5},
        {"update": 2, "timesteps": 20, "episodes": 4, "clip": 0.2, "reward": 1.0},
        {"update": 3, "timesteps": 30, "episodes": 6, "clip": 0.2, "reward": math.nan, "kl": 0.25},
    ]
    assert curves(history) == [
        {"name": "reward", "x": [10, 20, 30], "y": [0.0, 1.0, None]},
        {"name": "kl", "x": [10, 20, 30], "y": [0.5, None, 0.25]},
    ]


def test_what_codes_tell_of_the_next_token_adds_up_to_the_mutual_information() -> None:
    joint = torch.tensor([[8, 0, 0], [0, 4, 4], [0, 0, 0]])
    assert specific_information(joint, 2) == 0.0
    uses = joint.sum(1) / joint.sum()
    total = sum(float(uses[code]) * specific_information(joint, code) for code in range(3))
    assert total == pytest.approx(math.log(2))


def test_the_codebook_is_the_inspections(latent_backbone: Any) -> None:
    found = inspect_codebook(latent_backbone, documents(HELD_OUT), tokens=300)
    told = codebook(found)
    assert [code["uses"] for code in told["codes"]] == [code.uses for code in found.codes]
    mean = sum(code["share"] * code["information"] for code in told["codes"])
    assert mean == pytest.approx(found.metrics.mutual_information, abs=1e-6)


def test_a_tree_is_told_with_parents_before_their_children() -> None:
    solver = MCTS("CoLA-Arithmetic-v0", SearchConfig(simulations=20), env_kwargs={"max_tokens": 12})
    found = solver.solve([0])
    told = tree(found, solver.episodes.backbone.tokenizer, "a tree")
    nodes = told["nodes"]
    assert len(nodes) == min(NODES, len(found.trees[0]))
    assert nodes[0]["visits"] == found.trees[0].visits(0)
    for number, node in enumerate(nodes[1:], 1):
        assert 0 <= node["parent"] < number
        assert node["depth"] == nodes[node["parent"]]["depth"] + 1
        assert node["visits"] <= nodes[node["parent"]]["visits"]
    assert all(node["more"] == 0 for node in nodes)
    solver.close()


@pytest.mark.parametrize("task", ["CoLA-TextRooms-v0", "CoLA-Arithmetic-Token-v0"])
def test_other_tasks_and_levels_make_a_page(task: str) -> None:
    data = look(None, Wanted(episodes=1, positions=1, simulations=4, tokens=0), task=task)
    text = page(data)
    assert len(text) < LARGEST
    futures = [other for step in data["episodes"][0]["steps"] for other in step.get("others", ())]
    assert futures
    for other in futures:
        assert other["runs"][0]["own"]
        assert all(a["own"] != b["own"] for a, b in pairwise(other["runs"]))
    assert len(data["episodes"]) == (1 if "Token" in task else 2)


def test_a_world_that_is_drawn_makes_a_page() -> None:
    told = look(
        None, Wanted(episodes=1, **BARE), task="CoLA-Thinking-v0", env_kwargs={"world_temperature": 1.0}
    )
    assert told["episodes"][0]["world_temperature"] == 1.0


def test_the_command_writes_one_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "look.html"
    few = ["--episodes", "1", "--positions", "1", "--tokens", "0", "--simulations", "0"]
    assert main(["look", "--out", str(out), *few]) == 0
    assert re.search(r"Wrote .*look\.html \(0\.\d MB\)", capsys.readouterr().out)
    assert [path.name for path in out.parent.iterdir()] == ["look.html"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.jsonl"], "is no file; `cola generate` makes one"),
        (["--agent", "somewhere"], "--agent means nothing to what is no recording"),
        (["--model", "other"], "--model means nothing to a model"),
        (["--episodes", "0"], "--episodes must be at least 1, got 0"),
        (["--tokens", "-1"], "--tokens must not be negative, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "look.html"
    assert main(["look", *arguments, "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_runs_own_arguments_are_not_given_anew(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"--task, --env level=\.\.\. means nothing to a run"):
        look(trained, Wanted(**BARE), task="CoLA-Arithmetic-v0", env_kwargs={"level": 2})


def test_a_step_over_codes_of_several_tokens_tells_what_each_would_write_whole() -> None:
    tokenizer = tiny.make_tokenizer()
    backbone = LatentBackbone(tiny.make_cola(span=3), tokenizer)
    env: Any = gym.make("CoLA-Arithmetic-v0", model=backbone, max_tokens=12).unwrapped
    env.reset(seed=0)
    words = Words()
    log = EpisodeLog(env.episodes, 0, words)
    seen = 0
    for action in (3, 0, 5):
        state = env.snapshot()
        log.look(action)
        table = log.steps[-1]["table"]
        for code, number in zip(table["codes"], table["tokens"], strict=True):
            env.restore(state)
            _, _, _, _, info = env.step(code)
            ids = list(info.get("tokens", (info["token"],)))
            text = tokenizer.decode([one for one in ids if one != tokenizer.eos_token_id])
            assert words.texts[number] == shown(text + "<end>" * (ids[-1] == tokenizer.eos_token_id))
            seen = max(seen, len(ids))
        env.restore(state)
        log.paid(*env.step(action)[1:])
    assert seen == 3
    assert log.as_dict("one")["span"] == 3


def test_arguments_of_the_environment_are_taken_as_those_of_evaluate_are() -> None:
    wanted = Wanted(episodes=1, **BARE)
    told = look(None, wanted, env_kwargs={"max_tokens": 3})
    with pytest.warns(DeprecationWarning, match=r"look takes .* as env_kwargs=\{'max_tokens': 3\}"):
        assert look(None, wanted, max_tokens=3) == told
    with pytest.raises(TypeError, match="unknown keyword argument 'levle'"):
        look(None, wanted, env_kwargs={"levle": 3})
    with pytest.raises(TypeError, match="look got 'max_tokens' twice"):
        look(None, wanted, env_kwargs={"max_tokens": 3}, max_tokens=3)
