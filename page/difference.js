// What differs between two texts, word by word.
import { element, visible } from "./element.js";

const MOST = 4_000_000; // pairs of words that are compared; of longer texts the middle is marked
const words = (text) => text.match(/\s+|[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];

// For the words that two lists share in their order: whether each of a list's is one of these.
function common(a, b) {
  const shared = [a.map(() => false), b.map(() => false)];
  if (a.length * b.length > MOST) return shared;
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width); // of what follows two places
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      longest[at] = a[i] === b[j] ? longest[at + width + 1] + 1
        : Math.max(longest[at + width], longest[at + 1]);
    }
  }
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    const at = i * width + j;
    if (a[i] === b[j]) shared[0][i++] = shared[1][j++] = true;
    else if (longest[at + width] >= longest[at + 1]) i += 1;
    else j += 1;
  }
  return shared;
}

function marked(all, shared) {
  const nodes = [];
  for (let i = 0; i < all.length;) {
    let end = i + 1;
    while (end < all.length && shared[end] === shared[i]) end += 1;
    const text = visible(all.slice(i, end).join(""));
    nodes.push(shared[i] ? text : element("mark", {}, text));
    i = end;
  }
  return nodes;
}

export function difference(...texts) {
  const [a, b] = texts.map(words);
  let [begin, end] = [0, 0];
  while (begin < Math.min(a.length, b.length) && a[begin] === b[begin]) begin += 1;
  while (end < Math.min(a.length, b.length) - begin && a.at(-1 - end) === b.at(-1 - end)) end += 1;
  const middles = [a, b].map((all) => all.slice(begin, all.length - end));
  const shared = common(...middles);
  return [a, b].map((all, n) => marked(all,
    all.map((_, i) => i < begin || i >= all.length - end || shared[n][i - begin])));
}
