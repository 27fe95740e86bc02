// Before anything is drawn: the chosen theme, and the kiosk's bare page.
(() => {
  const root = document.documentElement;
  const query = new URLSearchParams(location.search);
  let theme = query.get("theme");
  try {
    theme ??= localStorage.getItem("experimance.theme");
  } catch {
    // Storage may be forbidden; the system's theme is then used.
  }
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  if (query.get("kiosk") === "1") root.classList.add("kiosk");
})();
