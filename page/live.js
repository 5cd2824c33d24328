// What is in flight, on top of the log: told by the service as it begins, goes on and ends.
import { $, element, visible } from "./element.js";
import { count, duration } from "./measure.js";
import { objects, request } from "./service.js";

const RETRY = 5_000; // ms
const list = $("#log .live");
const shown = new Map(); // items by their id
let work = new AbortController();

function begin({ id, model, prompt, started_at: started }) {
  const item = element("li", {}, element("b", {}, visible(model, 100) || "the default model"),
    element("bdi", {}, visible(prompt, 200)), element("span"));
  shown.set(id, { item, started: Date.parse(started), tokens: 0 });
  list.append(item);
}
function end(id) {
  shown.get(id)?.item.remove();
  shown.delete(id);
}
function tell() {
  list.hidden = !shown.size;
  for (const { item, started, tokens } of shown.values()) {
    const since = duration(Math.max(0, Math.floor((Date.now() - started) / 1000)) * 1000);
    item.lastChild.textContent = `for ${since}${tokens ? ` · ${count(tokens, "token")}` : ""}`;
  }
}

// Whether the filter lets it through. Its text, its end and its conversation are not known yet.
function isWanted(it, { q, status, conversation, from, to, ...parts }) {
  const today = new Date().toLocaleDateString("sv");
  return !(q || status || conversation || from > today || to < today) && Object.entries(parts).every(
    ([name, part]) => String(it[name] ?? "").toLowerCase().includes(part.toLowerCase().replace(/:latest$/, "")));
}

async function follow(signal, ended, filter) {
  const response = await request("log/live", { kind: "log", quiet: true, signal });
  for await (const it of objects(response)) {
    if (it.event === "started" && isWanted(it, filter)) begin(it);
    if (it.event === "progress" && shown.has(it.id)) shown.get(it.id).tokens = it.tokens;
    if (it.event === "ended") end(it.id);
    tell();
    if (it.event === "ended") ended();
  }
}

export async function start(ended, filter) {
  stop();
  const { signal } = work = new AbortController();
  const ticking = setInterval(tell, 1000);
  while (!signal.aborted) {
    const refused = await follow(signal, ended, filter).then(() => false, (error) => error.status);
    [...shown.keys()].forEach(end);
    tell();
    if (refused) break; // it does not have it, or not for this reader
    await new Promise((resolve) => { setTimeout(resolve, RETRY); });
  }
  clearInterval(ticking);
}
export const stop = () => work.abort();
