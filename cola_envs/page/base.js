"use strict";
// Everything on the page comes from this JSON, and enters the document as text nodes and attributes alone.
const data = JSON.parse(document.getElementById("data").textContent);
const words = data.words || [];
const episodes = data.episodes || [];

/** Give a node its attributes, listeners (`on`), custom properties (`css`) and children. */
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
const button = (text, click, props) => el("button", { type: "button", on: { click }, ...props }, text);

/** Put children in the place of what a node holds. */
function put(node, ...children) {
  node.replaceChildren();
  return fill(node, null, children);
}

/** A token's text with signs for what cannot be seen. */
const visible = (text) =>
  text === "" ? "∅" : text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");
/** Running text: line breaks are seen, and break lines. */
const broken = (text) => (text === "" ? "∅" : text.replace(/\n/g, "↵\n"));
const chance = (p) => (p === undefined ? "" : p > 0 && p < 0.0005 ? "<.001" : p.toFixed(3));
const share = (p) => `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`;
/** A recorded number as it was recorded. */
const exact = (x) => (x === null || x === undefined ? "–" : String(x));
const short = (x) => (Number.isInteger(x) ? x.toLocaleString("en") : Number(x.toPrecision(4)).toString());
const plural = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;
const sum = (values) => values.reduce((a, b) => a + b, 0);
const noun = (episode) => (episode.level === "latent" ? "code" : "token id");

/** A hue for each code: neighbours are far apart. */
const hue = (code) => (code * 137.508) % 360;
const chip = (text, code) => el("span", { class: "chip", css: { "--hue": hue(code) } }, text);
const quiet = (...children) => el("p", { class: "quiet" }, children);
const meter = (part, code, ...children) =>
  el("span", { class: "meter", css: code === undefined ? { "--p": part } : { "--p": part, "--hue": hue(code) } }, children);

/** Names and values on a line; those without a value are left out. */
function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== undefined && value !== null);
  return el("dl", { class: "facts" }, told.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", { "data-fact": name }, value))));
}
const told = (value, as) => (value === undefined || value === null ? null : as(value));
