// The log: its entries in a table, newest first; new ones come by themselves, older ones on demand.
// Only what a row shows is asked for of an entry, and at most ROWS are kept: a log can be of any size.
import { write } from "./address.js";
import { $, element, fail, warn } from "./element.js";
import { name, offer, query } from "./filter.js";
import * as live from "./live.js";
import { count } from "./measure.js";
import * as rows from "./rows.js";
import { objects, request } from "./service.js";

const PAGE = 50;
const [ROWS, LONGEST, MOST] = [1000, 1000, 5000]; // kept, asked for at once, shown of a conversation
const [POLL, OVERLAP] = [3_000, 10_000]; // ms; a look goes back, as clocks and writes are not in step
const FILES = { // what can be downloaded: how it is asked for, and how its name ends
  lines: ["application/x-ndjson", ".jsonl"], csv: ["text/csv", ".csv"],
  chat: ["application/x-ndjson; profile=messages", "-chat.jsonl"],
};
const view = $("main#log");
const [scroller, body, single] = [".scroller", "tbody", "[name=single]"].map((each) => $(each, view));
const [newest, older] = ["newest", "older"].map((each) => $(`[name=${each}]`, view));
let [filter, address, timer] = [{}, null];
let next = null; // the cursor to the entries before the last row
let looked = 0; // when the service was asked last, by its own clock
let [total, counting] = [0, false]; // how many entries match, as far as it is known
let chosen = null; // the entry that another one is to stand beside
let work = new AbortController(); // aborted when what it reads is no longer wanted

// Do what asks the service, and say what went wrong; what was left is no failure.
async function attempt(action) {
  const { signal } = work;
  await action(signal).then(() => fail(view), (error) => signal.aborted || fail(view, error));
}

async function read(parameters, { quiet, of } = {}) {
  const { signal } = work;
  const search = query(of ?? filter);
  Object.entries({ limit: PAGE, fields: rows.FIELDS, ...parameters }).forEach((it) => search.set(...it));
  const response = await request(`log?${search}`, { kind: "log", signal, quiet });
  const page = await response.json();
  signal.throwIfAborted();
  if (of) return page;
  looked = Date.parse(response.headers.get("Date"));
  offer("models", page.entries.map(({ model }) => model));
  offer("programs", page.entries.map(rows.program));
  warn(view, page.warnings);
  return page;
}

// Read entries to the end, the first one first; and whether that was reached before MOST of them.
async function readAll(of, found = [], before = {}) {
  const { entries, next: cursor } = await read({ limit: LONGEST, ...before }, { of });
  const all = [...entries.toReversed(), ...found];
  return cursor && all.length < MOST ? readAll(of, all, { before: cursor }) : { all, isWhole: !cursor };
}

const readWhole = (group) => attempt(async () => {
  const { all, isWhole } = await readAll({ conversation: group.name });
  const wanted = isFiltered() ? (await readAll({ ...filter, conversation: group.name })).all : all;
  const matching = new Map(wanted.map((it) => [it.id, it])); // with the place of the match
  Object.assign(group, { all: all.map((it) => matching.get(it.id) ?? it), matching, isWhole });
});
const isFiltered = () => Object.entries(filter).some(([key, value]) => value && key !== "conversation");

function say() {
  const [shown, talks] = [rows.size(), rows.conversations()];
  const all = `${counting ? "at least " : ""}${count(Math.max(total, shown), "entry", "entries")}`;
  const of = talks ? `, ${count(talks, "conversation")}${goesOn() ? " or more" : ""}` : "";
  $("[role=status]", view).textContent = !shown ? "No entry matches; new ones will appear here"
    : all + of + (counting ? ", still counting" : "");
}
function settle() {
  say();
  older.hidden = !next;
  end.disconnect(); // it tells of changes, and the new end may be as near as the old one was
  end.observe(older);
  dispatchEvent(new Event("rows"));
}
const goesOn = () => Boolean(next) || !newest.hidden;

async function more() {
  if (older.disabled) return;
  older.disabled = true;
  const found = await read(next && { before: next }).finally(() => { older.disabled = false; });
  if (rows.size() >= ROWS) {
    rows.clear();
    newest.hidden = false;
  }
  next = found.next;
  rows.add(found.entries, { isMore: goesOn() });
  total = Math.max(total, found.count ?? rows.size());
  counting &&= Boolean(next) && found.count == null;
  settle();
}
async function tally(signal) {
  if (!counting) return;
  const response = await request(`log/count?${query(filter)}`, { kind: "log", signal, quiet: true });
  for await (const line of objects(response)) {
    [total, counting] = [Math.max(total, line.count), line.progress != null];
    if (line.warnings?.length) warn(view, line.warnings);
    say();
  }
}

async function poll() {
  clearTimeout(timer);
  if (!document.hidden && newest.hidden) await attempt(arrive);
  clearTimeout(timer);
  if (!document.hidden && !work.signal.aborted) timer = setTimeout(poll, POLL);
}

async function arrive() {
  const own = query(filter).get("since") ?? "";
  const since = [own, new Date(looked - OVERLAP).toISOString()].sort().at(-1);
  const { entries, next: cursor } = await read({ since }, { quiet: true });
  if (!cursor || entries.some(({ id }) => rows.has(id))) insert(entries);
  else newest.hidden = false; // more than a look can show
}

// Put rows on top. What somebody reads further down stays where it is.
function insert(entries) {
  const height = scroller.scrollHeight;
  const reads = scroller.scrollTop > 0 || body.contains(document.activeElement);
  const added = rows.add(entries, { isMore: goesOn(), isNew: true });
  if (!added) return;
  if (reads) scroller.scrollTop += scroller.scrollHeight - height;
  total += added;
  newest.hidden = rows.size() < 2 * ROWS;
  settle();
}
const follow = () => (document.hidden ? live.stop() : live.start(poll, filter));

async function load() {
  hide();
  const { signal } = work = new AbortController();
  [next, looked, newest.hidden, older.hidden, older.disabled] = [null, 0, true, true, false];
  [total, counting] = [0, true];
  rows.clear({ filter, isFiltered: isFiltered(), isGrouped: !single.checked, readWhole });
  $("[role=status]", view).textContent = "Reading the log";
  await attempt(more);
  if (signal.aborted) return;
  if (!looked) return $("[role=status]", view).replaceChildren();
  timer = setTimeout(poll, POLL);
  follow();
  await attempt(tally);
}

async function save(kind, signal) {
  const [Accept, ending] = FILES[kind];
  const response = await request(`log?${query(filter)}`, { kind: "log", headers: { Accept }, signal });
  const href = URL.createObjectURL(await response.blob());
  element("a", { href, download: name(filter) + ending }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

export function show(wanted) {
  if (address !== (address = write("log", filter = wanted)) || work.signal.aborted) load();
}
export function hide() {
  clearTimeout(timer);
  work.abort();
  live.stop();
}
export function choose(entry) {
  chosen = entry?.id ?? null;
  $(".choosing", view).hidden = !entry;
  $(".choosing bdi", view).textContent = entry ? rows.firstLine(entry) : "";
  if (entry && view.hidden) location.hash = write("log", filter);
}
export function beside(id, by) {
  const found = rows.beside(id, by);
  return { ...found, isThere: !view.hidden && Boolean(found.next || (found.isListed && by > 0 && next)) };
}
export async function neighbour(id, by) {
  if (by > 0 && next && !rows.beside(id, by).next) await attempt(more);
  return rows.neighbour(id, by);
}

older.addEventListener("click", () => attempt(more));
newest.addEventListener("click", load);
single.addEventListener("change", load);
for (const kind of Object.keys(FILES)) {
  $(`[name=${kind}]`, view).addEventListener("click", () => {
    $(".downloads", view).open = false;
    attempt((signal) => save(kind, signal));
  });
}
$("[name=cancel]", view).addEventListener("click", () => choose(null));
body.addEventListener("click", (event) => {
  const row = event.target.closest("[data-id]");
  if (!chosen || !row || row.dataset.id === chosen) return;
  event.preventDefault();
  location.hash = write("log", filter, row.dataset.id, chosen);
  choose(null);
});
const end = new IntersectionObserver((changes) => { // a busy browser tells of several at once
  if (changes.at(-1).isIntersecting && rows.size() < ROWS) attempt(more);
}, { root: scroller, rootMargin: "500px" });
document.addEventListener("visibilitychange", () => {
  if (view.hidden || !looked) return;
  follow();
  poll();
});
