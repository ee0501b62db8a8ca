"use strict";
(() => {
  // Everything on the page comes from this JSON, and enters the document as text nodes and attributes alone.
  const data = JSON.parse(document.getElementById("data").textContent);
  const words = data.words || [];
  const episodes = data.episodes || [];

  // ------------------------------------------------------------ small things

  function fill(node, props, children) {
    for (const [name, value] of Object.entries(props || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
      else if (name === "css") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined) node.append(child instanceof Node ? child : String(child));
    }
    return node;
  }
  const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);
  const svg = (tag, props, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
  const put = (node, ...children) => { node.replaceChildren(); return fill(node, null, children); };

  /** A token's text with signs for what cannot be seen. */
  const visible = (text) => text === "" ? "∅" : text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");
  const chance = (p) => p === undefined ? "" : p > 0 && p < 0.0005 ? "<.001" : p.toFixed(3);
  const share = (p) => `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`;
  /** A recorded number as it was recorded. */
  const exact = (x) => x === null || x === undefined ? "–" : String(x);
  const short = (x) => Number.isInteger(x) ? x.toLocaleString("en") : Number(x.toPrecision(4)).toString();
  const hue = (code) => (code * 137.508) % 360;
  const plural = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;
  const chip = (text, code) => el("span", { class: "chip", css: code === undefined ? {} : { "--hue": hue(code) } }, text);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const noun = (episode) => episode.level === "latent" ? "code" : "token id";

  function facts(pairs) {
    return el("dl", { class: "facts" }, pairs.filter(([, value]) => value !== undefined && value !== null)
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { "data-fact": name }, value))));
  }

  // ------------------------------------------------------------ an episode: its text and its panel

  const reward = (episode) => sum(episode.steps.map((step) => step.reward || 0));

  function headline(episode) {
    const ended = { terminated: "ended", truncated: "cut" }[episode.ended] || "running";
    const won = episode.success === true ? "solved" : episode.success === false ? "not solved" : null;
    const paid = episode.steps.some((step) => step.reward !== undefined);
    return facts([["reward", paid ? short(reward(episode)) : null], ["outcome", won], ["episode", ended],
      ["steps", episode.steps.length], ["problem seed", exact(episode.problem_seed)], ["seed", exact(episode.seed)]]);
  }

  function details(episode) {
    const rows = Object.entries(episode.info || {});
    if (!rows.length) return null;
    return el("details", { class: "info" }, el("summary", {}, "What the task says at the end"),
      el("table", {}, el("tbody", {}, rows.map(([name, value]) =>
        el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value))))));
  }

  /** How strongly a token is tinted, and in which hue, by what is chosen to colour by. */
  function tint(episode, step, by) {
    if (by === "code" || step === undefined) return { "--hue": hue(step ? step.action : 0), "--strength": 1 };
    const scale = Math.max(1e-9, ...episode.steps.map((one) => Math.abs(one[by] || 0)));
    const value = by === "probability" ? -Math.exp(step.log_prob ?? 0) : step[by] ?? 0;
    if (by === "probability") return { "--hue": 25, "--strength": Math.max(0, 1 + value) };
    return { "--hue": value >= 0 ? 150 : 5, "--strength": Math.abs(value) / scale };
  }

  /** A bar a step: how likely its action was; a line: the value; a mark where a reward was paid. */
  function timeline(episode, pick) {
    const steps = episode.steps, told = steps.map(likelihood);
    if (steps.length < 2 || told.every((p) => p === undefined)) return null;
    const w = 600, h = 74, gap = w / Math.max(steps.length, 24), values = steps.map((step) => step.value);
    const low = Math.min(0, ...values.filter((v) => v !== undefined)), high = Math.max(1, ...values.filter((v) => v !== undefined));
    const y = (v) => h - 4 - (h - 8) * (v - low) / (high - low);
    const lines = values.some((v) => v !== undefined);
    return [svg("svg", { viewBox: `0 0 ${w} ${h}`, class: "chart", role: "img", "aria-label": "The steps: probability, value and reward" },
      steps.map((step, i) => svg("rect", { x: i * gap, y: 0, width: gap, height: h, class: "hit", "data-at": i, on: { click: () => pick(i) } },
        svg("title", {}, `step ${i + 1}: probability ${chance(told[i])}`))),
      steps.map((step, i) => svg("rect", { x: (i + 0.15) * gap, y: h - h * (told[i] || 0), width: gap * 0.7, height: h * (told[i] || 0), class: "bar-of", css: { "--hue": hue(step.action) } })),
      lines ? svg("polyline", { points: values.map((v, i) => v === undefined ? "" : `${(i + 0.5) * gap},${y(v).toFixed(1)}`).join(" "), class: "line value" }) : null,
      steps.map((step, i) => step.reward ? svg("circle", { cx: (i + 0.5) * gap, cy: 7, r: 5, class: step.reward > 0 ? "paid" : "fined" }, svg("title", {}, `reward ${exact(step.reward)}`)) : null)),
    el("figcaption", {}, `A bar a step: the probability of its ${noun(episode)}.${lines ? " Line: the value of the state." : ""} Dot: a reward was paid.`)];
  }

  /** The probability of a step's action: as it was drawn, or else by its table. */
  function likelihood(step) {
    if (step.log_prob !== undefined) return Math.exp(step.log_prob);
    return step.table && (step.table.policy || step.table.prior)[step.table.codes.indexOf(step.action)];
  }

  function viewer(start, compact) {
    const at = { episode: start, step: 0, row: null, order: "policy", colour: "code" };
    const text = el("article", { class: "text" });
    const steps = el("figure", { class: "steps" });
    const panel = el("aside", { class: "panel", "aria-live": "polite" });
    const top = el("div", { class: "top" });
    const choice = el("select", { "aria-label": "Episode", on: { change: () => show(Number(choice.value)) } },
      episodes.map((one, i) => el("option", { value: i }, one.name)));
    const colours = el("select", { "aria-label": "Colour by", on: { change: () => { at.colour = colours.value; paint(); } } });
    const name = el("h2", {});
    const bar = el("div", { class: "bar" }, compact ? name : [
      el("button", { type: "button", title: "Episode before ([)", on: { click: () => turn(-1) } }, "‹"), choice,
      el("button", { type: "button", title: "Episode after (])", on: { click: () => turn(1) } }, "›")],
    el("label", {}, "Colour by ", colours));
    const node = el("section", { class: compact ? "viewer compact" : "viewer" }, bar, top,
      el("div", { class: "columns" }, el("div", {}, text, steps), panel));
    node.addEventListener("focusin", () => { active = api; });
    node.addEventListener("click", () => { active = api; });
    const episode = () => episodes[at.episode];
    const step = () => episode().steps[at.step];

    function show(index) {
      at.episode = index; at.step = 0; at.row = null;
      choice.value = String(index);
      put(name, episode().name);
      const has = (name) => episode().steps.some((one) => typeof one[name] === "number");
      const ways = ["code", ...(has("log_prob") ? ["probability"] : []), ...["value", "advantage"].filter(has)];
      put(colours, ways.map((way) => el("option", { value: way }, way === "code" ? noun(episode()) : way)));
      at.colour = ways.includes(at.colour) ? at.colour : "code";
      colours.value = at.colour;
      put(top, headline(episode()), details(episode()));
      put(steps, timeline(episode(), (i) => pick(i, true)));
      draw(); pick(firstWithFutures(), false);
    }

    /** The first token to look at: one where other futures are told, or else the first. */
    function firstWithFutures() {
      const found = episode().steps.findIndex((one) => one.others);
      return found < 0 ? 0 : found;
    }

    function draw() {
      put(text, episode().pieces.map((piece) => {
        if (!piece.steps.length) return el("span", { class: "task" }, piece.text);
        const first = episode().steps[piece.steps[0]];
        return el("span", { class: first.others ? "token forks" : "token", role: "button", tabindex: -1,
          "data-step": piece.steps[0], "data-last": piece.steps[piece.steps.length - 1],
          title: `${noun(episode())} ${piece.steps.map((i) => episode().steps[i].action).join(" ")}`,
          on: { click: () => pick(piece.steps[0], true) } },
        piece.text === "" ? "∅" : piece.text.replace(/\n/g, "↵\n"));
      }));
      if (!episode().steps.length) text.append(el("p", { class: "quiet" }, "No step has been taken yet."));
      paint();
    }

    function paint() {
      for (const token of text.querySelectorAll(".token")) {
        const way = tint(episode(), episode().steps[Number(token.dataset.step)], at.colour);
        for (const [name, value] of Object.entries(way)) token.style.setProperty(name, value);
      }
    }

    function pick(index, focus) {
      if (!episode().steps.length) { put(panel); return; }
      at.step = Math.min(Math.max(index, 0), episode().steps.length - 1);
      at.row = step().table ? step().table.codes.indexOf(step().action) : null;
      for (const token of text.querySelectorAll(".token")) {
        const here = Number(token.dataset.step) <= at.step && at.step <= Number(token.dataset.last);
        token.setAttribute("tabindex", here ? 0 : -1);
        token.setAttribute("aria-pressed", here);
        if (here && focus) token.focus({ preventScroll: false });
      }
      for (const bar of steps.querySelectorAll("rect")) bar.classList.toggle("now", Number(bar.dataset.at) === at.step);
      drawPanel();
      if (!compact) remember(`episode/${at.episode}/${at.step}`);
    }

    function drawPanel() {
      const one = step(), table = one.table;
      const own = table ? table.codes.indexOf(one.action) : -1;
      const said = table && own >= 0 && !episode().world_temperature ? visible(words[table.tokens[own]]) : pieceOf(at.step);
      const number = (values) => values ? chance(values[own]) : undefined;
      put(panel,
        el("h2", {}, chip(said, one.action), el("small", {}, ` ${noun(episode())} ${one.action}, step ${at.step + 1} of ${episode().steps.length}`)),
        facts([["reward", one.reward === undefined ? null : exact(one.reward)],
          ["log-probability", one.log_prob === undefined ? null : exact(one.log_prob)],
          ["policy", table && number(table.policy)], ["prior", table && number(table.prior)],
          ["value", one.value === undefined ? null : short(one.value)],
          ["advantage", one.advantage === undefined ? null : short(one.advantage)]]),
        table ? future(one, table) : el("p", { class: "quiet" }, "What other actions would have said here is not in this page."),
        table ? tableOf(one, table) : null);
    }

    function pieceOf(index) {
      const piece = episode().pieces.find((each) => each.steps.includes(index));
      return piece ? visible(piece.text) : "∅";
    }

    /** What the chosen row says, who says the same, and where it would have led. */
    function future(one, table) {
      const row = at.row ?? 0, code = table.codes[row], token = table.tokens[row];
      const same = table.codes.filter((_, i) => table.tokens[i] === token && i !== row);
      const weights = table.policy || table.prior;
      const together = sum(weights.filter((_, i) => table.tokens[i] === token));
      const box = el("div", { class: "future" });
      box.append(el("p", {}, code === one.action ? "Taken: " : "Instead: ", chip(code, code), " says ",
        el("q", {}, visible(words[token])), ". ",
        episode().level !== "latent" ? null : same.length
          ? el("span", { class: "same" }, `${plural(same.length, "other code")} ${same.length === 1 ? "says" : "say"} the same: `,
            same.slice(0, 8).map((other) => [chip(other, other), " "]), same.length > 8 ? `and ${same.length - 8} more, ` : null, `together ${chance(together)} of the ${table.policy ? "policy" : "prior"}.`)
          : el("span", { class: "same" }, "No other code says it.")));
      const led = one.others && one.others.find((other) => other.token === token);
      if (led) {
        const end = led.ended ? `the episode ends with reward ${short(led.reward)}` : `not ended after ${plural(led.steps, "step")}`;
        const draw = episode().world_temperature ? ", the world model drawn once" : "";
        box.append(
          el("p", { class: "led" }, el("span", { class: "task" }, "…"), el("span", { class: "token plain" }, led.text.replace(/\n/g, "↵\n")),
            led.ended ? null : el("span", { class: "task" }, "…")),
          el("p", { class: "quiet" }, `Played on with the likeliest ${noun(episode())} at each step${draw}: ${end}.`));
      } else {
        box.append(el("p", { class: "quiet" }, one.others ? "Too unlikely: where it would have led was not computed."
          : episodes.some((each) => each.steps.some((some) => some.others)) ? "Where it would have led was computed at the tokens with a dot."
            : "Where it would have led was not computed."));
      }
      return box;
    }

    function tableOf(one, table) {
      const weights = table.policy || table.prior;
      const groups = new Map();
      table.tokens.forEach((token, i) => groups.set(token, (groups.get(token) || 0) + weights[i]));
      const order = table.codes.map((_, i) => i);
      if (at.order === "code") order.sort((a, b) => table.codes[a] - table.codes[b]);
      if (at.order === "token") order.sort((a, b) => groups.get(table.tokens[b]) - groups.get(table.tokens[a]) || table.tokens[a] - table.tokens[b] || a - b);
      const latent = episode().level === "latent";
      const chosen = table.tokens[at.row ?? 0];
      const sorter = (name, title) => el("th", { scope: "col", "aria-sort": at.order === name ? "ascending" : null },
        el("button", { type: "button", "data-order": name, on: { click: () => { at.order = name; drawPanel(); } } }, title));
      const most = Math.max(...weights, ...(table.prior || [0]), 1e-9);
      const rows = order.map((i) => el("tr", {
        class: [i === at.row ? "chosen" : "", latent && table.tokens[i] === chosen ? "alike" : "", table.codes[i] === one.action ? "taken" : ""].join(" ").trim(),
        "data-row": i, on: { click: () => choose(i) } },
      el("td", {}, chip(table.codes[i], table.codes[i])), el("td", { class: "word" }, visible(words[table.tokens[i]])),
      el("td", { class: "weight" }, el("div", { class: "meter", css: { "--p": weights[i] / most, "--hue": hue(table.codes[i]) } },
        table.policy && table.prior ? el("i", { css: { "--p": table.prior[i] / most } }) : null)),
      table.policy ? el("td", { class: "number" }, chance(table.policy[i])) : null,
      table.prior ? el("td", { class: "number" }, chance(table.prior[i])) : null,
      latent ? el("td", { class: "number" }, chance(table.token_p[i])) : null));
      const all = table.codes.length < episode().num_actions ? `The ${table.codes.length} likeliest of ${episode().num_actions}.` : null;
      return el("div", { class: "scroll" }, el("table", { class: "codes" },
        el("thead", {}, el("tr", {}, sorter("code", noun(episode())), sorter("token", "token"), el("th", { class: "weight" }),
          table.policy ? sorter("policy", "policy") : null,
          table.prior ? (table.policy ? el("th", { scope: "col", title: "the initial policy; the tick on the bar" }, "prior") : sorter("policy", "prior")) : null,
          latent ? el("th", { scope: "col", title: "the world model's probability of this token, given the code" }, "world") : null)),
        el("tbody", {}, rows)), all ? el("p", { class: "quiet" }, all) : null);
    }

    function choose(row) {
      at.row = row;
      const scrolled = panel.querySelector(".scroll").scrollTop;
      drawPanel();
      const scroll = panel.querySelector(".scroll"), chosen = scroll.querySelector(".chosen");
      scroll.scrollTop = scrolled;
      const above = chosen.offsetTop - scroll.scrollTop;
      if (above < 30 || above > scroll.clientHeight - 40) scroll.scrollTop = chosen.offsetTop - scroll.clientHeight / 2;
    }

    function move(by) {
      const rows = [...panel.querySelectorAll("tr[data-row]")];
      const now = rows.findIndex((row) => Number(row.dataset.row) === at.row);
      const next = rows[Math.min(Math.max(now + by, 0), rows.length - 1)];
      if (next) choose(Number(next.dataset.row));
    }

    const turn = (by) => show((at.episode + by + episodes.length) % episodes.length);
    const api = { node, show, turn, move, pick, step: (by) => pick(at.step + by, true), ends: (last) => pick(last ? Infinity : 0, true) };
    show(start);
    return api;
  }

  // ------------------------------------------------------------ the views

  let active = null;

  function lead() {
    const latent = episodes.find((one) => one.level === "latent");
    return el("p", { class: "lead" }, latent
      ? [`A code is one of ${latent.num_actions} actions. The policy picks a code, and the world model turns the text so far and the code into the next token. `,
        "Each ", el("span", { class: "token", css: { "--hue": hue(17), "--strength": 1 } }, "coloured"), " token was written by a code, whose colour it has; ",
        el("span", { class: "task" }, "grey"), " text is the task's. Choose a token to see what every code would have said there, and a row to see where that would have led."]
      : ["Each coloured token is the agent's; ", el("span", { class: "task" }, "grey"), " text is the task's. Choose a token to see what else was likely there."]);
  }

  function episodeView(words_) {
    const made = viewer(Number(words_[0]) || 0, false);
    if (words_[1] !== undefined) made.pick(Number(words_[1]), false);
    active = made;
    return el("div", {}, lead(), made.node);
  }

  function pairView() {
    const left = viewer(data.pairs[0].left, true), right = viewer(data.pairs[0].right, true);
    active = left;
    const select = el("select", { "aria-label": "Problem", on: { change: () => {
      const pair = data.pairs[Number(select.value)];
      left.show(pair.left); right.show(pair.right);
    } } }, data.pairs.map((pair, i) => el("option", { value: i },
      `${episodes[pair.left].name} | ${episodes[pair.right].name}`)));
    return el("div", {}, el("p", { class: "lead" }, "One problem played twice. ", select), el("div", { class: "pair" }, left.node, right.node));
  }

  function codesView() {
    const book = data.codebook, m = book.metrics;
    const most = Math.max(...book.codes.map((code) => code.share));
    const panel = el("aside", { class: "panel", "aria-live": "polite" });
    const bars = (pairs) => el("ul", { class: "bars" }, pairs.map(([text, part]) =>
      el("li", {}, el("span", { class: "word" }, text), el("div", { class: "meter", css: { "--p": part } }), el("span", { class: "number" }, share(part)))));
    const cells = book.codes.map((code) => el("button", { type: "button", class: code.uses ? "cell" : "cell dead",
      "data-code": code.code, css: { "--hue": hue(code.code), "--strength": Math.sqrt(code.share / most) },
      "aria-label": `code ${code.code}, ${code.uses ? `${share(code.share)} of use` : "never used"}`, on: { click: () => choose(code) } },
    el("b", {}, code.code), el("span", { class: "word" }, code.uses ? code.next_tokens[0][0] : "unused"), el("small", {}, code.uses ? share(code.share) : "")));
    function choose(code) {
      for (const cell of cells) cell.setAttribute("aria-pressed", Number(cell.dataset.code) === code.code);
      put(panel, el("h2", {}, chip(code.code, code.code), el("small", {}, code.uses ? " what follows where it is used" : " is never used")),
        facts([["uses", short(code.uses)], ["share", share(code.share)], ["policy's share", share(code.policy_share)],
          ["different next tokens", code.distinct_tokens], ["their perplexity", short(code.token_perplexity)],
          ["information, nats", short(code.information)]]),
        code.uses ? [el("h3", {}, "Next tokens"), bars(code.next_tokens), el("h3", {}, "Text before"), bars(code.contexts)] : null);
    }
    const found = el("output", { class: "quiet" });
    const search = el("input", { type: "search", placeholder: "e.g. <think>", "aria-label": "Codes that lead to a token", on: { input: () => {
      const asked = search.value.replace(/ /g, "␣");
      const parts = book.codes.map((code) => Math.max(0, ...code.next_tokens.filter(([text]) => text.includes(asked)).map(([, part]) => part)));
      cells.forEach((cell, i) => cell.classList.toggle("faded", asked !== "" && !parts[i]));
      put(found, asked === "" ? "" : plural(parts.filter((part) => part > 0).length, "code"));
      if (asked !== "" && Math.max(...parts) > 0) choose(book.codes[parts.indexOf(Math.max(...parts))]);
    } } });
    choose(book.codes[0]);
    return el("div", {}, el("p", { class: "lead" }, `Measured on ${m.tokens.toLocaleString("en")} tokens of ${book.text}: the code that the inverse dynamics reads out of each token, the most used first.`),
      facts([["codes used", `${m.codes_used} of ${m.num_codes}`], ["dead", m.dead_codes], ["perplexity", short(m.codebook_perplexity)],
        ["mutual information with the next token", `${short(m.mutual_information_corrected)} nats`], ["different tokens a state", short(m.distinct_tokens)],
        ["next tokens within reach", share(m.reachability)]]),
      book.warnings.map((warning) => el("p", { class: "warning" }, warning)), useChart(book),
      el("div", { class: "bar" }, el("label", {}, "Codes that lead to ", search), found),
      el("div", { class: "columns" }, el("div", { class: "cells" }, cells), panel));
  }

  function useChart(book) {
    const w = 640, h = 110, n = book.codes.length, gap = w / n;
    const most = Math.max(...book.codes.map((code) => Math.max(code.share, code.policy_share)));
    const y = (value) => h - (h - 8) * value / most;
    return el("figure", {}, svg("svg", { viewBox: `0 0 ${w} ${h + 2}`, class: "chart use", role: "img", "aria-label": "Share of use of each code" },
      book.codes.map((code, i) => svg("rect", { x: i * gap + gap * 0.1, y: y(code.share), width: gap * 0.8, height: h - y(code.share), class: "column" },
        svg("title", {}, `code ${code.code}: ${share(code.share)}, policy ${share(code.policy_share)}`))),
      book.codes.map((code, i) => svg("circle", { cx: (i + 0.5) * gap, cy: y(code.policy_share), r: 2.4, class: "dot" })),
      svg("line", { x1: 0, x2: w, y1: y(1 / n), y2: y(1 / n), class: "even" })),
    el("figcaption", {}, `Bars: share of use by the inverse dynamics, up to ${share(most)}. Dots: the policy's mean probability. Dashed: even use.`));
  }

  function trainingView() {
    const run = data.run, marks = [];
    const charts = run.curves.map((curve) => chart(curve, marks));
    const samples = run.samples;
    const said = el("div", { class: "sample" });
    const at = el("output", {});
    const mark = (x) => { marks.forEach((move) => move(x)); put(at, `${short(x)} timesteps`); };
    const slider = el("input", { type: "range", min: 0, max: Math.max(0, samples.length - 1), value: samples.length - 1, "aria-label": "Sample", on: { input: () => choose(Number(slider.value)) } });
    function choose(i) {
      slider.value = i;
      put(said, el("p", { class: "text" }, samples[i].text));
      mark(samples[i].timesteps);
    }
    if (samples.length) choose(samples.length - 1);
    return el("div", {}, el("p", { class: "lead" }, `${run.title}. A point an update.`),
      samples.length ? el("div", { class: "samples" }, el("div", { class: "bar" }, el("label", {}, "What it wrote at ", at, samples.length > 1 ? slider : null)), said)
        : el("p", { class: "quiet" }, "No text samples were logged."),
      el("div", { class: "charts" }, charts));
  }

  function chart(curve, marks) {
    const w = 300, h = 120, known = curve.y.filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known), last = curve.x[curve.x.length - 1] || 1;
    const x = (value) => 4 + (w - 8) * value / last;
    const y = (value) => high === low ? h / 2 : h - 6 - (h - 12) * (value - low) / (high - low);
    const points = curve.x.map((value, i) => [value, curve.y[i]]).filter(([, value]) => value !== null);
    const line = svg("line", { y1: 0, y2: h, class: "mark" });
    const reading = el("b", {});
    marks.push((where) => {
      const near = points.reduce((a, b) => Math.abs(b[0] - where) < Math.abs(a[0] - where) ? b : a);
      line.setAttribute("x1", x(near[0])); line.setAttribute("x2", x(near[0]));
      put(reading, short(near[1]));
    });
    marks[marks.length - 1](last);
    return el("figure", { "data-curve": curve.name }, el("figcaption", {}, curve.name, " ", reading), svg("svg", { viewBox: `0 0 ${w} ${h}`, class: "chart", role: "img",
      "aria-label": `${curve.name}, from ${short(points[0][1])} to ${short(points[points.length - 1][1])}` }, line,
    svg("polyline", { points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "), class: "line" }),
    points.length < 60 ? points.map(([a, b]) => svg("circle", { cx: x(a), cy: y(b), r: 2, class: "column" }, svg("title", {}, `${short(a)} timesteps: ${exact(b)}`))) : null),
    el("div", { class: "range" }, el("span", {}, `${short(low)} to ${short(high)}`), el("span", {}, `${short(last)} timesteps`)));
  }

  function treeView() {
    const tree = data.tree, nodes = tree.nodes, total = Math.max(1, nodes[0].visits);
    const items = nodes.map((node) => {
      const line = [node.parent < 0 ? el("span", { class: "task" }, "the prompt") : el("span", { class: "token plain", css: { "--hue": hue(node.actions[0]) } }, visible(node.text)),
        node.actions.length ? el("span", { class: "actions" }, node.actions.slice(0, 6).map((code) => [chip(code, code), " "]), node.actions.length > 6 ? "…" : null) : null,
        el("span", { class: "meter", css: { "--p": node.visits / total } }),
        el("span", { class: "number" }, `${plural(node.visits, "visit")} · value ${short(node.value)} · prior ${chance(node.prior)}${node.terminal ? " · end" : ""}`)];
      return { line, below: [], more: node.more };
    });
    // Children stand behind their parents: from the last to the first each is whole when it is hung up.
    for (let i = nodes.length - 1; i > 0; i--) items[nodes[i].parent].below.unshift(built(items[i], nodes[i]));
    function built(item, node) {
      const more = item.more ? [el("p", { class: "quiet" }, `${item.more} more, less visited`)] : [];
      if (!item.below.length && !item.more) return el("div", { class: "leaf" }, item.line);
      return el("details", { open: node.depth < 3 }, el("summary", {}, item.line), item.below, more);
    }
    const root = built(items[0], { ...nodes[0], depth: 0 });
    const fold = (open) => root.querySelectorAll("details").forEach((one) => { one.open = open; });
    return el("div", {}, el("p", { class: "lead" }, `${tree.title}. Bars: share of all visits. Value: the mean return.`),
      el("div", { class: "bar" }, el("button", { type: "button", on: { click: () => fold(true) } }, "Unfold all"),
        el("button", { type: "button", on: { click: () => fold(false) } }, "Fold all")),
      el("p", { class: "text" }, el("span", { class: "task" }, tree.prompt), el("span", { class: "token plain" }, tree.answer === null ? "" : tree.answer)),
      el("div", { class: "tree" }, root));
  }

  // ------------------------------------------------------------ the page

  const views = [
    ["episode", "Episode", episodes.length, episodeView], ["pair", "Side by side", (data.pairs || []).length, pairView],
    ["codes", "Codes", data.codebook, codesView], ["training", "Training", data.run, trainingView], ["tree", "Search tree", data.tree, treeView],
  ].filter(([, , there]) => there);
  const main = document.getElementById("main");
  const tabs = views.map(([name, title], i) => el("button", { type: "button", role: "tab", id: `tab-${name}`, title: `${title} (${i + 1})`, on: { click: () => open(name, []) } }, title));

  const remember = (where) => history.replaceState(null, "", `#${where}`);

  function open(name, rest) {
    const i = Math.max(0, views.findIndex(([each]) => each === name));
    if (!views.length) { put(main, el("p", {}, "There is nothing on this page.")); return; }
    tabs.forEach((tab, k) => { tab.setAttribute("aria-selected", k === i); tab.setAttribute("tabindex", k === i ? 0 : -1); });
    active = null;
    put(main, views[i][3](rest));
    if (views[i][0] !== "episode") remember(views[i][0]);
  }

  function light() {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  }

  document.addEventListener("keydown", (event) => {
    const tag = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || tag === "INPUT" || tag === "SELECT") return;
    const onTab = event.target.getAttribute && event.target.getAttribute("role") === "tab";
    const acts = { t: light };
    views.forEach(([name], i) => { acts[String(i + 1)] = () => { open(name, []); tabs[i].focus(); }; });
    if (onTab) {
      const next = (by) => () => { const tab = tabs[(tabs.indexOf(event.target) + by + tabs.length) % tabs.length]; tab.click(); tab.focus(); };
      Object.assign(acts, { ArrowLeft: next(-1), ArrowRight: next(1) });
    } else if (active) {
      Object.assign(acts, { ArrowLeft: () => active.step(-1), ArrowRight: () => active.step(1), ArrowUp: () => active.move(-1), ArrowDown: () => active.move(1),
        Home: () => active.ends(false), End: () => active.ends(true), "[": () => active.turn(-1), "]": () => active.turn(1) });
    }
    if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
  });

  document.getElementById("title").textContent = data.title;
  document.getElementById("theme").addEventListener("click", light);
  document.getElementById("about").append(...(data.about || []).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  document.getElementById("views").append(...(tabs.length > 1 ? tabs : []));
  const [first, ...rest] = location.hash.slice(1).split("/");
  open(first, rest);
})();
