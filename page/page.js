// The page: shows the view that the address names, and hides the others.
import * as address from "./address.js";
import * as ask from "./ask.js";
import { $ } from "./element.js";
import * as entry from "./entry.js";
import * as figures from "./figures.js";
import * as filter from "./filter.js";
import { change, keep } from "./key.js";
import "./keys.js";
import * as log from "./log.js";
import { answering } from "./service.js";

const views = { ask, log, figures };
let home = "ask"; // the log where nothing answers
let shown;

function show() {
  const key = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B")).get("key");
  if (key) {
    keep("log", key);
    history.replaceState(null, "", "#log"); // it is not to be seen, sent or remembered
  }
  const now = address.read();
  const view = Object.hasOwn(views, now.view) && (home === "ask" || now.view !== "ask") ? now.view : home;
  if (shown && shown !== view) views[shown].hide?.();
  for (const name in views) {
    const link = $(`nav a[href^="#${name}"]`);
    if (name !== "ask" && view !== "ask") link.href = address.write(name, now.filter);
    link.ariaCurrent = name === view ? "page" : null;
    $(`main#${name}`).hidden = name !== view;
  }
  $("#filter").hidden = view === "ask";
  if (view !== "ask") filter.show(view, now.filter);
  entry.show(...(view === "ask" ? [] : [now.entry, now.other])); // first: to close it moves the focus
  if (view !== "ask" || shown !== view) views[view].show(now.filter);
  shown = view;
}
$("[name=keys]").addEventListener("click", change);
addEventListener("hashchange", show);
// a browser that has loaded the page goes to what the fragment names, away from the field
addEventListener("load", () => setTimeout(() => shown === "ask" && !$("dialog[open]") && ask.show()));
show();
if (/ with no LLM service/.test(await answering())) {
  $("nav a[href^='#ask']").hidden = true;
  home = "log";
  show();
}
