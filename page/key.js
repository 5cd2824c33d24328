// The keys, the log's and the API's. They live in this tab's session storage, or, if the reader wants
// it, in this browser's local storage, and nowhere else.
import { $ } from "./element.js";

const dialog = $("#key");
const { key: field, remember, username } = $("form", dialog).elements;
const asking = {};
let before = null; // the one dialog's last question
const name = (kind) => `${kind}-key`;
export const key = (kind) => sessionStorage.getItem(name(kind)) ?? localStorage.getItem(name(kind));
export const keep = (kind, value) => sessionStorage.setItem(name(kind), value);

const forget = (...kinds) => [sessionStorage, localStorage].forEach((storage) =>
  kinds.forEach((kind) => storage.removeItem(name(kind))));

function take(kind) {
  if (dialog.returnValue === "forget") {
    forget("log", "api");
    localStorage.setItem("forgotten", Date.now()); // which the other tabs are told
    return localStorage.removeItem("forgotten");
  }
  forget(kind);
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
    $("[value=forget]", dialog).hidden = !key("log") && !key("api");
    dialog.returnValue = "";
    dialog.onclose = () => {
      if (dialog.returnValue) take(kind);
      asking[kind] = resolve(dialog.returnValue === "ok");
    };
    dialog.showModal();
  }));
  return asking[kind];
}

// Let the reader change the log's key, have it remembered, or both keys forgotten.
export async function change() {
  if (await ask("log") || dialog.returnValue === "forget") location.reload();
}
addEventListener("storage", (event) => {
  if (event.key !== "forgotten" || !event.newValue) return;
  forget("log", "api");
  location.reload(); // what it showed is not to be seen any more
});
