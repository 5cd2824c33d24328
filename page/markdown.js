// Markdown as elements. The lexer of marked takes the text apart; what it finds is made into
// elements here, and texts into text nodes, so that nothing of it is ever markup.
import { $, copy, element, visible } from "./element.js";
import { Lexer } from "./vendor/marked.esm.js";

const LONGEST = 20_000; // characters: for some texts the lexer takes seconds beyond that
const PARAGRAPH = 4000; // its time for emphasis grows with the square of a paragraph's length
const DEEPEST = 30; // elements within each other: a browser overflows at some thousand
const SCHEMES = /^(https?|mailto):/i;
const NAMES = { strong: "strong", em: "em", del: "del", paragraph: "p", blockquote: "blockquote" };
// By their names. The browser has read them in the page: there is no other way but by markup.
const ENTITIES = new Map($("#entities").content.textContent.trim().split(/[ \n]+/).map((it) => it.split("=")));
const decoded = (text) => visible(text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w+));/gi, (all, ten, hex, name) => {
  const code = Number(ten ?? `0x${hex}`);
  return name ? ENTITIES.get(name) ?? all : String.fromCodePoint(code > 0x10ffff ? 0xfffd : code);
}));

function lex(text) {
  const lexer = new Lexer({ gfm: true });
  lexer.blockTokens(text.replace(/\r\n?/g, "\n"), lexer.tokens);
  for (const { src, tokens } of lexer.inlineQueue) {
    if (src.length <= PARAGRAPH) lexer.inlineTokens(src, tokens);
    else tokens.push({ type: "text", raw: src, text: src });
  }
  return lexer.tokens;
}

function code({ text, lang }) {
  const button = element("button", { type: "button", class: "quiet" }, "Copy");
  button.addEventListener("click", (event) => copy(text, event));
  const name = visible(lang || "code", 40);
  const bar = element("div", { class: "bar" }, element("span", {}, name), button);
  return element("div", { class: "block" }, bar,
    element("pre", { tabindex: 0, role: "group", "aria-label": name }, element("code", {}, visible(text))));
}

function table({ header, rows }, depth) {
  const row = (name) => (cells) => element("tr", {}, cells.map(({ tokens, align }) =>
    element(name, { class: align }, nodes(tokens, depth))));
  return element("div", { class: "scroller", tabindex: 0, role: "group", "aria-label": "Table" }, element("table",
    {}, element("thead", {}, row("th")(header)), element("tbody", {}, rows.map(row("td")))));
}

function list({ ordered, start, items }, depth) {
  const box = ({ task, checked }) => (task ? `${checked ? "☑" : "☐"} ` : "");
  return element(ordered ? "ol" : "ul", { start: ordered ? start : null },
    items.map((item) => element("li", {}, box(item), nodes(item.tokens, depth))));
}

// A link says where it leads; one that leads to a script is text.
function link({ href, raw, tokens }, depth) {
  if (!SCHEMES.test(href)) return visible(raw);
  const target = { href, title: visible(href, 300), rel: "noopener noreferrer", target: "_blank" };
  return element("a", target, nodes(tokens, depth));
}

// A picture that is elsewhere is named, not fetched.
const picture = ({ text, href }) => element("span", { class: "elsewhere" },
  `Picture: ${[text, href].filter(Boolean).map((part) => visible(part, 300)).join(" · ")}`);

function node(token, depth) {
  const { type, text, raw, tokens } = token;
  if (depth > DEEPEST) return visible(raw);
  if (NAMES[type]) return element(NAMES[type], {}, nodes(tokens, depth));
  switch (type) {
    case "heading": return element("p", { class: `heading h${token.depth}`, role: "heading",
      "aria-level": 4 }, nodes(tokens, depth)); // whatever stands around it, no level is left out
    case "code": return code(token);
    case "codespan": return element("code", {}, visible(text));
    case "list": return list(token, depth);
    case "table": return table(token, depth);
    case "link": return link(token, depth);
    case "image": return picture(token);
    case "hr": case "br": return element(type);
    case "space": case "checkbox": return "";
    case "escape": return visible(text);
    case "text": return tokens ? nodes(tokens, depth) : decoded(text);
    default: return visible(raw); // HTML, and where a link's name leads
  }
}
const nodes = (tokens, depth) => tokens.flatMap((token) => node(token, depth + 1));

export function blocks(text) {
  try {
    return lex(text).map((token) => ({ ...token, nodes: [node(token, 1)].flat() }));
  } catch { // the lexer's stack overflowed: nothing that somebody has written to be read
    return [{ raw: text, nodes: [visible(text)] }];
  }
}

// Cut a text that is too long where a block ends, or within one of code, which then goes on.
export function cut(text) {
  if (text.length <= LONGEST) return [text, ""];
  let [fence, at, end] = ["", 0, 0];
  for (const line of text.slice(0, LONGEST).split("\n").slice(0, -1)) {
    at += line.length + 1;
    const [, mark] = /^\s*(`{3,}|~{3,}).{0,99}$/.exec(line) ?? [];
    if (fence && mark && fence.trim().startsWith(line.trim())) fence = "";
    else if (mark) fence ||= line;
    else if (!fence && !line.trim()) end = at;
  }
  end ||= at > fence.length + 1 ? at : LONGEST;
  return [text.slice(0, end), (fence && end >= at ? `${fence}\n` : "") + text.slice(end)];
}

export const withoutSigns = (text) => text
  .replace(/^[ \t]*(?:(?:```|~~~)[^\n`]*|-{3,}|\|?(?:[ \t]*:?-+:?[ \t]*\|)+(?:[ \t]*:?-+:?)?)[ \t]*$/gm, "")
  .replace(/^[ \t]*(?:#{1,6}|>|[-*+])[ \t]+(?=\S)/gm, "")
  .replace(/^[ \t]*\|(.*?)\|?[ \t]*$/gm, (_, cells) => cells.replaceAll("|", " · "))
  .replace(/(\*\*|`)(?=[^\s*`])(.*?)(?<=[^\s*`])\1/g, "$2");
