"""The Python of README.md and of every page in docs/ runs as it stands there, and README's commands too."""

import io
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import pytest

from benchmarks.__main__ import main as benchmarks
from cola_agents.cli import main
from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
#: What is changed to run in seconds, on a CPU and on the models that :func:`folder` holds.
CHANGED = {
    "README.md": {"learn(100_000)": "learn(64)", "learn(50_000": "learn(64", "evaluate(256)": "evaluate(16)"},
    "docs/libraries.md": {"learn(100_000)": "learn(64)"},
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


@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if blocks])
def test_the_code_of_a_page_runs_in_its_order(page, folder):
    code = "\n".join(PAGES[page])
    for old, new in CHANGED.get(page, {}).items():
        assert old in code, f"{page} no longer says {old}: change it here too"
        code = code.replace(old, new)
    compiled = compile(code, page, "exec")
    if page in NEEDS and find_spec(NEEDS[page]) is None:
        pytest.skip(f"{page} needs {NEEDS[page]}")
    registered = dict(gym.registry)
    try:
        exec(compiled, {"__name__": "__main__"})
    finally:  # other tests look at every id
        gym.registry.clear()
        gym.registry.update(registered)


def test_every_change_is_of_a_page_that_has_code():
    assert all(PAGES[page] for page in (*CHANGED, *NEEDS))


#: What is changed in README's commands to run in seconds.
SHORTER = {
    "--timesteps 50000": "--timesteps 64 --episodes 4 --quiet --num-envs 8",
    "--env level=2 --n 16": "--env level=2 --n 2 --problems 4 --num-envs 8",
    "--data tries.jsonl": "--data tries.jsonl --steps 1",
    "--search mcts-q --q q": "--search mcts-q --q q --simulations 1 --episodes 2",
    "cola eval --agent run": "cola eval --agent run --episodes 4",
    "--samples 8": "--samples 2 --episodes 2 --env max_tokens=8",
}


def test_the_commands_of_the_readme_run_in_their_order_in_an_empty_folder(tmp_path, monkeypatch):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for line in "\n".join(blocks).splitlines()]
    text = "\n".join(line for line in lines if line and "pip install" not in line)
    for old, new in SHORTER.items():
        assert old in text, f"README.md no longer says {old}: change it here too"
        text = text.replace(old, new)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(":quit\n" * 9))
    for line in text.splitlines():
        words = shlex.split(line)
        if words[0] == "cola":
            assert main(words[1:]) == 0, line
        else:  # hours of measurement: read, and not run
            assert words[:3] == ["python", "-m", "benchmarks"], line
            with pytest.raises(SystemExit) as ended:
                benchmarks([*words[3:], "--help"])
            assert ended.value.code == 0, line
