// The log: its entries in a table, newest first; new ones come by themselves, older ones on demand.
// Only what a row shows is asked for of an entry, and at most ROWS are kept: a log can be of any size.
import { write } from "./address.js";
import { $, element, fail } from "./element.js";
import { name, offer, query } from "./filter.js";
import * as live from "./live.js";
import { count } from "./measure.js";
import { add, clear, FIELDS, firstLine, ids, program } from "./rows.js";
import { objects, request } from "./service.js";

const PAGE = 50;
const ROWS = 1000;
const POLL = 3_000; // ms
const OVERLAP = 10_000; // ms that a look goes back: clocks and writes are not in step
const FILES = { // what can be downloaded: how it is asked for, and how its name ends
  lines: ["application/x-ndjson", ".jsonl"],
  csv: ["text/csv", ".csv"],
  chat: ["application/x-ndjson; profile=messages", "-chat.jsonl"],
};
const view = $("main#log");
const scroller = $(".scroller", view);
const body = $("tbody", view);
const single = $("[name=single]", view);
const [newest, older] = ["newest", "older"].map((each) => $(`[name=${each}]`, view));
let [filter, address] = [{}, null];
let next = null; // the cursor to the entries before the last row
let looked = 0; // when the service was asked last, by its own clock
let [total, counting] = [0, false]; // how many entries match, as far as it is known
let chosen = null; // the entry that another one is to stand beside
let work = new AbortController(); // aborted when what it reads is no longer wanted
let timer;

// Do what asks the service, and say what went wrong; what was left is no failure.
async function attempt(action) {
  const { signal } = work;
  await action(signal).then(() => fail(view), (error) => signal.aborted || fail(view, error));
}

async function read(parameters, quiet) {
  const { signal } = work;
  const search = query(filter);
  Object.entries({ limit: PAGE, fields: FIELDS, ...parameters }).forEach((it) => search.set(...it));
  const response = await request(`log?${search}`, { kind: "log", signal, quiet });
  const page = await response.json();
  signal.throwIfAborted();
  looked = Date.parse(response.headers.get("Date"));
  offer("models", page.entries.map(({ model }) => model));
  offer("programs", page.entries.map(program));
  return page;
}

function say() {
  const shown = ids().length;
  const all = `${counting ? "at least " : ""}${count(Math.max(total, shown), "entry", "entries")}`;
  $("[role=status]", view).textContent = !shown ? "No entry matches; new ones will appear here"
    : all + (counting ? ", still counting" : "");
}

// Say how many rows there are now, and wait for their end to come into sight.
function settle() {
  say();
  older.hidden = !next;
  end.disconnect(); // it tells of changes, and the new end may be as near as the old one was
  end.observe(older);
}

// Show the entries that follow the last row; where there are many rows, in place of these.
async function more() {
  if (older.disabled) return;
  older.disabled = true;
  const found = await read(next && { before: next })
    .finally(() => { older.disabled = false; });
  if (ids().length >= ROWS) {
    clear();
    newest.hidden = false;
  }
  next = found.next;
  add(found.entries, { filter, grouped: !single.checked });
  total = Math.max(total, found.count ?? ids().length);
  counting &&= Boolean(next) && found.count == null;
  settle();
}

// Count what matches, as far as the page does not know it.
async function tally(signal) {
  if (!counting) return;
  const response = await request(`log/count?${query(filter)}`, { kind: "log", signal, quiet: true });
  for await (const line of objects(response)) {
    [total, counting] = [Math.max(total, line.count), line.progress != null];
    say();
  }
}

// Look for new entries while somebody sees them.
async function poll() {
  clearTimeout(timer);
  if (!document.hidden && newest.hidden) await attempt(arrive);
  clearTimeout(timer);
  if (!document.hidden && !work.signal.aborted) timer = setTimeout(poll, POLL);
}

async function arrive() {
  const own = query(filter).get("since") ?? "";
  const since = [own, new Date(looked - OVERLAP).toISOString()].sort().at(-1);
  const { entries, next: cursor } = await read({ since }, true);
  if (cursor && !entries.some(({ id }) => $(`[data-id="${CSS.escape(id)}"]`, body))) {
    newest.hidden = false; // more than a look can show
  } else insert(entries);
}

// Put rows on top. What somebody reads further down stays where it is.
function insert(entries) {
  const height = scroller.scrollHeight;
  const reads = scroller.scrollTop > 0 || body.contains(document.activeElement);
  const added = add(entries, { filter, grouped: !single.checked, isNew: true });
  if (!added) return;
  if (reads) scroller.scrollTop += scroller.scrollHeight - height;
  total += added;
  newest.hidden = ids().length < 2 * ROWS;
  settle();
}

const follow = () => (document.hidden ? live.stop() : live.start(poll));

async function load() {
  hide();
  const { signal } = work = new AbortController();
  [next, looked, newest.hidden, older.hidden, older.disabled] = [null, 0, true, true, false];
  [total, counting] = [0, true];
  clear();
  $("[role=status]", view).textContent = "Reading the log";
  await attempt(more);
  if (!looked || signal.aborted) return;
  timer = setTimeout(poll, POLL);
  follow();
  await attempt(tally);
}

// Fetch what the filter lets through, as a file; the browser keeps it on the disk meanwhile.
async function save(kind, signal) {
  const [Accept, ending] = FILES[kind];
  const headers = { Accept };
  const response = await request(`log?${query(filter)}`, { kind: "log", headers, signal });
  const href = URL.createObjectURL(await response.blob());
  element("a", { href, download: name(filter) + ending }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

export function show(wanted) {
  const before = address;
  address = write("log", filter = wanted);
  if (address !== before || work.signal.aborted) load();
}

export function hide() {
  clearTimeout(timer);
  work.abort();
  live.stop();
}

// Wait for the entry that is to stand beside this one; none ends the waiting.
export function choose(entry) {
  chosen = entry?.id ?? null;
  $(".choosing", view).hidden = !entry;
  $(".choosing bdi", view).textContent = entry ? firstLine(entry) : "";
}

// Return the id of the entry that follows one in the list, or comes before it.
export async function neighbour(id, by) {
  const isLast = ids().at(-1) === id;
  if (by > 0 && isLast && next) await attempt(more);
  const all = ids();
  return isLast || all.includes(id) ? all[all.indexOf(id) + by] : null;
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
  if (changes.at(-1).isIntersecting && ids().length < ROWS) attempt(more);
}, { root: scroller, rootMargin: "500px" });
document.addEventListener("visibilitychange", () => {
  if (view.hidden || !looked) return;
  follow();
  poll();
});
