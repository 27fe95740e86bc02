/** Keyboard shortcuts, and the list of them. */

const STORED = "experimance.single-keys";
const TEXTS = "textarea, select, input[type=number], input[type=password]";

/**
 * @param actions [[keys, description, action]]; `keys` like "Ctrl+Z" or "R", alternatives by " / ".
 * @param list the definition list that shows them; `single` the switch for keys without Ctrl.
 */
export function listen(actions, list, single) {
  for (const [keys, description] of actions) {
    const term = document.createElement("dt");
    for (const key of keys.split(" / ")) {
      const shown = document.createElement("kbd");
      shown.textContent = key;
      term.append(shown, " ");
    }
    const meaning = document.createElement("dd");
    meaning.textContent = description;
    const row = document.createElement("div");
    row.append(term, meaning);
    list.append(row);
  }
  single.checked = localStorage.getItem(STORED) !== "off";
  single.addEventListener("change", () => localStorage.setItem(STORED, single.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const pressed = name(event);
    const found = actions.find(([keys, , action]) => action && keys.split(" / ").includes(pressed));
    if (!found) return;
    const held = pressed.startsWith("Ctrl+");
    // What is typed belongs to the text, and so does undoing it.
    if (event.target.matches(TEXTS) && pressed !== "Ctrl+Enter" && pressed !== "Escape") return;
    if (!held && pressed !== "Escape" && !single.checked) return;
    event.preventDefault();
    found[2]();
  });
}

function name({ key, ctrlKey, metaKey, altKey, shiftKey }) {
  if (altKey) return "";
  const letter = key.length === 1 ? key.toUpperCase() : key;
  const held = ctrlKey || metaKey ? "Ctrl+" : "";
  return `${held}${held && shiftKey ? "Shift+" : ""}${letter}`;
}
