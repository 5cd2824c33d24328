// The keys, the log's and the API's. They live in this tab's session storage and nowhere else.
import { $ } from "./element.js";

const asking = {};
export const key = (kind) => sessionStorage.getItem(`${kind}-key`);
export const keep = (kind, value) => sessionStorage.setItem(`${kind}-key`, value);

// Ask for a key and keep it; false where none is given. One dialog, however many wait for it.
export function ask(kind, wrong) {
  asking[kind] ??= new Promise((resolve) => {
    const dialog = $(`#${kind}-key`);
    $(".problem", dialog).hidden = !wrong;
    $("form", dialog).reset();
    dialog.returnValue = "";
    dialog.onclose = () => {
      if (dialog.returnValue) keep(kind, $("input", dialog).value.trim());
      asking[kind] = resolve(Boolean(dialog.returnValue));
    };
    dialog.showModal();
  });
  return asking[kind];
}
