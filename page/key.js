// The keys, the log's and the API's. They live in this tab's session storage and nowhere else.
import { $ } from "./element.js";

const dialog = $("#key");
const asking = {};
let before = null; // the one dialog's last question
export const key = (kind) => sessionStorage.getItem(`${kind}-key`);
export const keep = (kind, value) => sessionStorage.setItem(`${kind}-key`, value);

// Ask for a key and keep it; false where none is given. One question, however many wait for it.
export function ask(kind, wrong) {
  asking[kind] ??= before = Promise.resolve(before).then(() => new Promise((resolve) => {
    for (const node of dialog.querySelectorAll("[data-of]")) node.hidden = node.dataset.of !== kind;
    $(".problem", dialog).hidden = !wrong;
    $("form", dialog).reset();
    dialog.returnValue = "";
    dialog.onclose = () => {
      if (dialog.returnValue) keep(kind, $("input", dialog).value.trim());
      asking[kind] = resolve(Boolean(dialog.returnValue));
    };
    dialog.showModal();
  }));
  return asking[kind];
}
