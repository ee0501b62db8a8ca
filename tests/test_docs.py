"""README.md, the pages of docs/ and the notebook: their Python and commands run, their links are right."""

import io
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.__main__ import main as benchmarks
from cola_agents.cli import main, make_parser
from tests import tiny
from tests.model.test_chat import chat_tokenizer
from tests.package_ids import PACKAGE_IDS

ROOT = Path(__file__).parents[1]
#: What the site's builder writes into docs/, which readers of the sources do not have.
GENERATED = {"docs/environments/", "docs/reference/commands.md"}
PAGES = sorted(
    name
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if (name := str(path.relative_to(ROOT))) not in GENERATED
)


def blocks(page: str, language: str) -> str:
    """All code of one language on a page, in its order."""
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))


#: What is changed to run in seconds, on a CPU and on the models that :func:`folder` holds.
CHANGED = {
    "README.md": {"learn(100_000)": "learn(64)"},
    "docs/tutorials/sb3.md": {
        "learn(100_000)": "learn(64)",
        "learn(60_000)": "learn(64)",
        "learn(50_000": "learn(64",
        "n_eval_episodes=128": "n_eval_episodes=16",
        "evaluate(256)": "evaluate(16)",
    },
    "docs/tutorials/own_task.md": {"range(20)": "range(1)", "num_envs=128": "num_envs=16"},
    "docs/tutorials/own_algorithm.md": {
        "rollouts = 128": "rollouts = 16",
        "range(30)": "range(2)",
        "learn(20_000)": "learn(64)",
    },
    "docs/tutorials/cleanrl.md": {"32, 128, 100_000": "8, 32, 512"},
    "docs/tutorials/own_model.md": {'"steps": 100': '"steps": 2'},
    "docs/tutorials/search.md": {"simulations=32": "simulations=2", "range(16)": "range(2)"},
    "docs/libraries.md": {"learn(100_000)": "learn(64)"},
    "docs/saving.md": {"learn(50_000)": "learn(64)"},
    "docs/scaling.md": {"path/or/hub-id": "cola", 'device="cuda"': 'device="cpu"'},
    "docs/agent_tasks.md": {"range(16)": "range(1)"},
    "docs/training.md": {
        "path/or/hub-id": "base",
        '"corpus.txt"]))),': '"corpus.txt"])), steps=1, config={"rows": 2, "length": 48}),',
    },
}
#: What a page needs beyond the tests' own extra.
NEEDS = {"docs/agent_tasks.md": "scienceworld", "docs/libraries.md": "tianshou"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a base, a latent-action model and a corpus."""
    for name, model in (("base", tiny.make_base()), ("cola", tiny.make_cola())):
        model.save_pretrained(tmp_path / name)
        tiny.make_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "corpus.txt").write_text("\n".join(tiny.LINES * 20))
    monkeypatch.chdir(tmp_path)


def run(code: str, name: str) -> None:
    registered = dict(gym.registry)
    try:
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    finally:  # other tests look at every id
        gym.registry.clear()
        gym.registry.update(registered)


def changed(text: str, page: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"{page} no longer says {old}: change it here too"
        text = text.replace(old, new)
    return text


#: A page whose commands and code are run together, in their order; what is changed to run in seconds.
TUTORIAL = "docs/tutorials/own_lm.md"
TUTORIAL_CHANGES = {
    "MODEL": "base",
    "max_tokens=64": "max_tokens=8",
    "--episodes 32": "--episodes 2",
    "--problems 256 --n 2": "--problems 40 --n 2",
    "--problems 16 --n 2": "--problems 4 --n 2",
    "--num-envs 64 --timesteps 10000": "--num-envs 8 --timesteps 64 --quiet",
    "--set prompts=8 --set group_size=8": "--set prompts=2 --set group_size=4",
    "--steps 200 --rows 4 --length 256": "--steps 2 --rows 2 --length 64",
    "--set lora_rank=16": "--set lora_rank=2",
    "cola look latent": "cola look latent --positions 1 --tokens 300 --simulations 2",
}


def test_the_tutorial_on_a_language_model_runs_from_the_first_command_to_the_curves(folder):
    chat_tokenizer().save_pretrained("base")
    text = changed((ROOT / TUTORIAL).read_text(), TUTORIAL, TUTORIAL_CHANGES)
    for language, code in re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL):
        if language == "python":
            run(code, TUTORIAL)
            continue
        for line in code.splitlines():
            assert main(shlex.split(line)[1:]) == 0, line
    assert "<html" in Path("curve.html").read_text()
    assert '"prompt_format": "chat"' in Path("own.jsonl").read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page != TUTORIAL])
def test_the_code_of_a_page_runs_in_its_order(page, folder):
    code = changed(blocks(page, "python"), page, CHANGED.get(page, {}))
    compile(code, page, "exec")
    if page in NEEDS and find_spec(NEEDS[page]) is None:
        pytest.skip(f"{page} needs {NEEDS[page]}")
    run(code, page)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_example_prints_what_stands_below_it(page, capsys):
    code, printed = re.search(
        r"```python\n(.*?)```\n+```text\n(.*?)```", (ROOT / page).read_text(), re.DOTALL
    ).groups()
    run(code, page)
    assert capsys.readouterr().out == printed


def test_every_change_is_of_a_page_that_has_code():
    assert all(blocks(page, "python") for page in (*CHANGED, *NEEDS))


def test_the_cells_of_the_notebook_run_in_their_order():
    notebook = json.loads((ROOT / "examples/first_steps.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    small = {
        "100_000": "64",
        "n_eval_episodes=128": "n_eval_episodes=16",
        "range(8)": "range(1)",
        "range(64)": "range(2)",
        "Frame()": "assert Frame()._repr_html_().startswith('<iframe')",
    }
    run(changed(code, "first_steps.ipynb", small), "first_steps.ipynb")


#: Pages whose commands are run, with what is changed in them to run in seconds.
RUN = {
    "README.md": {
        "--timesteps 50000": "--timesteps 64 --episodes 4 --quiet --num-envs 8",
        "cola look run": "cola look run --positions 1 --tokens 300 --simulations 2",
    },
    "docs/tutorials/sb3.md": {
        "--timesteps 50000": "--timesteps 64 --episodes 4 --quiet --num-envs 8",
        "cola eval --agent run": "cola eval --agent run --episodes 4",
    },
    "docs/tutorials/search.md": {
        "--env level=2 --n 16": "--env level=2 --n 4 --problems 12 --num-envs 16",
        "--data tries.jsonl --held-out-problems 64": "--data tries.jsonl --held-out-problems 6 --steps 1",
        "--search mcts-q --q q": "--search mcts-q --q q --simulations 1 --episodes 2",
    },
    "docs/environments.md": {"--samples 8": "--samples 2 --episodes 2 --env max_tokens=8"},
}


def commands(page: str) -> list[str]:
    """The lines of a page's bash blocks, without comments; a backslash at the end joins two."""
    lines = blocks(page, "bash").replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s#.*", "", line).strip() for line in lines) if line]


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run_in_their_order_in_an_empty_folder(page, tmp_path, monkeypatch):
    lines = [line for line in commands(page) if "pip install" not in line]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(":quit\n" * 9))
    for line in changed("\n".join(lines), page, RUN[page]).splitlines():
        words = shlex.split(line)
        assert words[0] == "cola", line
        assert main(words[1:]) == 0, line


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "bash") and page not in (*RUN, TUTORIAL)]
)
def test_the_other_commands_of_a_page_have_the_options_that_they_are_shown_with(page):
    for line in commands(page):
        words = shlex.split(line.split(">")[0])
        if words[0] == "cola" and "--completion" not in words:  # which prints, and exits
            make_parser().parse_args(words[1:])
        elif words[:3] == ["python", "-m", "benchmarks"]:  # hours of measurement: read, and not run
            with pytest.raises(SystemExit) as ended:
                benchmarks([*words[3:], "--help"])
            assert ended.value.code == 0, line


def test_the_set_up_commands_of_the_readme_are_the_two_that_are_promised():
    installs = [line for line in commands("README.md") if "pip install" in line]
    assert installs == ["pip install -e . && cola demo", "pip install -e '.[test]' && pytest"]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_of_the_repository(page):
    """As a reader of the sources follows them; `tests/test_site.py` follows those of the built site."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target) or target.startswith("#"):
            continue
        path = (ROOT / page).parent.joinpath(target.split("#")[0]).resolve()
        name = str(path.relative_to(ROOT))
        assert path.exists(), f"{page} links to {target}, which is not there"
        assert not any(name.startswith(made) for made in GENERATED), (
            f"{page} links to {target}, which is generated"
        )


def test_the_table_of_the_readme_has_the_figures_of_its_results():
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("|")
    }
    folder, arms = ROOT / "benchmarks/results/compare", ("latent", "token", "token-frozen")

    def short(number: float) -> str:
        return f"{number:.2f}".removeprefix("0")

    for task, name in (
        ("arithmetic", "level-2 arithmetic solved"),
        ("textrooms", "text games won"),
        ("countdown", "Countdown reward (.1 the form, .9 the answer)"),
    ):
        report = json.loads((folder / task / "report.json").read_text())
        rewards = [report["arms"][arm]["figures"]["reward"] for arm in arms]
        cells = [f"{short(one['before']['mean'])} → {short(one['after']['mean'])}" for one in rewards]
        assert rows[name] == [*cells, short(report["floors"]["constant-code"]["reward"]["mean"])]
        assert {report["arms"][arm]["runs"] for arm in arms} == {16}

    report = json.loads((folder / "thinking/report.json").read_text())
    times = [report["arms"][arm]["times"] for arm in arms]
    cells = [f"{one['episodes']['median']:,.0f} ({one['cpu_s']['median']:.1f} s)" for one in times]
    constant = short(report["floors"]["constant-code"]["reward"]["mean"])
    assert rows["format reward: rollouts to .9 (CPU time)"] == [*cells, f"earns {constant}"]

    runs = [json.loads(line) for line in (folder / "thinking/runs.jsonl").read_text().splitlines()]
    cells = []
    for arm in arms:
        without = [run for run in runs if run["phase"] == "frontier" and run["arm"] == arm]
        assert [run["options"]["kl_coef"] for run in without] == [0, 0, 0, 0]
        before, after = (
            np.mean([run[when]["arithmetic"] for run in without]) for when in ("before", "after")
        )
        cells.append(f"{short(before)} → {short(after)}")
    assert rows["level-1 arithmetic, after format training without KL (4 runs)"] == [*cells, ""]


def test_the_table_of_the_environments_has_the_figures_and_budgets_of_its_records():
    rows = {
        cells[0].strip("`"): cells[2:]
        for line in (ROOT / "docs/environments.md").read_text().splitlines()
        if line.startswith("| `CoLA-") and len(cells := [cell.strip() for cell in line.split("|")[1:-1]]) == 5
    }
    budgets = {name: int(cells[2].replace(",", "")) for name, cells in rows.items()}
    assert budgets == {
        key: spec.kwargs["default_max_tokens"]
        for key, spec in PACKAGE_IDS.items()
        if spec.kwargs["actions"] == "latent"
    }

    card = json.loads((ROOT / "cola_agents/bundled/metrics.json").read_text())["cola"]
    for name, measures in (
        ("Arithmetic", {"arithmetic": "arithmetic_1", "arithmetic_level_2": "arithmetic_2"}),
        ("Math500", {"word_problems": "math500"}),
        ("Thinking", {"format_reward": "thinking"}),
        ("Countdown", {"countdown": "countdown"}),
        ("TextRooms", {"text_rooms": "textrooms"}),
    ):
        before, floors, _ = rows[f"CoLA-{name}-v0"]
        assert re.findall(r"\.\d\d", before) == [f"{card[key]:.2f}"[1:] for key in measures]
        records = [
            json.loads((ROOT / f"benchmarks/results/random_codes/{record}.json").read_text())
            for record in measures.values()
        ]
        assert floors.split(", ") == [f"{record['reward']:.2f}"[1:] for record in records]
        for record in records:
            assert record["fingerprint"] == card["fingerprint"]
            assert record["actions"] == "uniformly random"
            assert record["episodes"] == card["episodes"]
