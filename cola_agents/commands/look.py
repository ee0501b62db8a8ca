"""``cola look``: show a model, a run or a recording on an HTML page."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from cola_agents.commands import Commands
from cola_agents.commands.model_options import add_model_options, add_prompt_settings, pop_loading
from cola_agents.commands.settings import settings
from cola_agents.commands.tasks import TASK_HELP, add_agent, add_env, algorithm_class, named_task


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "look",
        help="show what codes do: one HTML file of a model, a run or a recording",
        description="Writes one HTML file that needs no server and no network: episodes with the token and "
        "the continuation of every code, the codebook, a run's training, a search tree.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        help="folder or hub id of a model, folder of `cola train`, or file of `cola generate`; by default "
        "the bundled model",
    )
    parser.add_argument("--out", type=Path, default=Path("cola-look.html"), help="file to write")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.add_argument("--task", help=f"of a model's episodes, by default CoLA-Thinking-v0: {TASK_HELP}")
    parser.add_argument("--episodes", type=int, default=4, help="episodes at each of both levels")
    parser.add_argument(
        "--positions", type=int, default=12, help="positions per episode with other continuations"
    )
    parser.add_argument("--tables", type=int, default=1000, help="tables of all codes, in all episodes")
    parser.add_argument("--simulations", type=int, default=64, help="of the search tree; 0 for none")
    parser.add_argument("--tokens", type=int, default=10_000, help="to measure the codebook on; 0 for none")
    parser.add_argument("--text", type=Path, help="documents for that, as in `cola inspect`")
    parser.add_argument("--seed", type=int, default=0, help="of the first problem of a model's episodes")
    add_agent(parser, "folder of the saved agent that made a recording")
    parser.add_argument("--model", help="model of a recording or run; by default the one that it names")
    add_model_options(parser)
    add_env(parser, old=False)
    parser.set_defaults(run=_look)


def _look(arguments: argparse.Namespace) -> int:
    from cola_agents.common.files import write_whole
    from cola_agents.evaluation.look.filling import Wanted
    from cola_agents.evaluation.look.sources import look
    from cola_envs.page.write import page

    wanted = Wanted(
        episodes=arguments.episodes,
        positions=arguments.positions,
        tables=arguments.tables,
        simulations=arguments.simulations,
        tokens=arguments.tokens,
        text=arguments.text,
    )
    task, env_kwargs = arguments.task, settings(arguments.env, "--env")
    if task is not None:
        task, env_kwargs = named_task(task, arguments.env)
    add_prompt_settings(arguments, env_kwargs)
    loading = pop_loading(arguments, env_kwargs)
    data = look(
        arguments.what,
        wanted,
        task=task,
        agent=arguments.agent,
        algorithm=arguments.algo and algorithm_class(arguments.algo),
        seed=arguments.seed,
        model=arguments.model,
        **loading,
        **env_kwargs,
    )
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    content = page(data).encode()
    write_whole(out, content)
    print(f"Wrote {out} ({len(content) / 1e6:.1f} MB).")
    if arguments.open and not webbrowser.open(out.resolve().as_uri()):
        raise OSError(f"found no browser for --open: open {out} yourself")
    return 0
