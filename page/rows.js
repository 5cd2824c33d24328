// The log's rows: an entry in each, and those of one conversation together under a row of their own.
import { write } from "./address.js";
import { prompted } from "./conversation.js";
import { $, element, time, visible } from "./element.js";
import { count, duration, rate, short } from "./measure.js";

export const FIELDS = "id,finished_at,status,model,user_agent,endpoint,duration_ms,ttft_ms," +
  "prompt_tokens,response_tokens,response_ms,streamed,prompt_chars,response_chars,tool_calls,error," +
  "conversation,preview";
const PROGRAM = /^[^\s/]+(\/[A-Za-z][^\s/]*)?/; // as `log/figures.py` names a client
const body = $("#log tbody");
const groups = new Map(); // the entries of a conversation with their rows, newest first

export const program = (entry) => PROGRAM.exec(entry.user_agent ?? "")?.[0] ?? "";
const line = (text) => visible(text, 1000).trim().split(/[\n\r]/, 1)[0].slice(0, 200);
export const firstLine = (entry) => line(prompted(entry)) || "(no text)";
const question = (entry) => firstLine({ ...entry, prompt: entry.preview?.prompt });
const known = (entries, key) => [...new Set(entries.map(key))].filter(Boolean).join(", ");
const sum = (entries, key) => entries.reduce((all, it) => all + (it[key] || 0), 0);
const tokens = (entries) => sum(entries, "prompt_tokens") + sum(entries, "response_tokens");

// What a tool was called with, on one line.
const given = (call) => visible(JSON.stringify(call?.function?.arguments ?? call?.arguments), 200);

// The tools that were called, each with how often; of a single one also what it was called with.
function called(entries) {
  const times = new Map();
  for (const call of entries.flatMap((it) => it.tool_calls ?? [])) {
    const name = visible(call?.function?.name ?? call?.name, 60);
    if (name) times.set(name, (times.get(name) ?? 0) + 1);
  }
  const names = [...times].map(([name, n]) => (n > 1 ? `${name} ×${n}` : name));
  const only = entries.length === 1 && names.length === 1 ? ` ${given(entries[0].tool_calls[0])}` : "";
  return names.length ? `called ${names.join(", ")}${only}` : "";
}

// What a row says below the question: where the search matched, or what came of it.
function below(entries) {
  const match = entries.find((it) => it.preview?.match)?.preview.match;
  if (match) {
    const part = (text) => visible(text).replace(/\s+/g, " ");
    return [element("span", {}, `in ${visible(match.key, 20).replace("_", " ")}: `), part(match.before),
      element("mark", {}, part(match.text)), part(match.after)];
  }
  const { error, preview } = entries[0];
  const begin = visible(preview?.response || error).replace(/\s+/g, " ").trim().slice(0, 200);
  return [[called(entries), begin].filter(Boolean).join(" · ")];
}

function row(attributes, cells) {
  return element("tr", attributes, Object.entries(cells).map(([name, shown]) =>
    element("td", { class: name }, name === "prompt" ? shown : element("bdi", {}, shown))));
}

function entryRow(entry, filter) {
  const { id, status, model, endpoint } = entry;
  return row({ "data-id": id, "data-status": status }, {
    time: time(entry.finished_at), status: visible(status, 100),
    prompt: [element("a", { href: write("log", filter, id) }, element("bdi", {}, question(entry))),
      element("p", { dir: "auto" }, below([entry]))],
    model: visible(model, 100), program: visible(program(entry), 100),
    endpoint: visible(endpoint, 100), tokens: short(tokens([entry]) || null),
    duration: duration(entry.duration_ms), rate: short(rate(entry)),
  });
}

function groupRow(group) {
  const entries = group.members.map(({ entry }) => entry);
  const status = entries[0].status;
  const button = element("button", { type: "button", "aria-expanded": group.open },
    element("bdi", {}, question(entries.at(-1))));
  button.addEventListener("click", () => {
    group.open = !group.open;
    button.ariaExpanded = group.open;
    for (const member of group.members) member.row.hidden = !group.open;
  });
  return row({ class: "group", "data-status": status }, {
    time: time(entries[0].finished_at), status: visible(status, 100),
    prompt: [button, element("p", { dir: "auto" },
      element("span", { class: "requests" }, count(entries.length, "request")), " ", below(entries))],
    model: visible(known(entries, ({ model }) => model), 100),
    program: visible(known(entries, program), 100),
    endpoint: visible(known(entries, ({ endpoint }) => endpoint), 100),
    tokens: short(tokens(entries) || null), duration: duration(sum(entries, "duration_ms")), rate: "",
  });
}

// Put an entry's row beside those of its conversation; a new one takes them to the top.
function join(group, member, isNew) {
  const first = group.head ?? group.members[0].row;
  group.members[isNew ? "unshift" : "push"](member);
  const head = groupRow(group);
  const focused = group.head?.contains(document.activeElement);
  if (isNew) body.prepend(head);
  else first.before(head);
  group.head?.remove();
  group.head = head;
  head.after(...group.members.map((each) => each.row));
  group.members.forEach((each, i, { length }) => {
    each.row.classList.add("member");
    each.row.hidden = !group.open;
    $("p", each.row).dataset.number = length - i;
  });
  if (focused) $("button", head).focus();
}

// Add the rows of entries that are not there yet: older ones at the end, new ones, oldest first,
// on top. Return how many they are.
export function add(entries, { filter, grouped, isNew }) {
  const fresh = entries.filter(({ id }) => !$(`[data-id="${CSS.escape(id)}"]`, body));
  for (const entry of isNew ? fresh.toReversed() : fresh) {
    const member = { entry, row: entryRow(entry, filter) };
    const name = grouped && entry.conversation;
    const group = name && groups.get(name);
    if (group) join(group, member, isNew);
    else body[isNew ? "prepend" : "append"](member.row);
    if (name && !group) groups.set(name, { members: [member], open: false });
  }
  return fresh.length;
}

export function clear() {
  groups.clear();
  body.replaceChildren();
}

export const ids = () => [...body.querySelectorAll("[data-id]")].map((each) => each.dataset.id);
