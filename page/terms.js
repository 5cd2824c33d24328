// The words that a search looked for, marked in what is shown.
import { element } from "./element.js";

const TERM = /"([^"]+)"(?!\S)|(\S+)/g; // as `log/filter.py` takes a search apart
const escape = (term) => term.normalize().replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
export function pattern(search = "") {
  const terms = [...search.matchAll(TERM)].map(([, quoted, word]) => escape(quoted ?? word));
  return terms.length ? new RegExp(terms.sort((a, b) => b.length - a.length).join("|"), "giu") : null;
}
export function marked(text, words) {
  let end = 0;
  const nodes = [...words ? text.matchAll(words) : []].flatMap(({ 0: word, index }) =>
    [text.slice(end, index), element("mark", {}, text.slice(index, end = index + word.length))]);
  return [...nodes, text.slice(end)];
}

export function markAll(root, words) {
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  while (words && texts.nextNode()) {
    const { data, parentNode } = texts.currentNode;
    if (parentNode.nodeName !== "MARK" && data.search(words) >= 0) found.push(texts.currentNode);
  }
  for (const node of found) node.replaceWith(...marked(node.data, words));
}
