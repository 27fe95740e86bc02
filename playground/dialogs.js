/** The token's dialog and the shortcuts'. */

import { token } from "./api.js";

/**
 * @param entered called when a token was entered or forgotten.
 * @returns opens the dialog, with a hint where the service refused.
 */
export function tokenDialog(dialog, button, entered) {
  const text = dialog.querySelector("#token-text");
  const hint = dialog.querySelector("#token-hint");
  const usual = hint.textContent;
  const ask = (refused) => {
    if (dialog.open) return;
    hint.textContent = refused
      ? token.get()
        ? "The service does not accept this token. Perhaps it was changed: ask its operator for the current one."
        : "This service asks for a token. Its operator has one for you; it is kept until this tab is closed."
      : usual;
    dialog.classList.toggle("refused", refused);
    text.value = token.get();
    dialog.showModal();
    text.select();
  };
  button.addEventListener("click", () => ask(false));
  dialog.querySelector("#token-clear").addEventListener("click", () => {
    text.value = "";
    dialog.close("use");
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "use") return;
    dialog.returnValue = "";
    token.set(text.value.trim());
    entered();
  });
  return ask;
}

/** Open a dialog by a button; a click beside it closes it. */
export function helpDialog(dialog, button) {
  button.addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
