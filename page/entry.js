// One entry, whole, in a dialog over the log: what was asked beside what was answered.
import { read, write } from "./address.js";
import { again } from "./ask.js";
import { bubble, conversation, left, lengthOnly, thinking, toolCall } from "./conversation.js";
import { $, copy, element, fail, passage, visible, written } from "./element.js";
import { duration, moment } from "./measure.js";
import { curl, request } from "./service.js";

const dialog = $("#entry");
const whole = $(".whole", dialog);
const button = (name) => $(`[name=${name}]`, dialog);
let [opened, entry] = []; // its id, and what it holds

function showTimes({ ttft_ms: first, duration_ms: all }) {
  const known = typeof first === "number";
  $(".waiting", whole).style.flexGrow = known ? first / all : 0;
  $(".streaming", whole).style.flexGrow = known ? 1 - first / all : 1;
  $(".times p", whole).textContent = !known ? `${duration(all)} in total`
    : `first token after ${duration(first)}, then ${duration(all - first)} of streaming`;
}

const answered = () => bubble("assistant", [
  entry.thinking ? thinking(entry.thinking) : "", entry.response ? passage(entry.response) : "",
  lengthOnly(entry) ? passage(left(entry.response_chars)) : "",
  ...[entry.tool_calls ?? []].flat().map(toolCall),
  entry.error ? passage(entry.error, "problem") : ""]);

function showFacts({ prompt, system, request, response, thinking, tool_calls, error, ...others }) {
  const there = Object.entries(others).filter(([, value]) => value != null);
  $("dl", whole).replaceChildren(...there.map(([name, value]) => element("div", {},
    element("dt", {}, visible(name.replaceAll("_", " "), 100)),
    element("dd", { dir: "auto" }, visible(value, 2000)))));
}

async function load(id) {
  const found = await (await request(`log/${encodeURIComponent(id)}`, { kind: "log" })).json();
  if (id !== opened) return;
  entry = found;
  $("h2", dialog).textContent = `${moment(entry.finished_at)} · ${visible(entry.model, 60)}`;
  $(".asked", whole).replaceChildren(...conversation(entry));
  $(".answered", whole).replaceChildren(answered());
  for (const name of ["again", "copy", "curl"]) button(name).disabled = lengthOnly(entry);
  showTimes(entry);
  showFacts(entry);
  whole.hidden = false;
}

// Show the entry of this id; none closes the dialog.
export function show(id) {
  if (id === opened) return;
  opened = id;
  if (!id) return dialog.close();
  if (!dialog.open) dialog.showModal();
  [dialog.scrollTop, whole.hidden, $("h2", dialog).textContent] = [0, true, "Entry"];
  fail(dialog);
  load(id).catch((error) => id === opened && fail(dialog, error));
}

function sent({ prompt, model, system, options, format, think, request: body }) {
  const asked = Object.entries({ prompt, model, system, options, format, think });
  return body ?? Object.fromEntries(asked.filter(([, value]) => value != null));
}

const on = (name, action) => button(name).addEventListener("click", action);
on("again", () => again(entry));
on("copy", (event) => copy(written(entry.response), event));
on("curl", (event) => copy(curl(entry.endpoint, sent(entry)), event));
on("json", (event) => copy(JSON.stringify(entry), event));
dialog.addEventListener("close", () => {
  const { view, filter, entry: id } = read();
  if (dialog.open || !id || id !== opened) return; // it was not the reader who closed it
  location.hash = write(view, filter);
  $(`main a[href$="${CSS.escape(encodeURIComponent(id))}"]`)?.focus();
});
