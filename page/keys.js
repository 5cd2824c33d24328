// What can be done by single keys; `?` lists them.
import { $ } from "./element.js";
import { step } from "./entry.js";

const [entry, list] = [$("dialog#entry"), $("dialog#keys")];
const log = $("main#log");

// Go from row to row, also to those that open to others.
function move(by) {
  const all = [...log.querySelectorAll("tbody tr:not([hidden]) :is(.prompt a, .prompt button)")];
  const at = all.indexOf(document.activeElement);
  all[at < 0 ? 0 : at + by]?.focus();
}

const go = (by) => (entry.open ? step(by) : move(by));
const KEYS = {
  j: () => go(1), k: () => go(-1), ArrowRight: () => entry.open && step(1),
  ArrowLeft: () => entry.open && step(-1), "?": () => list.showModal(),
  "/": () => entry.open || $("#filter [name=q]").focus(),
};
addEventListener("keydown", (event) => {
  const { key, target, ctrlKey, metaKey, altKey } = event;
  const types = target.closest("input:not([type=checkbox]), textarea, select");
  const scrolls = key.startsWith("Arrow") && target.closest("[tabindex='0']");
  if (types || scrolls || ctrlKey || metaKey || altKey || !Object.hasOwn(KEYS, key)) return;
  if (log.hidden && !entry.open && key !== "?") return;
  event.preventDefault();
  KEYS[key]();
});
