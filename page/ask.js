// Asking: a conversation, the answer as it comes, and beside it the one that an entry had. Ollama
// is asked by `api/chat`, with what was said before; the stub answers each question by itself.
import { write } from "./address.js";
import { conversation } from "./chat.js";
import { answer as answered, thread, toolCall } from "./conversation.js";
import { $, copy, element, fail, visible } from "./element.js";
import { count, duration, rate, short } from "./measure.js";
import { passage } from "./passage.js";
import { curl, objects, request } from "./service.js";

const JSONS = ["options", "format", "think"];
const view = $("main#ask");
const form = $("form", view);
const answer = $("#answer");
const fields = form.elements;
const follow = $("[name=follow]", view);
let models = null; // Ollama's; null with the stub
let said = []; // what was asked and answered before, as `api/chat` takes it
let latest = null; // the answer, as one of these
let more = {}; // what of an entry is asked again that has no field: tools and pictures
let before = null; // the entry whose answer the new one is to stand beside
let running = null; // aborts the answer that is under way

const offer = (name) => {
  const known = [...fields.model.options].some(({ value }) => value === name);
  if (name && !known) fields.model.append(element("option", { value: name }, visible(name, 100)));
};

// Offer Ollama's models; the stub has none.
async function findModels(quiet) {
  const response = await request("api/tags", { kind: "api", quiet })
    .catch((error) => ({ status: error.status }));
  if (response.ok) {
    models = (await response.json()).models.map(({ name }) => name);
    models.forEach(offer);
    fields.model.parentNode.hidden = false;
  }
  return response.status;
}
let looking = null;
export function show() {
  fields.prompt.focus();
  looking ??= findModels(true);
}

// Fill the form with what an entry asked, and keep what was said before its last question.
export async function again(entry) {
  const { messages, tools, ...parameters } = conversation(entry);
  reset();
  const system = messages[0]?.role === "system" ? messages.shift().content : "";
  const last = messages.at(-1)?.role === "user" ? messages.pop() : null;
  [before, said, more] = [entry, messages, { tools, images: last?.images }];
  fields.system.value = system;
  fields.prompt.value = last?.content ?? "";
  fields.prompt.required = Boolean(last);
  for (const name of JSONS) fields[name].value = JSON.stringify(parameters[name] ?? undefined) ?? "";
  $("details", form).open = Boolean(system) || JSONS.some((name) => parameters[name] != null);
  location.hash = "#ask";
  $(".said", view).replaceChildren(...(said.length ? thread(said) : []));
  showBefore();
  offer(entry.model);
  fields.model.value = entry.model ?? "";
  follow.hidden = false;
}

function showBefore() {
  $("#before", view).hidden = !before;
  if (!before) return;
  $("#before .about", view).textContent = `Before · ${visible(before.model, 100)}`;
  $("#before .response", view).replaceChildren(answered(before));
}

function reset() {
  running?.abort("reset");
  running = null;
  [fields.send.disabled, fields.stop.hidden] = [false, true];
  [said, latest, more, before] = [[], null, {}, null];
  [answer.hidden, follow.hidden, fields.prompt.required] = [true, true, true];
  $(".said", view).replaceChildren();
  showBefore();
  fail(view);
}

// Return the parameters; null where a field holds no JSON, which the browser then says there.
function parameters() {
  const given = fields.model.value ? { model: fields.model.value } : {};
  for (const name of JSONS) {
    try {
      if (fields[name].value.trim()) given[name] = JSON.parse(fields[name].value);
    } catch (error) {
      $("details", form).open = true;
      fields[name].setCustomValidity(error.message);
    }
  }
  return form.reportValidity() ? given : null;
}

// Return the path and the body that ask, and the question as a message.
function asked(given) {
  const [prompt, system] = [fields.prompt.value, fields.system.value];
  const question = prompt ? [{ role: "user", content: prompt, images: more.images }] : [];
  if (!models) {
    return { path: "stream", question, body: { ...given, prompt, ...(system && { system }) } };
  }
  const messages = [...said, latest ?? [], question].flat();
  if (system) messages.unshift({ role: "system", content: system });
  return { path: "api/chat", question, body: { ...given, messages, tools: more.tools, stream: true } };
}

// What is known of an answer; until Ollama has counted its tokens, its pieces stand for them.
function facts({ state, started, first, pieces, done }) {
  const all = done?.duration_ms ?? performance.now() - started;
  if (!pieces) return `${state} · ${duration(Math.round(all))}`;
  const tokens = done?.response_tokens ?? pieces;
  const about = done?.response_tokens ? "" : "about ";
  const measured = { response_tokens: tokens, duration_ms: all, ttft_ms: first };
  const speed = short(rate({ ...measured, response_ms: done?.response_ms }));
  return [state, done ? visible(done.model, 100) : "", `first token ${duration(Math.round(first))}`,
    about + count(tokens, "token"), speed && `${about}${speed} tokens/s`,
    `${duration(Math.round(all))} in total`].filter(Boolean).join(" · ");
}

// Take a piece of `stream`, or a line of `api/chat`.
function take(progress, { event, detail, error, done, message, response, thinking, ...counts }) {
  if (event === "error" || error) throw new Error(detail ?? error);
  const piece = message ?? { content: response, thinking };
  if (piece.content || piece.thinking || piece.tool_calls) {
    progress.first ??= performance.now() - progress.started;
    progress.pieces += 1;
    progress.text += piece.content ?? "";
    progress.thinking += piece.thinking ?? "";
    progress.calls.push(...piece.tool_calls ?? []);
  }
  if (event === "done") progress.done = counts;
  else if (done) {
    progress.done = { model: counts.model, response_tokens: counts.eval_count,
      response_ms: counts.eval_duration / 1e6 };
  }
}

async function read({ path, body }, progress, signal) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  const options = { method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await request(path, { kind: "api", ...options });
  progress.id = response.headers.get("X-Request-ID");
  $(".entry", answer).href = write("log", {}, progress.id, before?.id);
  for await (const piece of objects(response)) take(progress, piece);
  if (!progress.done) throw new Error("The connection broke before the answer was complete.");
  progress.done.duration_ms ??= performance.now() - progress.started;
}

// Draw what came since; who reads the end goes on to do so.
function draw(progress) {
  const isAtEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 100;
  $(".facts", answer).textContent = facts(progress);
  const { text, thinking, calls, drawn } = progress;
  if (drawn !== (progress.drawn = text.length + thinking.length + calls.length)) {
    $(".thinking", answer).hidden = !thinking;
    $(".thinking .text", answer).textContent = visible(thinking);
    $(".response", answer).replaceChildren(text ? passage(text) : "", ...calls.map(toolCall));
  }
  if (isAtEnd && drawn && !before) view.scrollTop = view.scrollHeight;
}

async function run(it) {
  const progress = { started: performance.now(), pieces: 0, text: "", thinking: "", calls: [] };
  const announce = (state) => {
    progress.state = $("[role=status]", view).textContent = state;
    [fields.send.disabled, fields.stop.hidden] = [running, !running];
    draw(progress);
  };
  const { signal } = running = new AbortController();
  said = models ? [...said, latest ?? [], it.question].flat() : it.question;
  latest = null;
  showBefore();
  $(".said", view).replaceChildren(...thread(said));
  $(".entry", answer).removeAttribute("href");
  $(".response", answer).replaceChildren();
  [answer.hidden, $(".thinking", answer).hidden, fields.prompt.value] = [false, true, ""];
  fail(view);
  announce("Answering");
  follow.hidden = false;
  $("details", form).open = false;
  if (before) $(".answers", view).scrollIntoView();
  else view.scrollTop = view.scrollHeight;
  const ticking = setInterval(draw, 100, progress);
  const failed = await read(it, progress, signal).catch((error) => error);
  if (failed && !signal.aborted) fail(view, failed);
  clearInterval(ticking);
  if (signal.reason === "reset") return;
  running = null;
  keep(progress, it.question);
  announce(signal.aborted ? "Stopped" : failed ? "Failed" : "Done");
}

// Go on from an answer, also from a part of one; a question that had none can be asked anew.
function keep({ text, calls }, question) {
  if (text || calls.length) {
    latest = { role: "assistant", content: text, tool_calls: calls.length ? calls : undefined };
    [before, more.images, fields.prompt.required] = [null, undefined, true];
  } else {
    said = said.slice(0, said.length - question.length);
    fields.prompt.value ||= question[0]?.content ?? "";
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = !running && parameters();
  if (!given) return;
  fields.send.disabled = true;
  const status = await (looking ??= findModels(true));
  if (status === 401) await (looking = findModels(false)); // which asks for the key
  if (models && !given.model) given.model = fields.model.value;
  if (!running) run(asked(given));
});
form.addEventListener("input", ({ target }) => target.setCustomValidity(""));
fields.prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
fields.stop.addEventListener("click", () => running.abort());
fields.curl.addEventListener("click", (event) => {
  const { path, body } = asked(parameters() ?? {});
  copy(curl(`/${path}`, body), event);
});
$("[name=copy]", answer).addEventListener("click", (event) => copy(latest?.content ?? "", event));
follow.addEventListener("click", () => {
  reset();
  fields.prompt.focus();
});
