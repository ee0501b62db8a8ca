"""Writes a page for each registered environment, from its task's docstring, its registration and an episode.

Sphinx calls :func:`write_pages` before it reads the sources. ``python docs/environment_pages.py`` plays the
games of ``docs/transcripts`` again, which needs the engines (the extras ``alfworld`` and ``scienceworld``).
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from PIL import Image

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.commands.tasks_list import WRAPPED, described_class
from cola_agents.model.sampling import sample
from cola_agents.rl.collecting import attach
from cola_envs.build import build_tasks, load, splits_of, twin_id
from cola_envs.env import CoLAEnv
from cola_envs.render import ACROSS, COLUMNS, DOWN, coded_pieces, drawn, transcript

HERE = Path(__file__).parent
TRANSCRIPTS = HERE / "transcripts"

#: How the page of an environment makes it, where its id alone is not enough.
MAKING = {
    "CoLA-GSM8K-v0": """\
problem = {"question": "Tom has 3 boxes of 4 pens. How many pens has he?", "answer": "#### 12"}
env = gym.make("CoLA-GSM8K-v0", problems=[problem])  # without problems= it reads the published set""",
    "CoLA-Preference-v0": """\
def shorter_is_better(prompts, responses):
    return [-len(response) / 100 for response in responses]


env = gym.make("CoLA-Preference-v0", prompts=["Story:", "Once"], scorer=shorter_is_better)""",
    "CoLA-Text-v0": """\
class MyTask:
    stop = (".",)

    def reset(self, rng):
        return "Story:"

    def step(self, text):
        return cola_envs.Turn(reward=float("cat" in text), done=True)


env = gym.make("CoLA-Text-v0", task=MyTask)""",
}
#: Environments whose engine or data a build of this site does not need, and the transcript that is shown.
RECORDED = {"CoLA-Household-v0": "household", "CoLA-ScienceWorld-v0": "scienceworld"}
SHOWN_BY_ANOTHER = {"CoLA-ALFWorld-v0": "CoLA-Household-v0"}
#: What every page must say: a heading that contains one of these words.
REQUIRED = (("prompt",), ("reward",), ("end", "episode"), ("version",), ("data",))
#: Tokens of the episode that a page shows.
LONGEST = 64

_BOLD = re.compile(r"\*\*([^*]+)\.\*\* *")
_PLAIN = re.compile(r"([A-Z][a-z]+(?: [a-z]+){0,2}|``info``[^:\n]{0,40}): *")
_VERSION = re.compile(r" (?=Version history: |\*\*Versions\.)")
_LISTS = ("Args", "Attributes", "Raises", "Returns")


def environment_ids() -> list[str]:
    """Ids over codes, in the order in which they are registered."""
    return [key for key, spec in gym.registry.items() if "builder" in spec.kwargs and "-Token-" not in key]


def page_name(env_id: str) -> str:
    return env_id.removeprefix("CoLA-").removesuffix("-v0").lower()


def write_pages(folder: Path) -> None:
    """Write a page and a film for each environment into ``folder``.

    Raises:
        ValueError: for a docstring that leaves out what :data:`REQUIRED` names.
    """
    folder.mkdir(exist_ok=True)
    for env_id in environment_ids():
        (folder / f"{page_name(env_id)}.rst").write_text(page(env_id, folder))


def page(env_id: str, folder: Path) -> str:
    """The source of an environment's page; its film is left beside it in ``folder``."""
    spec = gym.spec(env_id)
    builder = load(spec.kwargs["builder"])
    task_class = described_class(builder)
    first, sections, lists = read_docstring(task_class)
    if task_class is not builder:  # a function that makes the task: the arguments are its own
        lists["Args"] = {**lists.get("Args", {}), **read_docstring(builder)[2].get("Args", {})}
    if wrapped := WRAPPED.get(spec.kwargs["builder"]):
        _, inner, inner_lists = read_docstring(load(wrapped))
        sections |= {f"{title} (wrapped task)": body for title, body in inner.items()}
        lists["Args"] |= inner_lists["Args"]
    titles = " ".join(sections).lower()
    missing = [words[0] for words in REQUIRED if not any(word in titles for word in words)]
    if missing:
        raise ValueError(
            f"the docstring of {task_class.__module__}.{task_class.__name__} has no paragraph on "
            f"{', '.join(missing)}: begin one with e.g. '**{missing[0].title()}.**'; it has {list(sections)}"
        )
    shown, film, spaces = example(env_id)
    parts = [heading(env_id, "="), first, ""]
    if film is not None:
        save_film(film, folder / f"{page_name(env_id)}.gif")
        parts += [
            f".. image:: {page_name(env_id)}.gif",
            f"   :alt: An episode of {env_id} as it is written",
            "",
        ]
    splits = ", ".join(f"``{split!r}``" for split in splits_of(builder)) or "none"
    rows = [
        ("Over tokens", f"``{twin_id(env_id)}``: the same task, with token ids as actions"),
        ("Action space", f"{spaces[0]} with the bundled model"),
        ("Observation space", f"{spaces[1]} with the bundled model; see :doc:`../concepts`"),
        ("Token budget", f"{spec.kwargs['default_max_tokens']}, unless ``max_tokens=`` is given"),
        ("Splits", splits),
        (
            "If the task fails",
            f"``on_task_error={spec.kwargs['on_task_error']!r}``; see :doc:`../task_contract`",
        ),
        ("Specification", f":class:`{task_class.__module__}.{task_class.__qualname__}`"),
    ]
    parts += [*table("", rows), heading("How to make it", "-"), ".. code-block:: python", ""]
    parts += [textwrap.indent(code_of(env_id), "   "), ""]
    for title, body in sections.items():
        parts += [heading(title, "-"), body, ""]
    parts += [
        heading("Arguments", "-"),
        "Besides :ref:`those of every environment <environment-arguments>`:",
        "",
    ]
    parts += table("Argument Default Meaning", list(arguments(builder, lists.get("Args", {}))))
    for name in ("Attributes", "Raises"):
        if lists.get(name):
            parts += [heading({"Raises": "Errors"}.get(name, name), "-")]
            parts += [f"``{key}``\n{textwrap.indent(text, '   ')}\n" for key, text in lists[name].items()]
    parts += [heading("An episode", "-"), *shown]
    return "\n".join(parts) + "\n"


def read_docstring(obj: Any) -> tuple[str, dict[str, str], dict[str, dict[str, str]]]:
    """A docstring's first paragraph, its paragraphs by title, and its lists (Args) by name and entry."""
    text = _VERSION.sub("\n\n", inspect.getdoc(obj) or "")
    text = text.replace("Version history: ", "**Version history.** ")
    first, _, rest = text.partition("\n\n")
    sections: dict[str, str] = {}
    lists: dict[str, dict[str, str]] = {}
    title = "Notes"
    for paragraph in re.split(r"\n\n(?=\S)", rest):
        name = paragraph.split(":\n")[0]
        if name in _LISTS:
            lists[name] = dict(entries(textwrap.dedent(paragraph.partition("\n")[2])))
            continue
        if match := _BOLD.match(paragraph) or _PLAIN.match(paragraph):
            title = match[1].strip()
            title = "Info " + title.removeprefix("``info`` ") if title.startswith("``info``") else title
            paragraph = paragraph[match.end() :]
            paragraph = paragraph[:1].upper() + paragraph[1:]
        if paragraph.strip():
            sections[title] = f"{sections[title]}\n\n{paragraph}" if title in sections else paragraph
    return first, sections, lists


def entries(block: str) -> Iterator[tuple[str, str]]:
    """The entries ``name, name: text`` of a list of a docstring, one by one."""
    for entry in re.split(r"\n(?=\S)", block):
        names, _, meaning = entry.partition(":")
        for name in names.split(", "):
            yield name.strip(), " ".join(meaning.split())


def arguments(builder: Callable[..., Any], meanings: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for name, parameter in inspect.signature(builder).parameters.items():
        if name != "num_rows" and parameter.kind is not parameter.VAR_KEYWORD:
            yield f"``{name}``", f"``{parameter.default!r}``", meanings.get(name, "")


def code_of(env_id: str) -> str:
    making = MAKING.get(env_id, f'env = gym.make("{env_id}")')
    gap = "\n\n\n" if making.startswith(("def", "class")) else "\n\n"
    return f"import gymnasium as gym\n\nimport cola_envs{gap}{making}"


def example(env_id: str) -> tuple[list[str], list[np.ndarray] | None, tuple[str, str]]:
    """An episode as lines of a page, its film, and the spaces in words."""
    if env_id in SHOWN_BY_ANOTHER:
        other = SHOWN_BY_ANOTHER[env_id]
        line = (
            f"The games need the published data. They read like those of :doc:`{other} <{page_name(other)}>`."
        )
        return [line], None, spaces_of("CoLA-Arithmetic-v0")
    if env_id in RECORDED:
        text = (TRANSCRIPTS / f"{RECORDED[env_id]}.txt").read_text()
        lines = ["Commands that were typed stand behind ``>``.", *block(text)]
        return lines, typed_film(text), spaces_of("CoLA-Arithmetic-v0")
    env = made(env_id)
    film = list(play(env, LONGEST))
    begun = "; the beginning of a longer episode" if env.episodes.running(0) else ""
    lines = [
        "The bundled model's cloned policy, before any training, with seed 0. Behind each token stands its",
        f'code (``render_mode="ansi"``){begun}.',
        *block(transcript(env.episodes, 0)),
    ]
    return lines, film, (f"``{env.action_space}``", f"``{env.observation_space}``")


def made(env_id: str) -> CoLAEnv:
    """The environment as its page makes it."""
    names: dict[str, Any] = {}
    exec(compile(code_of(env_id), env_id, "exec"), names)
    env = names["env"].unwrapped
    assert isinstance(env, CoLAEnv)
    return env


def spaces_of(env_id: str) -> tuple[str, str]:
    env = made(env_id)
    return f"``{env.action_space}``", f"``{env.observation_space}``"


def play(env: CoLAEnv, steps: int) -> Iterator[np.ndarray]:
    """Frames of an episode that the model's own policy plays, at most ``steps`` tokens of it."""
    env.reset(seed=0)
    logits, draws = attach(None, env.episodes), np.random.default_rng(0)
    yield drawn(coded_pieces(env.episodes, 0))
    for _ in range(steps):
        if not env.episodes.running(0):
            break
        env.step(int(sample(logits([0]), torch.tensor(draws.random(1)))[0]))
        yield drawn(coded_pieces(env.episodes, 0))


def typed_film(text: str) -> list[np.ndarray]:
    """Frames of a transcript, a command at a time; commands are coloured, the game's text is grey."""
    pieces = [
        (part, [command] if at % 2 else [])
        for at, part in enumerate(re.split(r"(?<=\n>)( [^\n]*)", text))
        for command in [at // 2]
    ]
    return [drawn(pieces[:count]) for count in range(1, len(pieces) + 1)]


def save_film(frames: list[np.ndarray], path: Path) -> None:
    """An endless GIF of frames, cut to the lines and columns that are written on."""
    paper = frames[0][-1, -1]
    marked = np.stack([(frame != paper).any(-1) for frame in frames]).any(0)
    height = (int(np.flatnonzero(marked.any(1))[-1]) // DOWN + 2) * DOWN
    width = min((int(np.flatnonzero(marked.any(0))[-1]) // ACROSS + 2) * ACROSS, COLUMNS * ACROSS)
    images = [Image.fromarray(frame[:height, :width]).quantize(32) for frame in frames]
    times = [150] * (len(images) - 1) + [3000]
    images[0].save(path, save_all=True, append_images=images[1:], duration=times, loop=0, optimize=True)


def heading(text: str, line: str) -> str:
    return f"\n{text}\n{line * len(text)}\n"


def block(text: str) -> list[str]:
    return ["", ".. code-block:: text", "", textwrap.indent(text.expandtabs(4), "   ", lambda line: True), ""]


def table(header: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A list table; ``header`` has a word a column."""
    lines = ["", ".. list-table::", *(["   :header-rows: 1"] if header else []), ""]
    for row in ([tuple(header.split())] if header else []) + list(rows):
        lines += [f"   {'* -' if at == 0 else '  -'} {cell}" for at, cell in enumerate(row)]
    return [*lines, ""]


def played_transcript(name: str) -> str:
    """The transcript ``name`` of ``docs/transcripts``, played on the real engine."""
    if name == "household":
        tasks: Any = build_tasks(1, load("cola_envs.tasks.household:Household"), level=1, num_workers=1)
        commands = None
    else:
        task = "cola_envs.tasks.scienceworld:ScienceWorld"
        tasks = build_tasks(1, load(task), tasks=["find-plant"], variations=[0], num_workers=1)
        commands = ["inventory", "go to greenhouse", "look around"]
    try:
        text = tasks.reset([0], [np.random.default_rng(0)])[0]
        for command in commands or tasks.query(0, "walkthrough"):
            turn = tasks.step([0], [f" {command}\n"])[0]
            text += f" {command}\n{turn.text.removeprefix(chr(10))}"
        return text
    finally:
        tasks.close()


if __name__ == "__main__":
    for name in RECORDED.values():
        (TRANSCRIPTS / f"{name}.txt").write_text(played_transcript(name))
