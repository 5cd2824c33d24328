// The log: its entries in a table, newest first; new ones come by themselves, older ones on demand.
// Only what a row shows is kept of an entry, and at most ROWS of them: a log can be of any size.
import { write } from "./address.js";
import { prompted } from "./conversation.js";
import { $, element, fail, visible } from "./element.js";
import { offer, query } from "./filter.js";
import { count, duration, moment, rate, short } from "./measure.js";
import { request } from "./service.js";

const PAGE = 50;
const ROWS = 1000;
const POLL = 3_000; // ms
const OVERLAP = 10_000; // ms that a look goes back: clocks and writes are not in step
const view = $("main#log");
const scroller = $(".scroller", view);
const body = $("tbody", view);
const [newest, older] = ["newest", "older"].map((name) => $(`[name=${name}]`, view));
let [filter, address] = [{}, null];
let next = null; // the cursor to the entries before the last row
let looked = 0; // when the service was asked last, by its own clock
let work = new AbortController(); // aborted when what it reads is no longer wanted
let timer;

export const firstLine = (entry) =>
  visible(prompted(entry), 1000).trim().split(/[\n\r]/, 1)[0].slice(0, 200) || "(no text)";

function row(entry) {
  const { id, finished_at, status, model, endpoint } = entry;
  const cells = {
    time: moment(finished_at), status: visible(status, 100),
    prompt: element("a", { href: write("log", filter, id) }, firstLine(entry)),
    model: visible(model, 100), endpoint: visible(endpoint, 100),
    duration: duration(entry.duration_ms), rate: short(rate(entry)),
  };
  return element("tr", { "data-id": id, "data-status": status }, Object.entries(cells)
    .map(([name, shown]) => element("td", { class: name }, element("bdi", {}, shown))));
}

// Do what asks the service, and say what went wrong; what was left is no failure.
async function attempt(action) {
  const { signal } = work;
  await action(signal).then(() => fail(view), (error) => signal.aborted || fail(view, error));
}

async function read(parameters, quiet) {
  const { signal } = work;
  const search = query(filter);
  Object.entries({ limit: PAGE, ...parameters }).forEach((each) => search.set(...each));
  const response = await request(`log?${search}`, { kind: "log", signal, quiet });
  const { entries, next: cursor } = await response.json();
  signal.throwIfAborted();
  looked = Date.parse(response.headers.get("Date"));
  offer(entries.map(({ model }) => model));
  const fresh = entries.filter(({ id }) => !$(`[data-id="${CSS.escape(id)}"]`, body));
  return { cursor, rows: fresh.map(row) };
}

function say() {
  const rows = body.rows.length;
  $("[role=status]", view).textContent = !rows ? "No entry matches; new ones will appear here"
    : `${count(rows, "entry", "entries")}${next ? ", older ones below" : ""}`;
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
  if (body.rows.length >= ROWS) {
    body.replaceChildren();
    newest.hidden = false;
  }
  next = found.cursor;
  body.append(...found.rows);
  say();
}

// Look for new entries while somebody sees them.
async function poll() {
  if (!document.hidden && newest.hidden) await attempt(arrive);
  clearTimeout(timer);
  if (!document.hidden && !work.signal.aborted) timer = setTimeout(poll, POLL);
}

async function arrive() {
  const own = query(filter).get("since") ?? "";
  const since = [own, new Date(looked - OVERLAP).toISOString()].sort().at(-1);
  const { rows, cursor } = await read({ since }, true);
  if (rows.length === PAGE && cursor) newest.hidden = false; // more than a look can show
  else if (rows.length) insert(rows);
}

// Put rows on top. What somebody reads further down stays where it is.
function insert(rows) {
  const height = scroller.scrollHeight;
  body.prepend(...rows);
  const reads = scroller.scrollTop > 0 || body.contains(document.activeElement);
  if (reads) scroller.scrollTop += scroller.scrollHeight - height;
  newest.hidden = body.rows.length < 2 * ROWS;
  say();
}

async function load() {
  hide();
  const { signal } = work = new AbortController();
  [next, looked, newest.hidden, older.hidden, older.disabled] = [null, 0, true, true, false];
  body.replaceChildren();
  $("[role=status]", view).textContent = "Reading the log";
  await attempt(more);
  if (looked && !signal.aborted) timer = setTimeout(poll, POLL);
}

// Fetch what the filter lets through, as a file; the browser keeps it on the disk meanwhile.
async function save(signal) {
  const headers = { Accept: "application/x-ndjson" };
  const response = await request(`log?${query(filter)}`, { kind: "log", headers, signal });
  const href = URL.createObjectURL(await response.blob());
  element("a", { href, download: "minivault.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

export function show(wanted) {
  const before = address;
  address = write("log", filter = wanted);
  $("th.duration a", view).href = write("figures", filter);
  if (address !== before || work.signal.aborted) load();
}

export function hide() {
  clearTimeout(timer);
  work.abort();
}

older.addEventListener("click", () => attempt(more));
newest.addEventListener("click", load);
$("[name=download]", view).addEventListener("click", () => attempt(save));
const end = new IntersectionObserver((changes) => { // a busy browser tells of several at once
  if (changes.at(-1).isIntersecting && body.rows.length < ROWS) attempt(more);
}, { root: scroller, rootMargin: "500px" });
document.addEventListener("visibilitychange", () => { if (!view.hidden) poll(); });
