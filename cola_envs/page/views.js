// The views: an episode, two side by side, the codebook, a run's training, a search tree.

function episodeView([index, step]) {
  const latent = episodes.find((one) => one.level === "latent");
  const grey = el("span", { class: "task" }, "grey");
  const lead = latent
    ? [`A code is one of ${latent.num_actions} actions. The policy picks a code, and the world model turns the text so far and `,
      "the code into the next token. Each ",
      el("span", { class: "token", css: { "--hue": hue(17), "--strength": 1 } }, "coloured"),
      " token was written by a code, whose colour it has; ", grey, " text is the task's. ",
      "Choose a token to see what every code would have said there, and a row to see where that would have led."]
    : ["Each coloured token is the agent's; ", grey, " text is the task's. Choose a token to see what else was likely there."];
  const made = viewer(Math.min(Number(index) || 0, episodes.length - 1), false);
  if (step !== undefined) made.pick(Number(step) || 0, false);
  active = made;
  return [el("p", { class: "lead" }, lead), made.node];
}

function pairView() {
  const left = viewer(data.pairs[0].left, true), right = viewer(data.pairs[0].right, true);
  active = left;
  const title = (pair) => `${episodes[pair.left].name} | ${episodes[pair.right].name}`;
  const select = el("select", { "aria-label": "Pair", on: { change: () => {
    const pair = data.pairs[Number(select.value)];
    left.show(pair.left);
    right.show(pair.right);
  } } }, data.pairs.map((pair, i) => el("option", { value: i }, title(pair))));
  return [el("p", { class: "lead" }, "One problem played twice. ", select),
    el("div", { class: "pair" }, left.node, right.node)];
}

function codesView() {
  const book = data.codebook, m = book.metrics, most = Math.max(...book.codes.map((code) => code.share));
  const panel = el("aside", { class: "panel", "aria-live": "polite" });
  const cells = book.codes.map((code) => button(
    [el("b", {}, code.code), el("span", { class: "word" }, code.uses ? code.next_tokens[0][0] : "unused"),
      el("small", {}, code.uses ? share(code.share) : "")],
    () => choose(code),
    { class: code.uses ? "cell" : "cell dead", "data-code": code.code,
      "aria-label": `code ${code.code}, ${code.uses ? `${share(code.share)} of use` : "never used"}`,
      css: { "--hue": hue(code.code), "--strength": Math.sqrt(code.share / most) } }));

  function choose(code) {
    for (const cell of cells) cell.setAttribute("aria-pressed", Number(cell.dataset.code) === code.code);
    put(panel,
      el("h2", {}, chip(code.code, code.code), el("small", {}, code.uses ? " where it is used" : " is never used")),
      facts([["uses", short(code.uses)], ["share", share(code.share)], ["policy's share", share(code.policy_share)],
        ["different next tokens", code.distinct_tokens], ["their perplexity", short(code.token_perplexity)],
        ["information, nats", short(code.information)]]),
      code.uses ? [el("h3", {}, "Next tokens"), bars(code.next_tokens), el("h3", {}, "Text before"), bars(code.contexts)] : null);
  }

  const found = el("output", { class: "quiet" });
  const search = el("input", { type: "search", placeholder: "e.g. <think>", on: { input: () => {
    const asked = search.value.replace(/ /g, "␣");
    const hits = (code) => code.next_tokens.filter(([text]) => text.includes(asked)).map(([, part]) => part);
    const parts = book.codes.map((code) => Math.max(0, ...hits(code))), best = Math.max(...parts);
    cells.forEach((cell, i) => cell.classList.toggle("faded", asked !== "" && !parts[i]));
    put(found, asked === "" ? "" : plural(parts.filter((part) => part > 0).length, "code"));
    if (asked !== "" && best > 0) choose(book.codes[parts.indexOf(best)]);
  } } });
  choose(book.codes[0]);
  return [
    el("p", { class: "lead" }, `Measured on ${short(m.tokens)} tokens of ${book.text}: the code that the inverse dynamics `,
      "reads out of each token, the most used first. In each cell: a code, its most frequent next token, its share of use."),
    facts([["codes used", `${m.codes_used} of ${m.num_codes}`], ["dead", m.dead_codes],
      ["perplexity", short(m.codebook_perplexity)],
      ["mutual information with the next token", `${short(m.mutual_information_corrected)} nats`],
      ["different tokens a state", short(m.distinct_tokens)], ["next tokens within reach", share(m.reachability)]]),
    book.warnings.map((warning) => el("p", { class: "warning" }, warning)), useChart(book),
    el("div", { class: "bar" }, el("label", {}, "Codes that lead to ", search), found),
    el("div", { class: "columns" }, el("div", { class: "cells" }, cells), panel)];
}

const bars = (pairs) => el("ul", { class: "bars" }, pairs.map(([text, part]) =>
  el("li", {}, el("span", { class: "word" }, text), meter(part), el("span", { class: "number" }, share(part)))));

function useChart(book) {
  const w = 640, h = 110, n = book.codes.length, gap = w / n;
  const most = Math.max(...book.codes.map((code) => Math.max(code.share, code.policy_share)));
  const y = (value) => h - ((h - 8) * value) / most;
  const column = (code, i) =>
    svg("rect", { x: (i + 0.1) * gap, y: y(code.share), width: gap * 0.8, height: h - y(code.share), class: "column" },
      svg("title", {}, `code ${code.code}: ${share(code.share)}, policy ${share(code.policy_share)}`));
  const dot = (code, i) => svg("circle", { cx: (i + 0.5) * gap, cy: y(code.policy_share), r: 2.4, class: "dot" });
  return el("figure", {},
    svg("svg", { viewBox: `0 0 ${w} ${h + 2}`, class: "chart use", role: "img", "aria-label": "Share of use of each code" },
      book.codes.map(column), book.codes.map(dot),
      svg("line", { x1: 0, x2: w, y1: y(1 / n), y2: y(1 / n), class: "even" })),
    el("figcaption", {}, `Bars: share of use by the inverse dynamics, up to ${share(most)}. `,
      "Dots: the policy's mean probability. Dashed: even use."));
}

function trainingView() {
  const run = data.run, samples = run.samples, marks = [];
  const charts = run.curves.map((curve) => chart(curve, marks));
  const said = el("p", { class: "text sample" }), where = el("output", {});
  const slider = el("input", { type: "range", min: 0, max: Math.max(0, samples.length - 1),
    "aria-label": "Sample", on: { input: () => choose(Number(slider.value)) } });
  function choose(i) {
    slider.value = i;
    put(said, samples[i].text);
    put(where, `${short(samples[i].timesteps)} timesteps`);
    marks.forEach((mark) => mark(samples[i].timesteps));
  }
  if (samples.length) choose(samples.length - 1);
  return [el("p", { class: "lead" }, `${run.title}. A point an update; the dashed line is at the sample of text.`),
    samples.length
      ? el("div", { class: "samples" }, el("div", { class: "bar" },
        el("label", {}, "What it wrote at ", where, samples.length > 1 ? slider : null)), said)
      : quiet("No samples of text were logged."),
    el("div", { class: "charts" }, charts)];
}

/** A curve; adds to `marks` a function that moves its mark to some timesteps. */
function chart(curve, marks) {
  const points = curve.x.map((value, i) => [value, curve.y[i]]).filter(([, value]) => value !== null);
  const w = 300, h = 120, values = points.map(([, value]) => value), last = curve.x[curve.x.length - 1] || 1;
  const low = Math.min(...values), high = Math.max(...values);
  const x = (value) => 4 + ((w - 8) * value) / last;
  const y = (value) => h - 6 - ((h - 12) * (value - low)) / (high - low || 1);
  const line = svg("line", { y1: 0, y2: h, class: "mark" }), reading = el("b", {});
  const mark = (timesteps) => {
    const away = (point) => Math.abs(point[0] - timesteps);
    const near = points.reduce((a, b) => (away(b) < away(a) ? b : a));
    fill(line, { x1: x(near[0]), x2: x(near[0]) }, []);
    put(reading, short(near[1]));
  };
  marks.push(mark);
  mark(last);
  const dots = points.length > 60 ? null : points.map(([a, b]) =>
    svg("circle", { cx: x(a), cy: y(b), r: 2, class: "column" }, svg("title", {}, `${short(a)} timesteps: ${exact(b)}`)));
  return el("figure", { "data-curve": curve.name }, el("figcaption", {}, curve.name, " ", reading),
    svg("svg", { viewBox: `0 0 ${w} ${h}`, class: "chart", role: "img",
      "aria-label": `${curve.name}, from ${short(values[0])} to ${short(values[values.length - 1])}` }, line,
    svg("polyline", { points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "), class: "line" }), dots),
    el("div", { class: "range" }, el("span", {}, `${short(low)} to ${short(high)}`), el("span", {}, `${short(last)} timesteps`)));
}

function treeView() {
  const tree = data.tree, nodes = tree.nodes, total = Math.max(1, nodes[0].visits), below = nodes.map(() => []);
  const line = (node) => [
    node.parent < 0 ? el("span", { class: "task" }, "the prompt")
      : el("span", { class: "token plain", css: { "--hue": hue(node.actions[0]) } }, visible(node.text)),
    node.actions.slice(0, 6).map((code) => [chip(code, code), " "]), node.actions.length > 6 ? "…" : null,
    meter(node.visits / total),
    el("span", { class: "number" }, `${plural(node.visits, "visit")} · value ${short(node.value)}`,
      node.parent < 0 ? null : ` · prior ${chance(node.prior)}`, node.terminal ? " · end" : null)];
  const built = (i) => (!below[i].length && !nodes[i].more ? el("div", { class: "leaf" }, line(nodes[i]))
    : el("details", { open: nodes[i].depth < 3 }, el("summary", {}, line(nodes[i])), below[i],
      nodes[i].more ? quiet(`${nodes[i].more} more, less visited`) : null));
  // Children stand behind their parents: from the last to the first each is whole when it is hung up.
  for (let i = nodes.length - 1; i > 0; i--) below[nodes[i].parent].unshift(built(i));
  const root = built(0);
  const fold = (open) => () => root.parentNode.querySelectorAll("details").forEach((one) => { one.open = open; });
  const answer = tree.answer === null ? "" : tree.answer;
  return [el("p", { class: "lead" }, `${tree.title}. Bars: share of all visits. Value: the mean return.`),
    el("p", { class: "text" }, el("span", { class: "task" }, tree.prompt), el("span", { class: "token plain" }, answer)),
    el("div", { class: "bar" }, button("Unfold all", fold(true)), button("Fold all", fold(false))),
    el("div", { class: "tree" }, root)];
}
