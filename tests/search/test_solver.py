"""The search as an agent: over a task's problems, shown to people, and behind the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from cola_agents.cli import main
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.search import (
    MCTS,
    MCTSQConfig,
    QFunction,
    SearchConfig,
    draw_tree,
    likelihood_judge,
    tree_text,
)
from tests import tiny

TASK = "CoLA-Arithmetic-v0"


@pytest.fixture(scope="module")
def q_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Q-function that the commands made: generate, then pretrain q."""
    folder = tmp_path_factory.mktemp("q")
    data = str(folder / "episodes.jsonl")
    assert main(["generate", "--task", TASK, "--out", data, "--problems", "24", "--n", "4"]) == 0
    argv = ["pretrain", "q", "--data", data, "--out", str(folder / "q"), "--steps", "20", "--rows", "32"]
    assert main(argv) == 0
    return str(folder / "q")


def test_more_problems_than_trees_are_solved_in_their_order() -> None:
    config = SearchConfig(simulations=3)
    solver = MCTS(TASK, config, num_trees=4, env_kwargs={"level": 2})
    result = solver.solve(range(10, 16))
    assert result.visits.shape == (6, 64)
    assert len(result.trees) == len(result.answers) == 6
    np.testing.assert_array_equal(result.simulations, np.full(6, 3))
    assert solver.solve([14, 15]).lines == result.lines[4:]
    solver.close()


def test_what_is_found_of_a_problem_depends_on_no_other() -> None:
    config = SearchConfig(simulations=6, noise=0.3)
    results = []
    for trees, seeds in ((2, [3, 4, 5]), (8, [5, 4, 3])):
        solver = MCTS(TASK, config, num_trees=trees, env_kwargs={"level": 2, "world_temperature": 1.0})
        results.append(solver.solve(seeds))
        solver.close()
    one, other = results
    assert one.lines == other.lines[::-1]
    assert [[e.text for e in endings] for endings in one.endings] == [
        [e.text for e in endings] for endings in other.endings[::-1]
    ]
    assert len({endings[0].actions for endings in one.endings}) == 3


def test_problems_that_are_solved_survive_an_interrupt_and_an_error(monkeypatch) -> None:
    solver = MCTS(TASK, SearchConfig(simulations=3), num_trees=2, env_kwargs={"level": 2})
    whole = solver.solve([1, 2])
    reset, calls = solver.episodes.reset, []

    def failing(error: BaseException):
        def run(*given):
            calls.append(1)
            if len(calls) == 2:
                raise error
            return reset(*given)

        calls.clear()
        monkeypatch.setattr(solver.episodes, "reset", run)

    failing(KeyboardInterrupt())
    result = solver.solve([1, 2, 3, 4])
    assert result.interrupted
    assert result.lines == whole.lines
    failing(OSError("the engine is gone"))
    with pytest.raises(OSError, match="engine is gone") as raised:
        solver.solve([1, 2, 3, 4])
    assert raised.value.partial_result.lines == whole.lines
    calls.append(1)
    failing(KeyboardInterrupt())
    calls.append(1)
    with pytest.raises(KeyboardInterrupt):
        solver.solve([1, 2, 3, 4])
    with pytest.raises(ValueError, match="nothing to solve"):
        solver.solve([])


def test_a_search_that_sees_rewards_solves_more_than_one_try() -> None:
    solver = MCTS(TASK, SearchConfig(simulations=16, answer="value"), num_trees=16, env_kwargs={"level": 2})
    result = solver.solve(range(16))
    first = [endings[0].reward for endings in result.endings]
    best = [answer.reward for answer in result.answers if answer]
    assert sum(best) > sum(first)


def test_a_tree_is_printed_with_codes_texts_visits_and_values_and_drawn(tmp_path) -> None:
    solver = MCTS(TASK, SearchConfig(simulations=12), num_trees=1)
    tree = solver.solve([3]).trees[0]
    tokenizer = solver.episodes.backbone.tokenizer
    text = tree_text(tree, tokenizer, depth=2, width=2)
    best = tree.children()[0]
    assert text.splitlines()[0] == f"root  visits 12  value {tree.mean(0):+.3f}"
    assert f"[{tree.line(best)[0]}] {tokenizer.decode(tree.tokens(best))!r}" in text.splitlines()[1]
    assert f"visits {tree.visits(best)}" in text.splitlines()[1]
    assert sum(tree.visits(child) for child in tree.children()) == 12
    for name, head in (("tree.png", b"\x89PNG"), ("tree.svg", b"<?xml")):
        draw_tree(tree, tokenizer, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)


@pytest.mark.parametrize("name", ["puct", "mcts-q"])
def test_eval_searches_by_the_q_functions_word(name: str, q_folder: str, capsys) -> None:
    argv = [
        "eval",
        "--task",
        TASK,
        "--episodes",
        "4",
        "--search",
        name,
        "--simulations",
        "4",
        "--q",
        q_folder,
    ]
    assert main([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == 4
    assert report["search"]["rewards"] == "estimated"
    assert report["searched_tokens_per_problem"] > report["tokens_per_episode"]


def test_eval_takes_a_judge_of_whole_answers(q_folder: str, tmp_path, capsys) -> None:
    data, outcome = f"{Path(q_folder).parent}/episodes.jsonl", str(tmp_path / "outcome")
    assert main(["pretrain", "outcome", "--data", data, "--steps", "2", "--rows", "8", "--out", outcome]) == 0
    argv = ["eval", "--task", "CoLA-Arithmetic-v0", "--episodes", "2", "--search", "puct", "--json"]
    values = {}
    for judge in ("policy", "base", outcome):
        capsys.readouterr()
        assert main([*argv, "--simulations", "3", "--judge", judge]) == 0
        report = json.loads(capsys.readouterr().out)
        values[judge] = report["judge"]
    assert list(values.values()) == ["policy", "base", "outcome"]
    assert main([*argv[:5], "--judge", "base"]) == 2
    assert "--judge and --search-set need a search" in capsys.readouterr().err
    assert main(["eval", "--task", TASK, "--episodes", "2", "--simulations", "8"]) == 2
    assert "--simulations, --q, --judge" in capsys.readouterr().err
    argv = ["eval", "--task", TASK, "--episodes", "2", "--search", "puct", "--judge", "policy"]
    assert main([*argv, "--simulations", "0"]) == 2
    assert "simulations" in capsys.readouterr().err
    assert main([*argv, "--judge", str(tmp_path)]) == 2
    assert "no outcome.json" in capsys.readouterr().err


def test_eval_takes_the_settings_of_a_search(q_folder: str, capsys) -> None:
    argv = ["eval", "--task", TASK, "--env", "level=2", "--episodes", "4", "--search", "mcts-q"]
    argv += ["--simulations", "6", "--q", q_folder, "--json"]
    assert main(argv) == 0
    ended = json.loads(capsys.readouterr().out)
    assert main([*argv, "--search-set", "stop_at_end=False", "--search-set", "answer=vote"]) == 0
    spent = json.loads(capsys.readouterr().out)
    assert spent["search"]["answer"] == "vote"
    assert spent["searched_simulations_per_problem"] > ended["searched_simulations_per_problem"]
    assert main([*argv, "--search-set", "rewards=environment"]) == 2
    assert "mcts-q has c_puct, root_width" in capsys.readouterr().err
    assert main([*argv, "--search-set", "rounds=3"]) == 2
    assert "and --simulations" in capsys.readouterr().err
    assert main([*argv, "--search-set", "stop_at_end=no"]) == 2
    assert "stop_at_end must be True or False, got 'no'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
@pytest.mark.parametrize("within", [False, True])
def test_an_interrupted_evaluation_reports_the_batches_that_were_through(
    within: bool, number: int, status: int, q_folder: str, capsys, monkeypatch, tmp_path
) -> None:
    import cola_agents.search.solver as solver

    batches, puct = [], solver.search

    def second(*given, **named):
        batches.append(1)
        if len(batches) == 2 and not within:
            signal.raise_signal(number)
        result = puct(*given, **named)
        if len(batches) == 2:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(number)
        return dataclasses.replace(result, interrupted=len(batches) == 2)

    monkeypatch.setattr(solver, "search", second)
    argv = ["eval", "--task", TASK, "--episodes", "6", "--num-envs", "4", "--search", "puct"]
    out = tmp_path / "report.json"
    assert main([*argv, "--simulations", "3", "--q", q_folder, "--out", str(out)]) == status
    assert "4 problems until it was interrupted" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["interrupted"] is True
    assert report["problems"] == 4


def test_what_would_read_the_solutions_or_lacks_its_q_is_refused(q_folder: str, capsys) -> None:
    from cola_agents.evaluation.run import evaluate

    with pytest.raises(ValueError, match="must not see the solutions"):
        evaluate(TASK, search=SearchConfig())
    assert main(["eval", "--task", TASK, "--search", "puct"]) == 2
    assert "needs q=" in capsys.readouterr().err
    assert main(["eval", "--task", TASK, "--q", q_folder]) == 2
    assert "--search" in capsys.readouterr().err
    with pytest.raises(ValueError, match="MCTS-Q needs q="):
        MCTS(TASK, MCTSQConfig())
    with pytest.raises(ValueError, match="leaves must be"):
        MCTS(TASK, leaves="Q")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="for PUCT"):
        MCTS(TASK, MCTSQConfig(), leaves="q", q=q_folder)
    with pytest.raises(TypeError, match="id or Episodes"):
        MCTS(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config must be a SearchConfig or an MCTSQConfig, got 3"):
        MCTS(TASK, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seed must be an integer, got 'a'"):
        MCTS(TASK, seed="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_trees must be at least 1, got 0"):
        MCTS(TASK, num_trees=0)
    with pytest.raises(TypeError, match="seeds must be a list with the seed of each problem, got 3"):
        MCTS(TASK, num_trees=2).solve(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has 64 actions"):
        MCTS("CoLA-Arithmetic-Token-v0", MCTSQConfig(), q=q_folder)


def test_pretrain_q_refuses_what_it_does_not_read(tmp_path, capsys) -> None:
    out = str(tmp_path / "out")
    assert main(["pretrain", "q", "--out", out]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["pretrain", "q", "--out", out, "--data", "x", "--tau", "2"]) == 2
    assert "takes no --tau" in capsys.readouterr().err
    assert main(["pretrain", "world", "--out", out, "--model", "x", "--gamma", "1"]) == 2
    assert "the stage world takes no --gamma" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_solver_over_token_ids_searches_the_likeliest_of_them() -> None:
    solver = MCTS("CoLA-Arithmetic-Token-v0", SearchConfig(simulations=4, width=8), num_trees=2)
    result = solver.solve([0, 1])
    assert result.visits.sum() == 8
    assert solver.q is None
    q = QFunction.over(solver.episodes.backbone)  # type: ignore[arg-type]
    config = MCTSQConfig(rounds=2, rewards="estimated")
    assert MCTS(solver.episodes, config, q=q).solve([0, 1]).answers[0] is not None


@pytest.fixture(scope="module")
def half() -> LatentBackbone:
    """A backbone in bfloat16, which numpy does not have."""
    return LatentBackbone(tiny.make_cola().bfloat16(), tiny.make_tokenizer())


@pytest.mark.parametrize("how", ["rollouts", "span", "q", "mcts-q", "judge"])
def test_every_search_runs_over_a_model_in_bfloat16(how: str, half: LatentBackbone) -> None:
    estimated, q = SearchConfig(simulations=3, rewards="estimated", answer="value"), None
    if how in ("q", "mcts-q"):
        q = QFunction.over(half)
    config, further = {
        "rollouts": (SearchConfig(simulations=3), {}),
        "span": (SearchConfig(simulations=3, span=2), {}),
        "q": (estimated, {"leaves": "q"}),
        "mcts-q": (MCTSQConfig(rounds=2, rewards="estimated"), {}),
        "judge": (estimated, {"judge": likelihood_judge}),
    }[how]
    env_kwargs = {"model": half, "max_tokens": 4}
    solver = MCTS(TASK, config, q=q, num_trees=1, env_kwargs=env_kwargs, **further)  # type: ignore[arg-type]
    assert solver.solve([0]).simulations[0] > 0
    solver.close()


def test_the_policy_that_continues_an_edge_must_give_numbers(half: LatentBackbone) -> None:
    calls = []

    def sick(session, rows):
        calls.append(rows)
        return torch.full((len(rows), 16), float("nan") if len(calls) > 1 else 0.0)

    config = SearchConfig(simulations=3, span=2)

    def evaluate(rows):
        return np.full((len(rows), 16), 1 / 16), np.zeros(len(rows))

    env_kwargs = {"model": half, "max_tokens": 4}
    solver = MCTS(TASK, config, policy=sick, evaluate=evaluate, num_trees=1, env_kwargs=env_kwargs)
    calls.append([])
    with pytest.raises(FloatingPointError, match="policy's logit of action 0 in row 0"):
        solver.solve([0])
    solver.close()


@pytest.mark.parametrize("how", ["puct", "mcts-q"])
def test_play_outs_draw_with_the_sampling_options_that_are_given(how: str, half: LatentBackbone) -> None:
    """With the likeliest action alone there is one text."""
    q = QFunction.over(half) if how == "mcts-q" else None
    config = (
        SearchConfig(simulations=4, width=1)
        if q is None
        else MCTSQConfig(rounds=4, root_width=1, width=1, rewards="estimated", stop_at_end=False)
    )
    texts = {}
    for drawing in (None, {"temperature": 1.0, "top_k": 1}):
        env_kwargs = {"model": half, "max_tokens": 4}
        solver = MCTS(TASK, config, q=q, drawing=drawing, num_trees=1, env_kwargs=env_kwargs)  # type: ignore[arg-type]
        endings = solver.solve([0]).endings[0]
        texts[drawing is None] = {ending.text for ending in endings}
        solver.close()
    assert len(texts[False]) == 1
    assert len(texts[True]) > 1
