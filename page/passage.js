// A text to be read: as Markdown, or as it was written; a long one piece by piece.
import { element, visible, written } from "./element.js";
import { blocks, cut } from "./markdown.js";
import { size } from "./measure.js";

const SHOWN = 20_000; // characters of a text at first: a browser lays out megabytes for seconds
const [STEP, TIME] = [1_000_000, 100]; // of what is shown then: characters, and ms to draw them
let plain = false; // what the reader has chosen for the texts of entries
export const showPlain = (chosen) => { plain = chosen; };

export function passage(value, kind = "") {
  let rest = written(value).replace(/\r\n?/g, "\n");
  const length = rest.length;
  const isPlain = plain || kind;
  const body = element("div", { class: `text ${isPlain ? kind : "markdown"}`, dir: "auto" });
  const more = element("button", { type: "button", class: "quiet" });
  const show = (most) => {
    const [started, left] = [performance.now(), rest.length];
    do {
      const [piece, ...others] = isPlain ? [rest.slice(0, most), rest.slice(most)] : cut(rest);
      body.append(...isPlain ? [element("span", {}, visible(piece))] : blocks(piece).flatMap(({ nodes }) => nodes));
      [rest] = others;
    } while (rest && most > SHOWN && left - rest.length < most && performance.now() - started < TIME);
    more.hidden = !rest;
    more.textContent = `Show more of ${size(length)}`;
  };
  more.addEventListener("click", () => show(STEP));
  show(SHOWN);
  return length > SHOWN ? element("div", {}, body, more) : body;
}

// A text as Markdown that is still coming. What is drawn stays as it is, but for the last block.
export function growing() {
  const node = element("div", { class: "text markdown", dir: "auto" });
  let [rest, last] = ["", []];
  const grow = (more) => {
    rest = (rest + more).replace(/\r\n|\r(?!$)/g, "\n");
    last.forEach((each) => each.remove());
    for (let piece; rest.length > SHOWN;) {
      [piece, rest] = cut(rest);
      node.append(...blocks(piece).flatMap(({ nodes }) => nodes));
    }
    const all = blocks(rest);
    const end = Math.max(0, all.findLastIndex(({ type }) => type !== "space"));
    all.slice(0, end).forEach(({ raw, nodes }) => {
      rest = rest.slice(raw.length);
      node.append(...nodes);
    });
    last = all.slice(end).flatMap(({ nodes }) => nodes)
      .map((each) => (each.nodeType ? each : document.createTextNode(each)));
    node.append(...last);
  };
  return { node, grow };
}
