/** Light and dark: as the system says, until somebody chooses. */

const system = matchMedia("(prefers-color-scheme: dark)");

/** Turn the theme round, and remember it. */
export function turnTheme() {
  const root = document.documentElement;
  const now = root.dataset.theme ?? (system.matches ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("experimance.theme", root.dataset.theme);
  } catch {
    // It holds for this page then.
  }
}
