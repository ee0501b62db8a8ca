"""``cola look``: show a model, a run or a recording on an HTML page."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from cola_agents.commands import Commands
from cola_agents.commands.model_options import add_model_options, add_prompt_settings, pop_loading
from cola_agents.commands.settings import check_out, settings
from cola_agents.commands.tasks import TASK_HELP, add_agent, add_env, algorithm_class, named_task


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "look",
        help="show what codes do: one HTML file of a model, a run or a recording",
        description="Writes one HTML file that needs no server and no network: episodes with what every code "
        "would\nhave written at each token, what the codes are used for, a run's training, a search tree.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        help="what to show: the folder of a run of `cola train`, a file of `cola generate`, or the folder or "
        "hub id of a model; left out, it is the bundled model",
    )
    parser.add_argument("--out", type=Path, default=Path("cola-look.html"), help="HTML file to write")
    parser.add_argument("--open", action="store_true", help="then open the file in the browser")
    parser.add_argument(
        "--task",
        help="task that a model plays, by default CoLA-Thinking-v0; of a run or a file only where it is your "
        f"own class: {TASK_HELP}",
    )
    parser.add_argument(
        "--episodes",
        type=int,
        default=4,
        help="number of episodes on the page, and as many over tokens beside those over codes",
    )
    parser.add_argument(
        "--positions",
        type=int,
        default=12,
        help="tokens of each episode, the least certain ones, at which the page also shows how the text "
        "would go on after other codes; more take longer; 0 for none",
    )
    parser.add_argument(
        "--tables",
        type=int,
        default=1000,
        help="tokens of all episodes together that get a table of all codes with their probabilities; more "
        "make the file larger",
    )
    parser.add_argument(
        "--simulations",
        type=int,
        default=64,
        help="simulations of the tree search that is drawn for the first problem; 0 for no search",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=10_000,
        help="tokens of text over which the use of each code is counted, for the view of the codes; 0 leaves "
        "that view out",
    )
    parser.add_argument(
        "--text",
        type=Path,
        help="file whose text is read for --tokens, as in `cola inspect`; by default the generated corpus",
    )
    parser.add_argument("--seed", type=int, help="seed of the first problem that a model plays (0)")
    add_agent(
        parser,
        "folder of the trained agent that played the file of `cola generate`; shows its probabilities",
        "class of the agent of a run or of --agent",
    )
    parser.add_argument("--model", help="model of a run or a file, if it is not where they say that it is")
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
    out: Path = arguments.out
    check_out(out, "HTML")
    data = look(
        arguments.what,
        wanted,
        task=task,
        own_task=env_kwargs.pop("task", None),
        agent=arguments.agent,
        algorithm=arguments.algo and algorithm_class(arguments.algo),
        seed=arguments.seed,
        model=arguments.model,
        **loading,
        env_kwargs=env_kwargs,
    )
    content = page(data).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, content)
    print(f"Wrote {out} ({len(content) / 1e6:.1f} MB).")
    if arguments.open and not webbrowser.open(out.resolve().as_uri()):
        raise OSError(f"found no browser for --open: open {out} yourself")
    return 0
