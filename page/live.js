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
  tell();
}

function tell() {
  list.hidden = !shown.size;
  for (const { item, started, tokens } of shown.values()) {
    const since = duration(Math.max(0, Math.floor((Date.now() - started) / 1000)) * 1000);
    item.lastChild.textContent = [`for ${since}`, tokens ? count(tokens, "token") : ""]
      .filter(Boolean).join(" · ");
  }
}

function end(id) {
  shown.get(id)?.item.remove();
  shown.delete(id);
  tell();
}

async function follow(signal, ended) {
  const response = await request("log/live", { kind: "log", quiet: true, signal });
  for await (const it of objects(response)) {
    if (it.event === "started") begin(it);
    if (it.event === "progress" && shown.has(it.id)) shown.get(it.id).tokens = it.tokens;
    if (it.event === "ended") {
      end(it.id);
      ended();
    }
    tell();
  }
}

// Show what is in flight until `stop`, and call `ended` when one of them has become an entry.
export async function start(ended) {
  stop();
  const { signal } = work = new AbortController();
  const ticking = setInterval(tell, 1000);
  while (!signal.aborted) {
    const refused = await follow(signal, ended).then(() => false, (error) => error.status);
    [...shown.keys()].forEach(end);
    if (refused) break; // it does not have it, or not for this reader
    await new Promise((resolve) => { setTimeout(resolve, RETRY); });
  }
  clearInterval(ticking);
}

export function stop() {
  work.abort();
}
