// Elements and what is written into them. Everything that came from a prompt, a model or a file is
// text: it gets into the page as text nodes and attributes' values, never as markup.
import { moment, utc } from "./measure.js";

const SVG = /^(svg|g|line|path|rect|text|title)$/;
// Controls, what turns the direction of a text, and what has no width: there a text could hide.
// Some scripts and emoji need joiners (U+200C, U+200D) and are left as they are.
const INVISIBLE = new RegExp(String.raw`[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f` +
  String.raw`\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]|(?<![\p{M}\p{Script=Arabic}` +
  String.raw`\p{Script=Devanagari}\p{Emoji_Modifier}\p{Extended_Pictographic}])[\u200c\u200d]`, "gu");

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
    `[U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

export const written = (value) =>
  (typeof value === "string" ? value : value == null ? "" : JSON.stringify(value, null, 2));

// A moment of the log, in the reader's time and with UTC's on demand.
export const time = (text) => element("time", { datetime: text, title: utc(text) }, moment(text) || visible(text, 100));

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
