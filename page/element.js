// Elements and what is written into them. Everything that came from a prompt, a model or a file is
// text: it gets into the page as text nodes and attributes' values, never as markup.
import { moment, utc } from "./measure.js";

const SVG = /^(svg|g|line|path|rect|text|title)$/;
// Controls, what turns the direction of a text, and what has no width: there a text could hide.
// Some scripts and emoji need joiners (U+200C, U+200D) and are left as they are.
// A variation selector may follow a pictograph or, in a keycap, a digit: what follows others hides.
const INVISIBLE = new RegExp(String.raw`[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5` +
  String.raw`\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb` +
  String.raw`\u{e0000}-\u{e007f}\u{e0100}-\u{e01ef}]|(?<!\p{Extended_Pictographic}|[#*\d](?=.\u20e3))` +
  String.raw`[\ufe00-\ufe0f]|(?<![\p{M}\p{Script=Arabic}\p{Script=Devanagari}\p{Emoji_Modifier}` +
  String.raw`\p{Extended_Pictographic}])[\u200c\u200d]`, "gu");

export const $ = (selector, within = document) => within.querySelector(selector);
export function element(name, attributes = {}, ...children) {
  const namespace = `http://www.w3.org/${SVG.test(name) ? "2000/svg" : "1999/xhtml"}`;
  const node = document.createElementNS(namespace, name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
  node.append(...children.flat());
  return node;
}

export function visible(value, length = Infinity) {
  return written(value).slice(0, length).replace(INVISIBLE, (character) =>
    `[U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}
export const written = (value) =>
  (typeof value === "string" ? value : value == null ? "" : JSON.stringify(value, null, 2));
export const time = (text) =>
  element("time", { datetime: text, title: utc(text) }, moment(text) || visible(text, 100));
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

export function warn(view, warnings = []) {
  $(".warnings", view).replaceChildren(...warnings.map((text) => element("p", {}, visible(text))));
}
