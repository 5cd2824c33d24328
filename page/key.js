// The keys, the log's and the API's. They live in this tab's session storage, or, if the reader wants
// it, in this browser's local storage, and nowhere else.
import { $ } from "./element.js";

const dialog = $("#key");
const { key: field, remember, username } = $("form", dialog).elements;
const asking = {};
let before = null; // the one dialog's last question
const name = (kind) => `${kind}-key`;
export const key = (kind) =>
  sessionStorage.getItem(name(kind)) ?? localStorage.getItem(name(kind));
export const keep = (kind, value) => sessionStorage.setItem(name(kind), value);

function forget(kind) {
  for (const storage of [sessionStorage, localStorage]) storage.removeItem(name(kind));
}

function take(kind) {
  forget(kind);
  if (dialog.returnValue === "forget") return;
  keep(kind, field.value.trim());
  if (remember.checked) localStorage.setItem(name(kind), field.value.trim());
}

// Ask for a key and keep it; false where none is given. One question, however many wait for it.
export function ask(kind, wrong) {
  asking[kind] ??= before = Promise.resolve(before).then(() => new Promise((resolve) => {
    for (const node of dialog.querySelectorAll("[data-of]")) node.hidden = node.dataset.of !== kind;
    $(".problem", dialog).hidden = !wrong;
    $("form", dialog).reset();
    username.value = `MiniVault ${kind}`; // a password manager tells the two keys apart by it
    field.value = wrong ? "" : key(kind) ?? "";
    remember.checked = localStorage.getItem(name(kind)) !== null;
    $("[value=forget]", dialog).hidden = !key(kind);
    dialog.returnValue = "";
    dialog.onclose = () => {
      if (dialog.returnValue) take(kind);
      asking[kind] = resolve(dialog.returnValue === "ok");
    };
    dialog.showModal();
  }));
  return asking[kind];
}

// Let the reader change the log's key, have it remembered, or forgotten.
export async function change() {
  const had = key("log");
  if (await ask("log") || (had && !key("log"))) location.reload();
}
