// Elements and what is written into them. Everything that came from a prompt, a model or a file is
// text: it gets into the page as text nodes and attributes' values, never as markup.
import { size } from "./measure.js";

const SVG = /^(svg|g|line|path|rect|text|title)$/;
const SHOWN = 20_000; // characters of a text at first: a browser lays out megabytes for seconds
const STEP = 1_000_000;
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

export const $ = (selector, within = document) => within.querySelector(selector);
export function element(name, attributes = {}, ...children) {
  const namespace = `http://www.w3.org/${SVG.test(name) ? "2000/svg" : "1999/xhtml"}`;
  const node = document.createElementNS(namespace, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat());
  return node;
}

// A text with its control characters, and those that turn the direction of what follows, visible.
export function visible(value, length = Infinity) {
  return written(value).slice(0, length).replace(INVISIBLE, (character) =>
    `[U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

export const written = (value) =>
  (typeof value === "string" ? value : value == null ? "" : JSON.stringify(value, null, 2));

// A text to be read, a long one from its beginning and more on demand.
export function passage(value, kind = "") {
  const text = written(value);
  const body = element("div", { class: `text ${kind}`, dir: "auto" });
  let end = 0;
  const show = (length) => {
    body.append(element("span", {}, visible(text.slice(end, end += length))));
    more.hidden = end >= text.length;
    const rest = text.length - end > STEP ? `${size(STEP)} more` : "all";
    more.textContent = `Show ${rest} of ${size(text.length)}`;
  };
  const more = element("button", { type: "button", class: "quiet" });
  more.addEventListener("click", () => show(STEP));
  show(SHOWN);
  return element("div", {}, body, more);
}

// Copy a text, and say on the button whether it went.
export async function copy(text, { target }) {
  const label = target.textContent;
  const copied = navigator.clipboard?.writeText(text) ?? Promise.reject();
  target.textContent = await copied.then(() => "Copied", () => "The browser does not allow it");
  setTimeout(() => { target.textContent = label; }, 1500);
}

// Say what went wrong within a view; nothing takes it back.
export function fail(view, error) {
  $(".problem", view).textContent = error ? visible(error.message) : "";
  $(".problem", view).hidden = !error;
}
