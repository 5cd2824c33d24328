// A text to be read: as Markdown, or as it was written; a long one from its beginning.
import { element, visible, written } from "./element.js";
import { markdown } from "./markdown.js";
import { size } from "./measure.js";

const SHOWN = 20_000; // characters of a text at first: a browser lays out megabytes for seconds
const STEP = 1_000_000;
let plain = false; // what the reader has chosen for all texts

export function showPlain(chosen) {
  plain = chosen;
}

// Return the text as elements; `kind` is `code` for what no Markdown is looked for in.
export function passage(value, kind = "") {
  const text = written(value);
  const rendered = !kind && !plain && markdown(text);
  if (rendered) return element("div", { class: "text markdown", dir: "auto" }, rendered);
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
