// What can be done by single keys; `?` lists them.
import { $ } from "./element.js";
import { step } from "./entry.js";

const [entry, list] = [$("dialog#entry"), $("dialog#keys")];
const KEYS = {
  j: () => step(1), ArrowRight: () => step(1), k: () => step(-1), ArrowLeft: () => step(-1),
  "/": () => $("#filter [name=q]").focus(), "?": () => list.showModal(),
};
$("[name=shortcuts]").addEventListener("click", KEYS["?"]);
addEventListener("keydown", (event) => {
  const { key, target, ctrlKey, metaKey, altKey } = event;
  const types = target.closest("input:not([type=checkbox]), textarea, select");
  const scrolls = key.startsWith("Arrow") && target.closest("[tabindex='0']");
  if (types || scrolls || ctrlKey || metaKey || altKey || !Object.hasOwn(KEYS, key)) return;
  if (list.open || $("dialog#key").open) return;
  if (key !== "?" && (key === "/") === entry.open) return; // to search, or to go on in an entry
  event.preventDefault();
  KEYS[key]();
});
