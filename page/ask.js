// Asking: a conversation, the answer as it comes, and beside it the one that an entry had. Ollama
// is asked by `api/chat`, with what was said before; the stub answers each question by itself.
import { write } from "./address.js";
import { conversation } from "./chat.js";
import { answer as answered, thread, toolCall } from "./conversation.js";
import { $, copy, element, fail, visible } from "./element.js";
import { count, duration, rate, short } from "./measure.js";
import { growing, showPlain } from "./passage.js";
import { answering, BROKEN, curl, objects, request } from "./service.js";

const JSONS = ["options", "format", "think"];
const EMBEDS = /embed|minilm|\bbge\b/i; // by its name: such a model answers nothing
const view = $("main#ask");
const [form, answer, follow] = ["form", "#answer", "[name=follow]"].map((each) => $(each, view));
const fields = form.elements;
let models; // Ollama's; null where each question is asked by itself; undefined until that is known
let said = []; // what was asked and answered before, as `api/chat` takes it
let latest = null; // the answer, as one of these
let shown = null; // the answer that is on the screen, as far as it has come
let more = {}; // what of an entry is asked again that has no field: tools and pictures
let before = null; // the entry whose answer the new one is to stand beside
let running = null; // aborts the answer that is under way

const offer = (name) => {
  const known = [...fields.model.options].some(({ value }) => value === name);
  if (name && !known) fields.model.append(element("option", { value: name }, visible(name, 100)));
};

// Find out how to ask, and offer Ollama's models. Without the gateway, or with another service than
// Ollama, each question stands by itself; as long as Ollama is away nobody can know.
async function findModels(quiet) {
  const response = await request("api/tags", { kind: "api", quiet }).catch(async (error) => {
    if (error.status !== 404 && (error.status !== 503 || /^Ollama/.test(await answering()))) throw error;
  });
  models = response ? (await response.json()).models.map(({ name }) => name) : null;
  if (!models) return;
  models.forEach(offer);
  fields.model.parentNode.hidden = !models.length;
  $(".none", form).hidden = models.length;
  const usual = [sessionStorage.getItem("model"), ...models.filter((it) => !EMBEDS.test(it)), ...models];
  if (!before) fields.model.value = usual.find((name) => models.includes(name)) ?? "";
}
let looking = null;
const look = (quiet) => (looking ??= findModels(quiet).catch((error) => {
  looking = null;
  return error;
}));
export function show() {
  fields.prompt.focus();
  look(true);
}

export async function again(entry) {
  const { messages, tools, ...parameters } = conversation(entry);
  reset();
  const system = messages[0]?.role === "system" ? messages.shift().content : "";
  const last = messages.at(-1)?.role === "user" ? messages.pop() : null;
  [before, said, more] = [entry, messages, { tools, images: last?.images }];
  [fields.system.value, fields.prompt.value] = [system, last?.content ?? ""];
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
  [said, latest, shown, more, before] = [[], null, null, {}, null];
  [answer.hidden, follow.hidden, fields.prompt.required] = [true, true, true];
  $(".said", view).replaceChildren();
  showBefore();
  showPlain(false);
  fail(view);
}

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

function asked(given) {
  const [prompt, system] = [fields.prompt.value, fields.system.value];
  const question = prompt ? [{ role: "user", content: prompt, images: more.images }] : [];
  if (models === null || (!models && !said.length)) {
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
  const measured = { response_tokens: tokens, duration_ms: all, ttft_ms: first, response_ms: done?.response_ms };
  const speed = short(rate(measured));
  return [state, done ? visible(done.model, 100) : "", `first token ${duration(Math.round(first))}`,
    about + count(tokens, "token"), speed && `${about}${speed} tokens/s`,
    `${duration(Math.round(all))} in total`].filter(Boolean).join(" · ");
}

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
    const { model, eval_count: tokens, eval_duration: ns } = counts;
    progress.done = { model, response_tokens: tokens, response_ms: ns / 1e6 };
  }
}

async function read({ path, body }, progress, signal) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  const options = { kind: "api", method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await request(path, options);
  progress.id = response.headers.get("X-Request-ID");
  $(".entry", answer).href = write("log", {}, progress.id, before?.id);
  for await (const piece of objects(response)) take(progress, piece);
  if (!progress.done) throw new Error(BROKEN);
  progress.done.duration_ms ??= performance.now() - progress.started;
}

// Draw what came since; who reads the end goes on to do so.
function draw(progress) {
  const isAtEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 100;
  $(".facts", answer).textContent = facts(progress);
  const { text, thinking, calls, body, drawn } = progress;
  progress.drawn = [text.length, thinking.length, calls.length];
  if (text.length > drawn[0]) body.grow(text.slice(drawn[0]));
  if (thinking.length > drawn[1]) $(".thinking .text", answer).append(visible(thinking.slice(drawn[1])));
  $(".response", answer).append(...calls.slice(drawn[2]).map(toolCall));
  [$(".thinking", answer).hidden, $("[name=copy]", answer).hidden] = [!thinking, !text];
  if (isAtEnd && (text || thinking || calls.length) && !before) view.scrollTop = view.scrollHeight;
}

async function run(it) {
  const progress = shown = { started: performance.now(), pieces: 0, text: "", thinking: "", calls: [],
    drawn: [0, 0, 0], body: growing() };
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
  $(".response", answer).replaceChildren(progress.body.node);
  $(".thinking .text", answer).textContent = "";
  [answer.hidden, $(".thinking", answer).hidden, fields.prompt.value] = [false, true, ""];
  fail(view);
  announce("Answering");
  [follow.hidden, $("details", form).open] = [false, false];
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
  const refused = await look(true);
  const failed = refused?.status === 401 ? await look(false) : refused; // which asks for the key
  if (models && !given.model && fields.model.value) given.model = fields.model.value;
  fields.send.disabled = Boolean(running);
  if (failed) return fail(view, failed);
  if (given.model) sessionStorage.setItem("model", given.model);
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
$("[name=copy]", answer).addEventListener("click", (event) => copy(shown.text, event));
follow.addEventListener("click", () => {
  reset();
  fields.prompt.focus();
});
