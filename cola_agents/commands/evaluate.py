"""``cola eval``: play a task with a checkpoint and report."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands
from cola_agents.commands.settings import settings
from cola_agents.commands.tasks import TASK_HELP, add_agent, add_env, load_playing, named_task, task_of_agent
from cola_agents.common.files import write_json

if TYPE_CHECKING:
    from cola_agents.search import MCTSQConfig, SearchConfig
    from cola_envs.jsonl import JsonObject


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "eval",
        help="play a task with a model's own policy and report",
        description="Plays a task and prints a table of what came out.",
    )
    parser.add_argument("--task", help=f"{TASK_HELP}; an agent's own where not given")
    parser.add_argument("--model", help="folder or hub id; the bundled model without it")
    add_agent(parser, "folder of a saved agent, in place of --model")
    parser.add_argument("--problems", help="local JSONL of problems, for the Math500 and GSM8K ids")
    parser.add_argument("--tokenizer", help="folder or hub id, where the model's own is not beside it")
    parser.add_argument("--episodes", type=int, help="problems: 256, or a whole test set, where not given")
    parser.add_argument("--samples", type=int, default=1, help="tries at each problem: pass@k and maj@k")
    parser.add_argument("--split", help="one of the task's; 'test', or else the last it has, where not given")
    parser.add_argument("--greedy", action="store_true", help="the likeliest action in place of a draw")
    parser.add_argument("--seed", type=int, default=10_000)
    parser.add_argument("--num-envs", type=int, default=64, help="rows that play side by side, at most")
    parser.add_argument("--search", choices=("puct", "mcts-q"), help="search for each answer; needs --q")
    parser.add_argument("--simulations", type=int, default=64, help="of a search, for each problem")
    parser.add_argument("--q", help="folder of a Q-function: `cola pretrain q`")
    parser.add_argument(
        "--search-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further field of the search's SearchConfig or MCTSQConfig, e.g. stop_at_end=False, with "
        "which mcts-q spends all of its simulations; may be repeated",
    )
    add_env(parser)
    parser.add_argument("--out", type=Path, help="a file to write the whole report to, as JSON")
    parser.add_argument("--json", action="store_true", help="print the report as JSON in place of the table")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation.reports import table
    from cola_agents.evaluation.run import evaluate

    task, env_kwargs = named_task(task_of_agent(arguments.task, arguments.agent), arguments.env)
    options = {
        "model": arguments.model,
        "agent": arguments.agent and load_playing(arguments.agent, env_kwargs, arguments.algo),
        "tokenizer": arguments.tokenizer,
        "episodes": arguments.episodes,
        "samples": arguments.samples,
        "split": arguments.split,
        "greedy": arguments.greedy,
        "seed": arguments.seed,
        "num_envs": arguments.num_envs,
    }
    for name in env_kwargs:
        if name in options or name == "problems":
            raise ValueError(f"--env {name}=... is an option of its own: --{name}")
    if arguments.problems is not None:
        env_kwargs["problems"] = arguments.problems
    if arguments.search is None:
        if arguments.q is not None or arguments.search_set:
            raise ValueError("--q and --search-set are of a search: give --search puct or mcts-q")
    else:
        chosen = settings(arguments.search_set, "--search-set")
        options["search"] = search_config(arguments.search, arguments.simulations, chosen)
        options["q"] = arguments.q
    report = evaluate(task, **options, env_kwargs=env_kwargs)
    if arguments.out is not None:
        write_json(arguments.out, report, indent=2)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print(table(report))
    return 130 if report.get("interrupted") else 0


def search_config(name: str, simulations: int, chosen: JsonObject) -> SearchConfig | MCTSQConfig:
    """The search options of an evaluation: rewards are the Q-function's estimates, never the task's own.

    Raises:
        ValueError: for a field that the search does not have, or that another option sets.
    """
    from cola_agents.search import MCTSQConfig, SearchConfig

    kind: type = MCTSQConfig if name == "mcts-q" else SearchConfig
    count = "rounds" if name == "mcts-q" else "simulations"
    known = [one.name for one in dataclasses.fields(kind) if one.name not in (count, "rewards")]
    for field in chosen:
        if field not in known:
            raise ValueError(f"--search-set {field}=...: {name} has {', '.join(known)}, and --simulations")
    start = {} if name == "mcts-q" else {"answer": "value"}
    return kind(**{count: simulations, "rewards": "estimated", **start, **chosen})
