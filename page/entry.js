// An entry, whole, in a dialog over the log: the conversation from top to bottom with the answer
// under its last question, and the facts about it; or two entries side by side.
import { read, write } from "./address.js";
import { again } from "./ask.js";
import { answer, lengthOnly, messages, prompted, thread } from "./conversation.js";
import { difference } from "./difference.js";
import { $, copy, element, fail, time, visible, written } from "./element.js";
import { facts, list } from "./facts.js";
import { beside as find, choose, neighbour } from "./log.js";
import { duration } from "./measure.js";
import { passage, showPlain } from "./passage.js";
import { reveal } from "./rows.js";
import { curl, request } from "./service.js";
import { markAll, pattern } from "./terms.js";

const WIDE = 1000; // px from which the facts stand beside the conversation
const OWN = /(^|_)(id|at)$|^conversation$/; // differs between any two entries
const dialog = $("#entry");
const [whole, pair] = [$(".whole", dialog), $(".pair", dialog)];
const control = (name) => $(`[name=${name}]`, dialog);
let [opened, beside, entry] = []; // its id, that of the one beside it, and what it holds
let [words, stepping] = []; // what is marked, and the step that is under way

function showTimes({ ttft_ms: first, duration_ms: all }) {
  const known = typeof first === "number";
  $(".waiting", whole).style.flexGrow = known ? first / all : 0;
  $(".streaming", whole).style.flexGrow = known ? 1 - first / all : 1;
  $(".times p", whole).textContent = !known ? `${duration(all)} in total`
    : `first token after ${duration(first)}, then ${duration(all - first)} of streaming`;
}

// What was answered or called is in sight when an entry opens, under its question if both fit.
function scroll() {
  $(".question", whole).scrollIntoView();
  const answered = $(".answered", whole);
  const { top, height } = answered.getBoundingClientRect();
  if (top + Math.min(height, dialog.clientHeight / 4) > dialog.getBoundingClientRect().bottom) {
    answered.scrollIntoView({ block: height < dialog.clientHeight / 2 ? "end" : "start" });
  }
}
function showSteps() {
  if (!opened) return;
  reveal(opened);
  for (const [name, by, ...labels] of [["newer", -1, "Newer", "Previous request"],
    ["older", 1, "Older", "Next request"]]) {
    const { isThere, isSame } = find(opened, by);
    if (!isThere && document.activeElement === control(name)) $("form button", dialog).focus();
    [control(name).disabled, control(name).textContent] = [!isThere, labels[Number(isSame)]];
  }
}

function showWhole() {
  showPlain(control("plain").checked);
  words = pattern(read().filter.q);
  $("h2", dialog).replaceChildren(time(entry.finished_at), ` · ${visible(entry.model, 60)}`);
  $(".asked", whole).replaceChildren(...thread(messages(entry)));
  $(".answered", whole).replaceChildren(answer(entry));
  for (const name of ["again", "copy", "curl"]) control(name).disabled = lengthOnly(entry);
  showTimes(entry);
  $("dl", whole).replaceChildren(...list(entry));
  $("details.about", whole).open = innerWidth > WIDE;
  whole.hidden = $("header .actions", dialog).hidden = false;
  showSteps();
  scroll();
}
const title = (it) => [visible(it.model, 60), " · ", time(it.finished_at)];
function showPair(entries) {
  const [one, two] = entries.map((it) => written(prompted(it)));
  const answers = difference(...entries.map((it) => [it.response, it.tool_calls, it.error]
    .filter((part) => part != null).map(written).join("\n\n")));
  const known = entries.map((it) => new Map(facts(it).map(([key, ...fact]) => [key, fact])));
  const keys = [...new Set(known.flatMap((each) => [...each.keys()]))];
  const row = (key) => {
    const [label] = known.find((each) => each.has(key)).get(key);
    const values = known.map((each) => each.get(key)?.[1] ?? "");
    const [a, b] = values.map((value) => value.textContent ?? value);
    const cell = (value) => (a === b || OWN.test(key) ? value : element("mark", {}, value));
    return element("tr", {}, element("th", { scope: "row" }, label),
      values.map((value) => element("td", {}, cell(value))));
  };
  $("h2", dialog).textContent = "Two entries";
  $(".same", pair).replaceChildren(...(one === two ? [element("h3", {}, "Both were asked"), passage(one)] : []));
  $(".columns", pair).replaceChildren(...entries.map((it, n) => element("section", {},
    element("h3", {}, title(it)), one === two ? [] : [element("h4", {}, "Asked"), passage(prompted(it))],
    element("h4", {}, "Answered"), element("div", { class: "text", dir: "auto" }, answers[n]))));
  $("thead tr", pair).replaceChildren(element("td"), ...entries.map((it) =>
    element("th", { scope: "col" }, title(it))));
  $("tbody", pair).replaceChildren(...keys.map(row));
  pair.hidden = false;
}

async function load(...ids) {
  const [id, other] = ids;
  const responses = await Promise.all(ids.filter(Boolean).map((each) =>
    request(`log/${encodeURIComponent(each)}`, { kind: "log" })));
  const entries = await Promise.all(responses.map((response) => response.json()));
  if (id !== opened || other !== beside) return;
  [entry] = entries;
  if (other) showPair(entries.reverse()); // the one that was chosen first stands on the left
  else showWhole();
}

export function show(id, other) {
  if (id === opened && other === beside) return;
  [opened, beside] = [id, other];
  if (!id) return dialog.close();
  [dialog.scrollTop, whole.hidden, pair.hidden] = [0, true, true];
  $("h2", dialog).textContent = "Entry";
  $("header .actions", dialog).hidden = true;
  if (!dialog.open) dialog.showModal(); // the first control that is shown, Close, gets the focus
  fail(dialog);
  load(id, other).catch((error) => id === opened && fail(dialog, error));
}

// Show the entry below in the log, or the one above; one step after the other.
export function step(by) {
  stepping = Promise.allSettled([stepping]).then(async () => {
    const { view, filter } = read();
    const found = view === "log" && opened && !beside && await neighbour(opened, by);
    if (!found || !opened) return;
    location.replace(write(view, filter, found));
    show(found); // a browser says later that the address changed
  });
}

function sent({ prompt, model, system, options, format, think, request: body }) {
  const asked = Object.entries({ prompt, model, system, options, format, think });
  return body ?? Object.fromEntries(asked.filter(([, value]) => value != null));
}
const on = (name, action) => control(name).addEventListener("click", action);
on("again", () => again(entry));
on("copy", (event) => copy(written(entry.response), event));
on("curl", (event) => copy(curl(entry.endpoint, sent(entry)), event));
on("json", (event) => copy(JSON.stringify(entry), event));
on("newer", () => step(-1));
on("older", () => step(1));
on("plain", showWhole);
on("compare", () => {
  choose(entry);
  dialog.close();
});
addEventListener("rows", showSteps);
new MutationObserver(() => markAll($(".thread", whole), words))
  .observe($(".thread", whole), { childList: true, subtree: true });
dialog.addEventListener("close", () => {
  showPlain(false);
  const { view, filter, entry: id } = read();
  if (dialog.open || !id || id !== opened) return; // it was not the reader who closed it
  location.hash = write(view, filter);
  ($(`main a[href$="${CSS.escape(encodeURIComponent(id))}"]`) ?? $("#log .scroller")).focus();
});
