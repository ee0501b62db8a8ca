// An episode: its text, its steps, and beside them what every action would have said at one of them.

/** The viewer that the keys go to. */
let active = null;

function headline(episode) {
  const ended = { terminated: "ended", truncated: "cut" }[episode.ended] || "running";
  const won = { true: "solved", false: "not solved" }[episode.success];
  const paid = episode.steps.map((step) => step.reward).filter((reward) => reward !== undefined);
  return facts([
    ["reward", paid.length ? short(sum(paid)) : null], ["outcome", won], ["episode", ended],
    ["steps", episode.steps.length],
    ["problem seed", exact(episode.problem_seed)], ["seed", exact(episode.seed)],
  ]);
}

function details(episode) {
  const rows = Object.entries(episode.info || {});
  if (!rows.length) return null;
  return el("details", { class: "info" }, el("summary", {}, "What the task says at the end"),
    el("table", {}, el("tbody", {}, rows.map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value))))));
}

/** The hue and the strength of a token, by what is chosen to colour by. */
function tint(episode, step, by) {
  if (by === "code") return { "--hue": hue(step.action), "--strength": 1 };
  if (by === "probability") return { "--hue": 25, "--strength": Math.max(0, 1 - Math.exp(step.log_prob)) };
  const most = Math.max(1e-9, ...episode.steps.map((one) => Math.abs(one[by] || 0)));
  const value = step[by] || 0;
  return { "--hue": value >= 0 ? 150 : 5, "--strength": Math.abs(value) / most };
}

/** The probability of a step's action: as it was drawn, or else by its table. */
function likelihood(step) {
  if (step.log_prob !== undefined) return Math.exp(step.log_prob);
  return step.table && weightsOf(step.table)[step.table.codes.indexOf(step.action)];
}
const weightsOf = (table) => table.policy || table.prior;

/** A bar a step: how likely its action was; a line: the value; a dot where a reward was paid. */
function timeline(episode, pick) {
  const steps = episode.steps, likely = steps.map(likelihood);
  if (steps.length < 2 || likely.every((p) => p === undefined)) return null;
  const w = 600, h = 74, gap = w / Math.max(steps.length, 24);
  const values = steps.map((step) => step.value), known = values.filter((value) => value !== undefined);
  const low = Math.min(0, ...known), high = Math.max(1, ...known);
  const y = (value) => h - 4 - ((h - 8) * (value - low)) / (high - low);
  const line = values.map((value, i) => (value === undefined ? "" : `${(i + 0.5) * gap},${y(value).toFixed(1)}`));
  const hits = steps.map((_, i) =>
    svg("rect", { x: i * gap, y: 0, width: gap, height: h, class: "hit", "data-at": i, on: { click: () => pick(i) } },
      svg("title", {}, `step ${i + 1}: probability ${chance(likely[i])}`)));
  const bars = steps.map((step, i) => {
    const tall = h * (likely[i] || 0);
    return svg("rect", { x: (i + 0.15) * gap, y: h - tall, width: gap * 0.7, height: tall, class: "step",
      css: { "--hue": hue(step.action) } });
  });
  const paid = steps.map((step, i) => (!step.reward ? null
    : svg("circle", { cx: (i + 0.5) * gap, cy: 7, r: 5, class: step.reward > 0 ? "paid" : "fined" },
      svg("title", {}, `reward ${exact(step.reward)}`))));
  const about = `A bar a step: the probability of its ${noun(episode)}.`
    + `${known.length ? " Line: the value of the state." : ""}${paid.some(Boolean) ? " Dot: a reward was paid." : ""}`;
  return [svg("svg", { viewBox: `0 0 ${w} ${h}`, class: "chart", role: "img", "aria-label": about }, hits, bars,
    known.length ? svg("polyline", { points: line.join(" "), class: "line value" }) : null, paid),
  el("figcaption", {}, about)];
}

/** What the chosen row of a table says, which codes say the same, and where it would have led. */
function future(episode, step, row) {
  const table = step.table, code = table.codes[row], token = table.tokens[row], weights = weightsOf(table);
  const same = table.codes.filter((_, i) => table.tokens[i] === token && i !== row);
  const together = sum(weights.filter((_, i) => table.tokens[i] === token));
  const others = same.slice(0, 8).map((other) => [chip(other, other), " "]);
  const who = episode.level !== "latent" ? null : !same.length ? "No other code says it."
    : [`${plural(same.length, "other code")} ${same.length === 1 ? "says" : "say"} the same: `, others,
      same.length > 8 ? `and ${same.length - 8} more, ` : null,
      `together ${chance(together)} of the ${table.policy ? "policy" : "prior"}.`];
  const says = el("p", {}, code === step.action ? "Taken: " : "Instead: ", chip(code, code), " says ",
    el("q", {}, visible(words[token])), ". ", el("span", { class: "same" }, who));
  const led = step.others && step.others.find((other) => other.token === token);
  return el("div", { class: "future" }, says, led ? ledTo(episode, led) : quiet(whyNot(step)));
}

function ledTo(episode, led) {
  const end = led.ended ? `the episode ends with reward ${short(led.reward)}` : `not ended after ${plural(led.steps, "step")}`;
  const draw = episode.world_temperature ? ", the world model drawn once" : "";
  return [el("p", { class: "led" }, el("span", { class: "task" }, "…"),
    led.runs.map((run) => el("span", { class: run.own ? "token plain" : "task" }, broken(run.text))), led.ended ? null : el("span", { class: "task" }, "…")),
  quiet(`Played on with the likeliest ${noun(episode)} at each step${draw}: ${end}.`)];
}

function whyNot(step) {
  if (step.others) return "Too unlikely: where it would have led was not computed.";
  const some = episodes.some((episode) => episode.steps.some((one) => one.others));
  return some ? "Where it would have led was computed at the tokens with a dot." : "Where it would have led was not computed.";
}

/** The order of a table's rows: by policy as they are, by code, or by token, the likeliest token first. */
function ordered(table, by) {
  const order = table.codes.map((_, i) => i), weights = weightsOf(table), groups = new Map();
  table.tokens.forEach((token, i) => groups.set(token, (groups.get(token) || 0) + weights[i]));
  const token = (i) => table.tokens[i];
  if (by === "code") order.sort((a, b) => table.codes[a] - table.codes[b]);
  if (by === "token") order.sort((a, b) => groups.get(token(b)) - groups.get(token(a)) || token(a) - token(b) || a - b);
  return order;
}

/** Every action of a step: its token, a bar, and its probabilities. `at` is a viewer's state. */
function tableOf(episode, step, at, choose, sort) {
  const table = step.table, weights = weightsOf(table), latent = episode.level === "latent";
  const both = table.policy && table.prior;
  const most = Math.max(1e-9, ...weights, ...(table.prior || []));
  const head = (title, tip, by) => el("th", { scope: "col", title: tip, "aria-sort": by && at.order === by ? "other" : null },
    by ? button(title, () => sort(by), { "data-order": by }) : title);
  const row = (i) => {
    const kind = { chosen: i === at.row, alike: latent && table.tokens[i] === table.tokens[at.row],
      taken: table.codes[i] === step.action };
    return el("tr", { class: Object.keys(kind).filter((name) => kind[name]).join(" "), "data-row": i, on: { click: () => choose(i) } },
      el("td", {}, chip(table.codes[i], table.codes[i])), el("td", { class: "word" }, visible(words[table.tokens[i]])),
      el("td", { class: "weight" },
        meter(weights[i] / most, table.codes[i], both ? el("i", { css: { "--p": table.prior[i] / most } }) : null)),
      table.policy ? el("td", { class: "number" }, chance(table.policy[i])) : null,
      table.prior ? el("td", { class: "number" }, chance(table.prior[i])) : null,
      latent ? el("td", { class: "number" }, chance(table.token_p[i])) : null);
  };
  return el("div", { class: "scroll" },
    el("table", { class: "codes" },
      el("thead", {}, el("tr", {}, head(noun(episode), null, "code"), head(episode.span > 1 ? "tokens" : "token", null, "token"),
        el("th", { class: "weight" }),
        table.policy ? head("policy", "of the policy that acted", "policy") : null,
        table.prior ? head("prior", "of the model's own policy, before training; the tick on a bar", both ? null : "policy") : null,
        latent ? head("world", `the world model's probability of ${episode.span > 1 ? "the first" : "this"} token, given the code`) : null)),
      el("tbody", {}, ordered(table, at.order).map(row))),
    table.codes.length < episode.num_actions ? quiet(`The ${table.codes.length} likeliest of ${episode.num_actions}.`) : null);
}

/** One episode at a time; a compact viewer is one of two, and cannot choose which. */
function viewer(start, compact) {
  const at = { episode: start, step: 0, row: 0, order: "policy", colour: "code" };
  const text = el("article", { class: "text" }), steps = el("figure", { class: "steps" });
  const panel = el("aside", { class: "panel", "aria-live": "polite" });
  const top = el("div", {}), name = el("h2", {});
  const choice = el("select", { "aria-label": "Episode", on: { change: () => show(Number(choice.value)) } },
    episodes.map((one, i) => el("option", { value: i }, one.name)));
  const colours = el("select", { on: { change: () => { at.colour = colours.value; paint(); } } });
  const bar = el("div", { class: "bar" },
    compact ? name : [button("‹", () => turn(-1), { title: "Episode before ([)" }), choice,
      button("›", () => turn(1), { title: "Episode after (])" })],
    el("label", {}, "Colour by ", colours));
  const node = el("section", { class: compact ? "viewer compact" : "viewer" }, bar, el("div", { class: "top" }, top),
    el("div", { class: "columns" }, el("div", {}, text, steps), panel));
  const episode = () => episodes[at.episode], step = () => episode().steps[at.step];

  function show(index) {
    at.episode = index;
    choice.value = String(index);
    put(name, episode().name);
    const has = (figure) => episode().steps.some((one) => typeof one[figure] === "number");
    const ways = ["code", ...(has("log_prob") ? ["probability"] : []), ...["value", "advantage"].filter(has)];
    put(colours, ways.map((way) => el("option", { value: way }, way === "code" ? noun(episode()) : way)));
    colours.value = at.colour = ways.includes(at.colour) ? at.colour : "code";
    put(top, headline(episode()), details(episode()));
    put(steps, timeline(episode(), (i) => pick(i, true)));
    put(text, episode().pieces.map(piece));
    paint();
    // First where other futures are told.
    pick(Math.max(0, episode().steps.findIndex((one) => one.others)), false);
  }

  function piece({ text, steps }) {
    if (!steps.length) return el("span", { class: "task" }, text);
    const taken = steps.map((i) => episode().steps[i]);
    return el("span", { class: taken.some((one) => one.others) ? "token forks" : "token", role: "button", tabindex: -1,
      "data-step": steps[0], "data-last": steps[steps.length - 1],
      title: `${noun(episode())} ${taken.map((one) => one.action).join(" ")}`,
      on: { click: () => pick(steps[0], true) } }, broken(text));
  }

  const tokens = () => [...text.querySelectorAll(".token")];

  function paint() {
    for (const token of tokens()) {
      fill(token, { css: tint(episode(), episode().steps[Number(token.dataset.step)], at.colour) }, []);
    }
  }

  function pick(index, focus) {
    if (!episode().steps.length) { put(panel, quiet("No step has been taken yet.")); return; }
    at.step = Math.min(Math.max(index, 0), episode().steps.length - 1);
    at.row = step().table ? step().table.codes.indexOf(step().action) : 0;
    for (const token of tokens()) {
      const here = Number(token.dataset.step) <= at.step && at.step <= Number(token.dataset.last);
      fill(token, { tabindex: here ? 0 : -1, "aria-pressed": String(here) }, []);
      if (here && focus) token.focus();
    }
    for (const hit of steps.querySelectorAll(".hit")) hit.classList.toggle("now", Number(hit.dataset.at) === at.step);
    draw();
    if (!compact) remember(`episode/${at.episode}/${at.step}`);
  }

  function draw() {
    const one = step(), table = one.table, own = table ? table.codes.indexOf(one.action) : -1;
    const said = episode().pieces.find((each) => each.steps.includes(at.step));
    put(panel,
      el("h2", {}, chip(visible(said ? said.text : ""), one.action),
        el("small", {}, ` ${noun(episode())} ${one.action}, step ${at.step + 1} of ${episode().steps.length}`)),
      facts([["reward", told(one.reward, exact)], ["log-probability", told(one.log_prob, exact)],
        ["policy", table && table.policy && chance(table.policy[own])],
        ["prior", table && table.prior && chance(table.prior[own])],
        ["value", told(one.value, exact)], ["advantage", told(one.advantage, exact)]]),
      table ? [future(episode(), one, at.row), tableOf(episode(), one, at, choose, sort)]
        : quiet(`What another ${noun(episode())} would have said here is not in this page.`));
  }

  function sort(by) {
    at.order = by;
    draw();
  }

  function choose(row) {
    const before = panel.querySelector(".scroll").scrollTop;
    at.row = row;
    draw();
    const scroll = panel.querySelector(".scroll"), chosen = scroll.querySelector(".chosen");
    scroll.scrollTop = before;
    const above = chosen.offsetTop - before;
    if (above < 30 || above > scroll.clientHeight - 40) scroll.scrollTop = chosen.offsetTop - scroll.clientHeight / 2;
  }

  function move(by) {
    const rows = [...panel.querySelectorAll("tr[data-row]")];
    const now = rows.findIndex((row) => Number(row.dataset.row) === at.row);
    const next = rows[Math.min(Math.max(now + by, 0), rows.length - 1)];
    if (next) choose(Number(next.dataset.row));
  }

  const turn = (by) => show((at.episode + by + episodes.length) % episodes.length);
  const api = { node, show, move, pick, turn: compact ? () => {} : turn,
    step: (by) => pick(at.step + by, true), end: (last) => pick(last ? Infinity : 0, true) };
  for (const event of ["focusin", "click"]) node.addEventListener(event, () => { active = api; });
  show(start);
  return api;
}
