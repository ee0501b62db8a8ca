"""The documentation site builds without a warning, and its pages stand by themselves.

With ``COLA_SITE`` set to a folder, the site is left there.
"""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest

import cola_envs  # noqa: F401 (registers the ids)

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    find_spec("furo") is None or find_spec("myst_parser") is None, reason="needs the extra docs"
)


class Page(HTMLParser):
    """The ids of a page, what it links to, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if names.get("id"):
            self.ids.add(names["id"])
        if tag == "a" and names.get("href"):
            self.links.append(names["href"])
        elif tag == "link" and names.get("rel") in ("stylesheet", "preload", "icon") and names.get("href"):
            self.loaded.append(names["href"])
        elif tag in ("script", "img", "source", "iframe", "video") and names.get("src"):
            self.loaded.append(names["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: a folder, and its pages by their path."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--fresh-env", "--quiet"]
    built = subprocess.run([*command, "docs", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    if folder := os.environ.get("COLA_SITE"):
        shutil.copytree(out, folder, dirs_exist_ok=True)
    return out, {path: Page(path) for path in out.rglob("*.html") if "_static" not in path.parts}


def test_no_link_of_the_site_is_dead(site):
    _, pages = site
    dead = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"(https?|mailto):", link):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].ids):
                dead.append(f"{path.name}: {link}")
    assert len(pages) > 40
    assert not dead


def test_a_page_of_the_site_loads_nothing_from_the_network(site):
    folder, pages = site
    loaded = {(path, address) for path, page in pages.items() for address in page.loaded}
    assert not [one for one in loaded if re.match(r"(https?:)?//", one[1])]
    assert all((path.parent / address.split("?")[0]).resolve().exists() for path, address in loaded)
    styles = "".join(path.read_text() for path in folder.rglob("*.css"))
    assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", styles)


def test_every_environment_has_a_page_with_its_parts(site):
    folder, _ = site
    # In a process of its own: other tests register tasks in this one.
    code = "import cola_envs, gymnasium; print(*gymnasium.registry)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ids = [env_id for env_id in printed.split() if re.fullmatch(r"CoLA-\w+-v0", env_id)]
    assert len(ids) >= 11
    for env_id in ids:
        text = (folder / "environments" / f"{env_id.split('-')[1].lower()}.html").read_text()
        headings = re.findall(r"<h2>(.*?)<", text)
        for wanted in ("Prompt", "[Rr]eward", "[Ee]nd|[Ee]pisode", "Data", "Version", "Arguments"):
            assert any(re.search(wanted, heading) for heading in headings), (env_id, wanted, headings)
        assert "Discrete(64)" in text
        if env_id != "CoLA-ALFWorld-v0":  # whose games cannot be had here
            assert re.search(r'src="\.\./_images/\w+\.gif"', text), env_id


@pytest.mark.parametrize("name", ["household", "scienceworld"])
def test_the_recorded_transcripts_are_what_the_engines_say(name, monkeypatch):
    pytest.importorskip({"household": "textworld", "scienceworld": "scienceworld"}[name])
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import environment_pages

    recorded = (ROOT / "docs/transcripts" / f"{name}.txt").read_text()
    assert environment_pages.played_transcript(name) == recorded
