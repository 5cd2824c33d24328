// The log's rows: an entry in each, and those of one conversation together under a row of their own,
// which opens to all of them, the first one first. What is not loaded yet is asked for then: until
// that is known, a row says that there may be more.
import { write } from "./address.js";
import { prompted } from "./conversation.js";
import { $, element, time, visible } from "./element.js";
import { withoutSigns } from "./markdown.js";
import { compact, count, duration, rate, short } from "./measure.js";
import { marked, pattern } from "./terms.js";

export const FIELDS = "id,finished_at,status,model,user_agent,endpoint,duration_ms,ttft_ms," +
  "prompt_tokens,response_tokens,response_ms,streamed,prompt_chars,response_chars,tool_calls,error," +
  "conversation,preview";
const PROGRAM = /^[^\s/]+(\/[A-Za-z][^\s/]*)?/; // as `log/figures.py` names a client
const BEFORE = 15; // characters of what stands before a match: on a phone there is room for no more
const body = $("#log tbody");
const loaded = new Map(); // the group of every entry that the list holds, by the entry's id
const groups = new Map(); // those of conversations, by their names
let list = {}; // what the rows are of: the filter, whether it is one, and who asks for the rest
let goesOn = false; // whether the log has entries that are not loaded

export const [size, conversations] = [() => loaded.size, () => groups.size];
export const has = (id) => loaded.has(id);
export const program = (entry) => PROGRAM.exec(entry.user_agent ?? "")?.[0] ?? "";
const line = (text) => withoutSigns(visible(text, 1000)).trim().split(/[\n\r]/, 1)[0].slice(0, 200);
export const firstLine = (entry) => line(prompted(entry)) || "(no text)";
const question = (entry) => firstLine({ ...entry, prompt: entry.preview?.prompt });
const sum = (entries, key) => entries.reduce((all, it) => all + (it[key] || 0), 0);
const flat = (text) => withoutSigns(visible(text)).replace(/\s+/g, " ");
const given = (call) => visible(JSON.stringify(call?.function?.arguments ?? call?.arguments), 200);
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

function below(entries, newest) {
  const match = entries.findLast((it) => it.preview?.match)?.preview.match;
  if (match) {
    const [words, before] = [pattern(list.filter.q), flat(match.before)];
    const start = Math.max(0, before.length - BEFORE);
    return [element("span", { class: "where" }, `in ${visible(match.key, 20).replace("_", " ")}: `),
      ...marked((start ? "…" : "") + before.slice(start), words),
      element("mark", {}, flat(match.text)), ...marked(flat(match.after), words)];
  }
  const begin = flat(newest.preview?.response || visible(newest.error, 1000)).trim().slice(0, 200);
  return [[called(entries), begin].filter(Boolean).join(" · ")];
}

// The row of an entry, or of several; `more` says that there may be others, `of` what their tokens are.
function row(attributes, entries, newest, prompt, { more = "", of = "" } = {}) {
  const each = (read) => visible([...new Set(entries.map(read))].filter(Boolean).join(", "), 100);
  const [isOne, model] = [entries.length === 1, each((it) => it.model)];
  const tokens = sum(entries, "prompt_tokens") + sum(entries, "response_tokens");
  const brief = [model, tokens ? `${compact(tokens)}${more} tokens${of}` : ""].filter(Boolean).join(" · ");
  const cells = {
    time: time(newest.finished_at), status: visible(newest.status, 100), prompt, model,
    program: each(program), endpoint: each((it) => it.endpoint), tokens: tokens ? short(tokens) + more : "",
    duration: duration(isOne ? newest.duration_ms : sum(entries, "duration_ms")),
    rate: isOne ? short(rate(newest)) : "",
  };
  return element("tr", { ...attributes, "data-status": newest.status }, Object.entries(cells).map(([name, shown]) =>
    element("td", { class: name }, name !== "prompt" ? element("bdi", {}, shown)
      : [...shown, element("div", { class: "brief" }, brief)])));
}
const badge = (text) => [element("span", { class: "badge" }, text), " "];
function entryRow(entry, { group, number } = {}) {
  const matches = list.isFiltered && group?.matching?.has(entry.id) && !entry.preview?.match;
  const link = element("a", { href: write("log", list.filter, entry.id) }, element("bdi", {}, question(entry)));
  return row({ "data-id": entry.id, class: group && "member" }, [entry], entry, [link, element("p",
    { dir: "auto", "data-number": number }, matches ? badge("matches") : [], below([entry], entry))]);
}

function groupRow(group, entries) {
  const { own, all, matching, isWhole, open } = group;
  const isPart = list.isFiltered && !all;
  const isMore = all ? !isWhole : goesOn;
  const requests = count(entries.length, isPart ? "matching request" : "request") + (isMore ? " or more" : "") +
    (list.isFiltered && all ? `, ${new Set([...matching.keys(), ...own.map(({ id }) => id)]).size} matching` : "");
  const button = element("button", { type: "button", "aria-expanded": open },
    element("bdi", {}, question(entries[0])));
  button.addEventListener("click", () => toggle(group));
  const said = below(list.isFiltered ? own.toReversed() : entries, own[0]);
  return row({ class: "group" }, entries, own[0], [button,
    element("p", { dir: "auto" }, badge(requests), element("span", { class: "answer" }, said))],
  { more: isMore ? "+" : "", of: isPart ? "" : " in all" });
}

function render(group, isNew) {
  const { own, all = [], rows: old, open } = group;
  const ids = new Set(all.map(({ id }) => id));
  const entries = [...all, ...own.filter(({ id }) => !ids.has(id)).toReversed()];
  const isCounted = group.all ? group.isWhole : !goesOn && !list.isFiltered;
  const members = open ? entries.map((it, i) => entryRow(it, { group, number: isCounted ? i + 1 : null })) : [];
  const rows = group.rows = own.length < 2 ? [entryRow(own[0])] : [groupRow(group, entries), ...members];
  const focused = old?.find((each) => each.contains(document.activeElement));
  if (isNew) body.prepend(...rows);
  else if (old) old[0].before(...rows);
  else body.append(...rows);
  old?.forEach((each) => each.remove());
  const same = focused && (rows.find((each) => each.dataset.id === focused.dataset.id) ?? rows[0]);
  if (same) $("a, button", same).focus({ preventScroll: true });
}

// Close a group, or open it: to what is known of it, and then to all.
async function toggle(group) {
  group.open = !group.open;
  render(group);
  if (!group.open || group.all) return;
  await list.readWhole(group);
  if (groups.get(group.name) !== group) return;
  render(group);
  dispatchEvent(new Event("rows"));
}

// Add the rows of entries that are not there yet: older ones at the end, new ones, oldest first,
// on top. Return how many they are.
export function add(entries, { isNew, isMore }) {
  const fresh = entries.filter(({ id }) => !has(id));
  const changed = new Set(isMore === goesOn ? [] : groups.values());
  goesOn = isMore;
  for (const entry of isNew ? fresh.toReversed() : fresh) {
    const name = list.isGrouped && entry.conversation;
    const group = groups.get(name) ?? { name, own: [], open: false };
    if (name) groups.set(name, group);
    group.own[isNew ? "unshift" : "push"](entry);
    loaded.set(entry.id, group);
    if (isNew || !group.rows) render(group, isNew);
    else changed.add(group);
  }
  changed.forEach((group) => render(group));
  return fresh.length;
}

export function clear(of = list) {
  list = of;
  loaded.clear();
  groups.clear();
  body.replaceChildren();
}
export function reveal(id) {
  const group = loaded.get(id);
  if (group && !group.open && group.own.length > 1) toggle(group);
}

// What is seen next to an entry's row: the head of an open group is passed over.
export function beside(id, by) {
  const rows = [...body.rows];
  const at = rows.findIndex((each) => each.dataset.id === id);
  const isHead = rows[at + by] && $("button[aria-expanded=true]", rows[at + by]);
  const next = at < 0 ? null : rows[at + (isHead ? 2 * by : by)];
  const isSame = !isHead && [next, rows[at]].every((each) => each?.classList.contains("member"));
  return { next, isListed: at >= 0, isSame };
}

export async function neighbour(id, by) {
  const { next } = beside(id, by);
  const group = [...groups.values()].find(({ rows }) => rows[0] === next && !next.dataset.id);
  if (group && !group.open) await toggle(group);
  return (group ? beside(id, by).next : next)?.dataset.id;
}
