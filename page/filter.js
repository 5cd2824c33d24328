// The filter: its form, the days to choose from, and what of it the service is asked.
import { write } from "./address.js";
import { $, element } from "./element.js";
import { objects, request } from "./service.js";

const form = $("#filter");
let shown = "log";
const midnight = (daysAgo, day = new Date()) =>
  new Date(day.getFullYear(), day.getMonth(), day.getDate() - daysAgo);
// A day as the form's fields have it, `2026-11-24`; in Sweden, as it happens.
const date = (daysAgo) => midnight(daysAgo).toLocaleDateString("sv");

function spans() {
  const weekday = (daysAgo) => ["Today", "Yesterday"][daysAgo] ??
    midnight(daysAgo).toLocaleDateString("en-GB", { weekday: "long", day: "numeric" });
  const days = [0, 1, 2, 3, 4, 5, 6, 7].map((ago) => [weekday(ago), date(ago), date(ago)]);
  return [["Any day"], ...days, ["7 days", date(6), date(0)], ["30 days", date(29), date(0)]];
}

export function show(view, filter) {
  shown = view;
  for (const field of form.elements) field.value = filter[field.name] ?? "";
  const { from, to, ...others } = filter;
  $(".clear", form).href = write(view);
  $(".clear", form).hidden = !Object.values(filter).some(Boolean);
  const days = $(".days", form); // whose links stay, as one may be under a pressed button
  spans().forEach(([label, first, last], i) => {
    const link = days.children[i] ?? days.appendChild(element("a"));
    link.textContent = label;
    link.href = write(view, first ? { ...others, from: first, to: last } : others);
    link.ariaCurrent = from === first && to === last ? "true" : null;
  });
}

// Put into the address what the form holds; a text when it is whole, not with every key. And show
// it at once: a browser says later that the address changed, maybe when the next field is typed in.
function apply(event) {
  event.preventDefault();
  const held = [...new FormData(form)].filter(([, value]) => value);
  history.replaceState(null, "", write(shown, held));
  dispatchEvent(new Event("hashchange"));
}
for (const event of ["change", "submit"]) form.addEventListener(event, apply);
$("details", form).open = innerWidth > 700;

// What the service is asked: days are the reader's own, from midnight to midnight.
export function query({ from, to, ...filter }) {
  const parameters = new URLSearchParams(filter);
  for (const [name, day, after] of [["since", from, 0], ["until", to, 1]].filter((it) => it[1])) {
    const start = midnight(-after, new Date(`${day}T00:00`));
    if (Number.isNaN(start.getTime())) throw new Error(`“${day}” is not a day, as in ${date(0)}.`);
    parameters.set(name, start.toISOString());
  }
  if (from > to) throw new Error("“From” is later than “To”: no day is between them.");
  return parameters;
}

export function name({ from, to, model, user_agent: program, client, endpoint, conversation, status, q }) {
  const ends = from && to ? [...new Set([from, to])] : [from && `from-${from}`, to && `until-${to}`];
  const parts = [ends.filter(Boolean).join("-to-"), model, program, client, endpoint, conversation, status, q]
    .filter(Boolean).map((part) => part.replace(/[^\p{L}\p{N}._]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60));
  return ["minivault", ...parts.length ? parts : ["all"]].join("-");
}
export function offer(list, values) {
  const known = new Set([...$(`#${list}`).options].map(({ value }) => value));
  const fresh = [...new Set(values)].filter((value) => value && !known.has(value)).slice(0, 50);
  $(`#${list}`).append(...fresh.map((value) => element("option", { value })));
}

async function offerAll() {
  for await (const { models, clients } of objects(await request("log/figures", { kind: "log", quiet: true }))) {
    offer("models", (models ?? []).map(({ model }) => model));
    offer("programs", (clients ?? []).map(({ client }) => client));
  }
}
form.addEventListener("focusin", function look({ target }) {
  if (!/^(programs|models)$/.test(target.getAttribute("list"))) return;
  form.removeEventListener("focusin", look);
  offerAll().catch(() => {}); // those of the entries that are shown are there
});
