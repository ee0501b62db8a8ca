"""``cola eval``: evaluate a model or a saved agent on a task."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands
from cola_agents.commands.model_options import MODEL_HELP, add_model_options, add_prompt_settings, pop_loading
from cola_agents.commands.settings import check_out, settings
from cola_agents.commands.tasks import TASK_HELP, add_agent, add_env, named_task, saved_agent, task_of_agent
from cola_agents.common.files import write_json
from cola_agents.common.interrupts import exit_status

if TYPE_CHECKING:
    from cola_agents.search import MCTSQConfig, SearchConfig
    from cola_envs.jsonl import JsonObject


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a model or a saved agent on a task",
        description="Plays episodes of a task and prints a table of the scores.",
    )
    parser.add_argument("--task", help=f"{TASK_HELP}; by default the agent's")
    parser.add_argument("--model", help=MODEL_HELP)
    add_agent(parser, "folder of a saved agent, instead of --model")
    parser.add_argument("--problems", help="local JSONL of problems, for the Math500 and GSM8K ids")
    parser.add_argument("--tokenizer", help="folder or hub id; by default the model's")
    parser.add_argument(
        "--episodes", type=int, help="number of problems; by default 256, or the whole test set"
    )
    parser.add_argument("--samples", type=int, default=1, help="tries at each problem: pass@k and maj@k")
    parser.add_argument("--split", help="one of the task's; by default 'test', or the last if there is none")
    parser.add_argument(
        "--greedy", action="store_true", help="take the most probable action instead of sampling"
    )
    parser.add_argument(
        "--random",
        action="store_true",
        help="take uniformly random actions: the floor that an agent has to beat",
    )
    parser.add_argument(
        "--seed", type=int, default=10_000, help="problem i has seed + i; a finite set is played in its order"
    )
    parser.add_argument("--num-envs", type=int, default=64, help="rows that play in parallel, at most")
    parser.add_argument(
        "--search",
        choices=("puct", "mcts-q"),
        help="search for each answer, with play-outs that draw as the agent does; needs --q or --judge",
    )
    parser.add_argument("--simulations", type=int, help="per problem of a search (64)")
    parser.add_argument("--q", help="folder of a Q-function from `cola pretrain q`; mcts-q needs one")
    parser.add_argument(
        "--judge",
        metavar="policy|base|FOLDER",
        help="what values finished answers, in place of Q: their likelihood under the policy or under the "
        "base, or an outcome model from `cola pretrain outcome`",
    )
    parser.add_argument(
        "--search-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further field of SearchConfig or MCTSQConfig, e.g. stop_at_end=False to spend all "
        "simulations of mcts-q; may be repeated",
    )
    add_model_options(parser)
    add_env(parser)
    parser.add_argument("--out", type=Path, help="JSON file to write the full report to")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of the table")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation.reports import table
    from cola_agents.evaluation.run import evaluate

    task, env_kwargs = named_task(task_of_agent(arguments.task, arguments.agent), arguments.env)
    add_prompt_settings(arguments, env_kwargs)
    loading = pop_loading(arguments, env_kwargs)
    agent, model = None, arguments.model
    if arguments.agent is not None:
        if model is not None:  # where the agent's model is now
            loading["model"], model = model, None
        agent = saved_agent(arguments.agent, env_kwargs, arguments.algo, **loading)
        loading = {}
    options = {
        "model": model,
        "agent": agent,
        "tokenizer": arguments.tokenizer,
        "episodes": arguments.episodes,
        "samples": arguments.samples,
        "split": arguments.split,
        "greedy": arguments.greedy,
        "random": arguments.random,
        "seed": arguments.seed,
        "num_envs": arguments.num_envs,
    }
    for name in env_kwargs:
        if name in options or name == "problems":
            flag = name.replace("_", "-")
            raise ValueError(f"--env {name}=... has an option of its own: give --{flag}")
    if arguments.problems is not None:
        env_kwargs["problems"] = arguments.problems
    if arguments.search is None:
        if any(given is not None for given in (arguments.q, arguments.judge, arguments.simulations)) or (
            arguments.search_set
        ):
            raise ValueError(
                "--simulations, --q, --judge and --search-set need a search: give --search puct or mcts-q"
            )
    else:
        fields = settings(arguments.search_set, "--search-set")
        simulations = 64 if arguments.simulations is None else arguments.simulations
        options["search"] = search_config(arguments.search, simulations, fields)
        options |= {"q": arguments.q, "judge": arguments.judge}
    if arguments.out is not None:
        check_out(arguments.out, "JSON")
    report = evaluate(task, **options, **loading, env_kwargs=env_kwargs)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print(table(report))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, report, indent=2)
    return exit_status(KeyboardInterrupt()) if report.get("interrupted") else 0


def search_config(name: str, simulations: int, fields: JsonObject) -> SearchConfig | MCTSQConfig:
    """The configuration of an evaluation's search, whose rewards are estimated, never the task's.

    Raises:
        ValueError: for a field that the search does not have, or that another option sets.
    """
    from cola_agents.search import MCTSQConfig, SearchConfig

    kind: type = MCTSQConfig if name == "mcts-q" else SearchConfig
    count = "rounds" if name == "mcts-q" else "simulations"
    known = [field.name for field in dataclasses.fields(kind) if field.name not in (count, "rewards")]
    for key in fields:
        if key not in known:
            raise ValueError(f"--search-set {key}=...: {name} has {', '.join(known)}, and --simulations")
    defaults = {} if name == "mcts-q" else {"answer": "value"}
    return kind(**{count: simulations, "rewards": "estimated", **defaults, **fields})
