// Asking: the prompt's form, and the answer as it comes.
import { write } from "./address.js";
import { $, copy, fail, visible } from "./element.js";
import { offer } from "./filter.js";
import { count, duration, rate, short } from "./measure.js";
import { curl, objects, request } from "./service.js";

const TEXTS = ["prompt", "model", "system"];
const JSONS = ["options", "format", "think"];
const HEADERS = { "Content-Type": "application/json", Accept: "text/event-stream" };
const view = $("main#ask");
const form = $("form", view);
const answer = $("#answer");
const fields = form.elements;
let running = null; // aborts the answer that is under way

// Offer Ollama's models; the stub has none.
export async function show() {
  fields.prompt.focus();
  const response = await request("api/tags", { kind: "api", quiet: true }).catch(() => null);
  if (!response) return;
  offer((await response.json()).models.map(({ name }) => name));
  fields.model.parentNode.hidden = false;
}

// Fill the form with what an entry asked.
export function again(entry) {
  for (const name of TEXTS) fields[name].value = entry[name] ?? "";
  for (const name of JSONS) fields[name].value = JSON.stringify(entry[name] ?? undefined) ?? "";
  $("details", form).open = ["system", ...JSONS].some((name) => entry[name] != null);
  $(".note", form).hidden = !entry.request;
  fields.model.parentNode.hidden = false;
  location.hash = "#ask";
}

// Return the request's body; null where a field holds no JSON, which the browser then says there.
function body() {
  const asked = {};
  for (const name of TEXTS) if (fields[name].value) asked[name] = fields[name].value;
  for (const name of JSONS) {
    try {
      if (fields[name].value.trim()) asked[name] = JSON.parse(fields[name].value);
    } catch (error) {
      $("details", form).open = true;
      fields[name].setCustomValidity(error.message);
    }
  }
  return form.reportValidity() ? asked : null;
}

// What is known of an answer; until Ollama has counted its tokens, its pieces stand for them.
function facts({ state, started, first, pieces, done }) {
  const all = done?.duration_ms ?? performance.now() - started;
  if (!pieces) return `${state} · ${duration(Math.round(all))}`;
  const tokens = done?.response_tokens ?? pieces;
  const about = done?.response_tokens ? "" : "about ";
  const speed = short(rate({ response_tokens: tokens, duration_ms: all, ttft_ms: first }));
  return [state, done ? visible(done.model, 100) : "", `first token ${duration(Math.round(first))}`,
    about + count(tokens, "token"), speed && `${about}${speed} tokens/s`,
    `${duration(Math.round(all))} in total`].filter(Boolean).join(" · ");
}

function take(progress, { thinking, response }) {
  progress.first ??= performance.now() - progress.started;
  progress.pieces += 1;
  if (thinking) $(".thinking", answer).hidden = false;
  const place = $(thinking ? ".thinking .text" : ".response", answer);
  place.firstChild.appendData(visible(thinking ?? response));
}

async function read(asked, progress, signal) {
  const options = { method: "POST", headers: HEADERS, body: JSON.stringify(asked), signal };
  const response = await request("stream", { kind: "api", ...options });
  $("a", answer).href = write("log", {}, response.headers.get("X-Request-ID"));
  for await (const piece of objects(response)) {
    if (piece.event === "error") throw new Error(piece.detail);
    if (piece.event === "done") progress.done = piece;
    else take(progress, piece);
  }
  if (!progress.done) throw new Error("The connection broke before the answer was complete.");
}

async function run(asked) {
  const progress = { started: performance.now(), pieces: 0 };
  const say = () => { $(".facts", answer).textContent = facts(progress); };
  const announce = (state) => {
    progress.state = $("[role=status]", view).textContent = state;
    [fields.send.disabled, fields.stop.hidden] = [running, !running];
    say();
  };
  const { signal } = running = new AbortController();
  for (const node of answer.querySelectorAll(".text")) node.replaceChildren(new Text());
  $("a", answer).removeAttribute("href");
  [answer.hidden, $(".thinking", answer).hidden] = [false, true];
  fail(view);
  announce("Answering");
  const ticking = setInterval(say, 100);
  const failed = await read(asked, progress, signal).catch((error) => error);
  if (failed && !signal.aborted) fail(view, failed);
  clearInterval(ticking);
  running = null;
  announce(signal.aborted ? "Stopped" : failed ? "Failed" : "Done");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = !running && body();
  if (asked) run(asked);
});
form.addEventListener("input", ({ target }) => target.setCustomValidity(""));
fields.prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
fields.stop.addEventListener("click", () => running.abort());
fields.curl.addEventListener("click", (event) => {
  const asked = body();
  if (asked) copy(curl("/stream", asked), event);
});
