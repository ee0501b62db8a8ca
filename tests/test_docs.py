"""The Python of README.md and of every page in docs/ runs as it stands there, block after block."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
#: What is changed to run in seconds, on a CPU and on the models that :func:`folder` holds.
CHANGED = {
    "README.md": {"learn(100_000)": "learn(64)", "learn(50_000": "learn(64", "evaluate(256)": "evaluate(16)"},
    "docs/scaling.md": {"path/or/hub-id": "cola", 'device="cuda"': 'device="cpu"'},
    "docs/agent_tasks.md": {"range(16)": "range(1)"},
    "docs/training.md": {
        "path/or/hub-id": "base",
        '"corpus.txt"]))),': '"corpus.txt"])), steps=1, config={"rows": 2, "length": 48}),',
    },
}
#: What a page needs beyond the tests' own extra.
NEEDS = {"docs/agent_tasks.md": "scienceworld"}


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
    exec(compiled, {"__name__": "__main__"})


def test_every_change_is_of_a_page_that_has_code():
    assert all(PAGES[page] for page in (*CHANGED, *NEEDS))
