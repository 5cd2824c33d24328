// Figures: what the log says about speed and failures, counted by the service, drawn here.
import { write } from "./address.js";
import { draw } from "./chart.js";
import { $, element, fail, time, visible, warn } from "./element.js";
import { query } from "./filter.js";
import { firstLine } from "./rows.js";
import { count, duration, number, short, year } from "./measure.js";
import { objects, request } from "./service.js";

const view = $("main#figures");
const [charts, progress] = [".charts", "progress"].map((each) => $(each, view));
const [STATUSES, PERCENTILES] = [["ok", "cancelled", "error"], ["p50", "p95", "p99"]];
const TOKENS = ["prompt_tokens", "response_tokens"];
let work = new AbortController(); // aborted when the figures are no longer wanted
let [figures, filter] = [null, {}];
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone; // whose days and hours are wanted

function stretches({ buckets, bucket_seconds: width }) {
  const clock = width < 86_400 ? { hour: "2-digit", minute: "2-digit" } : {};
  return buckets.map(({ start: text, ...it }) => {
    const start = new Date(text);
    const format = { day: "numeric", month: "short", ...year(start), ...clock };
    return { ...it, start, label: start.toLocaleString("en-GB", format) };
  });
}

function fill(name, rows) {
  const line = ([head, ...others]) => element("tr", {}, element("th", { scope: "row" }, head),
    others.map((cell) => element("td", {}, cell)));
  $(`.${name} tbody`, charts).replaceChildren(...rows.map(line));
}

const each = (values, unit) => PERCENTILES.map((name) => unit(values?.[name]));
const slowest = (it) => [element("a", { href: write("figures", filter, it.id) }, time(it.finished_at)),
  duration(it.duration_ms), visible(it.model, 100), element("bdi", {}, firstLine(it))];
const taken = (it) => [it.entries, ...TOKENS.map((name) => it[name])].map(number);
const byModel = (it) => [visible(it.model, 100), ...taken(it), ...each(it.tokens_per_second, short),
  duration(it.load_ms?.p50)];
const byDay = (it) => [it.day, visible(it.model, 100), ...taken(it)];
const byClient = ({ client, ...it }) => [!client ? "(unnamed)" : element("a",
  { href: write("log", { ...filter, user_agent: client }) }, visible(client, 100)), ...taken(it)];
const numbers = (it) => [it.label, it.ok, it.cancelled, it.error,
  ...TOKENS.map((name) => number(it[name])), ...each(it.ttft_ms, duration), ...each(it.duration_ms, duration)];

function showAll() {
  charts.hidden = !figures?.entries;
  if (charts.hidden) return;
  const all = stretches(figures);
  const chart = (name, names, value, how) => draw($(`.${name} svg`, charts), { ...how,
    labels: all.map(({ label }) => label), starts: all.map(({ start }) => start),
    series: names.map((each) => ({ name: each.replace("_", " "), values: all.map((it) => value(it, each)) })) });
  chart("requests", STATUSES, (it, status) => it[status], { stacked: true, unit: short });
  chart("tokens", TOKENS, (it, name) => it[name], { stacked: true, unit: short });
  chart("first", PERCENTILES, (it, name) => it.ttft_ms?.[name], { unit: duration });
  chart("duration", PERCENTILES, (it, name) => it.duration_ms?.[name], { unit: duration });
  fill("slowest", figures.slowest.map(slowest));
  fill("models", figures.models.map(byModel));
  fill("by-day", figures.days.toReversed().map(byDay));
  fill("by-client", figures.clients.map(byClient));
  fill("numbers", all.map(numbers));
}

async function load(signal) {
  const search = query(filter);
  search.set("tz", zone);
  const response = await request(`log/figures?${search}`, { kind: "log", signal });
  for await (const line of objects(response)) {
    if (line.progress == null) figures = line;
    [progress.value, progress.hidden] = [line.progress ?? 1, line.progress == null];
  }
  showAll();
  warn(view, figures.warnings);
  return figures.entries ? count(figures.entries, "entry", "entries") : "No entry matches";
}

export async function show(wanted) {
  if (figures && write("", filter) === write("", wanted)) return;
  hide();
  const { signal } = work = new AbortController();
  filter = wanted;
  [fail, warn].forEach((clear) => clear(view));
  $("[role=status]", view).textContent = "Reading the log";
  const said = await load(signal).catch((error) => signal.aborted || fail(view, error));
  if (signal.aborted) return;
  progress.hidden = true;
  $("[role=status]", view).textContent = said ?? "";
}

export function hide() {
  work.abort();
  [figures, progress.hidden, charts.hidden] = [null, true, true];
}
addEventListener("resize", showAll);
