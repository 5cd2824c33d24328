// Markdown as elements. The lexer of marked takes the text apart; what it finds is made into
// elements here, and texts into text nodes, so that nothing of it is ever markup.
import { copy, element, visible } from "./element.js";
import { Lexer } from "./vendor/marked.esm.js";

const LONGEST = 20_000; // characters: for some texts the lexer takes seconds beyond that
const PARAGRAPH = 4000; // its time for emphasis grows with the square of a paragraph's length
const DEEPEST = 30; // elements within each other: a browser overflows at some thousand
const SCHEMES = /^(https?|mailto):/i;
const NAMES = { strong: "strong", em: "em", del: "del", paragraph: "p", blockquote: "blockquote" };
const ENTITIES = { lt: "<", gt: ">", amp: "&", quot: '"', "#39": "'", nbsp: "\u00a0" };
const decoded = (text) =>
  visible(text.replace(/&(lt|gt|amp|quot|#39|nbsp);/g, (_, name) => ENTITIES[name]));

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
  return element("div", { class: "block" },
    element("div", { class: "bar" }, element("span", {}, name), button),
    element("pre", { tabindex: 0, role: "group", "aria-label": name },
      element("code", {}, visible(text))));
}

function table({ header, rows }, depth) {
  const row = (name) => (cells) => element("tr", {}, cells.map(({ tokens, align }) =>
    element(name, { class: align }, nodes(tokens, depth))));
  return element("div", { class: "scroller", tabindex: 0, role: "group", "aria-label": "Table" },
    element("table", {}, element("thead", {}, row("th")(header)),
      element("tbody", {}, rows.map(row("td")))));
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
    case "hr": return element("hr");
    case "br": return element("br");
    case "space": case "checkbox": return "";
    case "escape": return visible(text);
    case "text": return tokens ? nodes(tokens, depth) : decoded(text);
    default: return visible(raw); // HTML, and where a link's name leads
  }
}
const nodes = (tokens, depth) => tokens.flatMap((token) => node(token, depth + 1));

// Return a text as elements; null if it is too long, or not to be taken apart.
export function markdown(text) {
  if (text.length > LONGEST) return null;
  try {
    return nodes(lex(text), 0);
  } catch {
    return null; // the lexer's stack overflowed: nothing that somebody has written to be read
  }
}
