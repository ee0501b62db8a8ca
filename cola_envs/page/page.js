// The page: its head, its tabs and its keys.

const views = [
  ["episode", "Episode", episodes.length, episodeView],
  ["pair", "Side by side", (data.pairs || []).length, pairView],
  ["codes", "Codes", data.codebook, codesView],
  ["training", "Training", data.run, trainingView],
  ["tree", "Search tree", data.tree, treeView],
].filter(([, , there]) => there);
const tabs = views.map(([name, title], i) =>
  button(title, () => turnTo(name, []), { role: "tab", id: `tab-${name}`, title: `${title} (${i + 1})` }));

/** Keep in the address what is looked at. */
function remember(place) {
  history.replaceState(null, "", `#${place}`);
}

/** Show a view; the first for a name that there is none of. */
function turnTo(name, rest) {
  const i = Math.max(0, views.findIndex(([each]) => each === name));
  tabs.forEach((tab, k) => fill(tab, { "aria-selected": String(k === i), tabindex: k === i ? 0 : -1 }, []));
  active = null;
  put(document.getElementById("main"), views[i][3](rest));
  if (views[i][0] !== "episode") remember(views[i][0]);
}

function changeLight() {
  const root = document.documentElement;
  const theme = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = theme === "dark" ? "light" : "dark";
}

/** What a key does where the focus is; undefined for nothing. */
function act(key, target) {
  if (key === "t") return changeLight;
  if (views[Number(key) - 1]) return () => { turnTo(views[Number(key) - 1][0], []); tabs[Number(key) - 1].focus(); };
  const tab = tabs.indexOf(target);
  if (tab >= 0) {
    const next = (by) => () => { const one = tabs[(tab + by + tabs.length) % tabs.length]; one.click(); one.focus(); };
    return { ArrowLeft: next(-1), ArrowRight: next(1) }[key];
  }
  return active && {
    ArrowLeft: () => active.step(-1), ArrowRight: () => active.step(1),
    ArrowUp: () => active.move(-1), ArrowDown: () => active.move(1),
    Home: () => active.end(false), End: () => active.end(true),
    "[": () => active.turn(-1), "]": () => active.turn(1),
  }[key];
}

document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  const found = act(event.key, event.target);
  if (found) {
    event.preventDefault();
    found();
  }
});

put(document.getElementById("title"), data.title);
document.getElementById("theme").addEventListener("click", changeLight);
put(document.getElementById("about"), (data.about || []).map(([name, value]) =>
  el("div", {}, el("dt", {}, name), el("dd", {}, value))));
put(document.getElementById("views"), tabs.length > 1 ? tabs : null);
const [place, ...rest] = location.hash.slice(1).split("/");
turnTo(place, rest);
