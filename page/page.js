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

const views = { ask, log, figures };
let shown;

function show() {
  const key = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B")).get("key");
  if (key) {
    keep("log", key);
    history.replaceState(null, "", "#log"); // it is not to be seen, sent or remembered
  }
  const now = address.read();
  const view = Object.hasOwn(views, now.view) ? now.view : "ask";
  if (shown && shown !== view) views[shown].hide?.();
  for (const name in views) {
    const link = $(`nav a[href^="#${name}"]`);
    if (name !== "ask" && view !== "ask") link.href = address.write(name, now.filter);
    link.ariaCurrent = name === view ? "page" : null;
    $(`main#${name}`).hidden = name !== view;
  }
  $("#filter").hidden = view === "ask";
  if (view !== "ask") filter.show(view, now.filter);
  if (view !== "ask" || shown !== view) views[view].show(now.filter);
  shown = view;
  entry.show(...(view === "ask" ? [] : [now.entry, now.other]));
}
$("[name=keys]").addEventListener("click", change);
addEventListener("hashchange", show);
show();
