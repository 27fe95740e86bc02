/** The picture alone on the whole screen: awake, and back by itself when the service is. */

const IDLE_SECONDS = 3;
const LEAST = 256;

export const isKiosk = document.documentElement.classList.contains("kiosk");

/** Width and height in the screen's proportions, with about as many pixels as a square of `side`. */
export function sizeOfScreen(side) {
  const stretch = Math.sqrt(Math.min(4, Math.max(0.25, innerWidth / innerHeight)));
  // Neither side below what the service accepts.
  const scale = Math.max(side, LEAST * Math.max(stretch, 1 / stretch));
  const multiple = (pixels) => Math.round(pixels / 8) * 8;
  return { width: multiple(scale * stretch), height: multiple(scale / stretch) };
}

/** Keep the screen awake, hide the resting cursor, fill the screen at the first touch. */
export function settle(stage) {
  let lock = null;
  const wake = async () => {
    if (document.hidden || !navigator.wakeLock) return;
    lock = await navigator.wakeLock.request("screen").catch(() => lock);
  };
  document.addEventListener("visibilitychange", wake);
  wake();
  stage.addEventListener(
    "pointerup",
    () => document.fullscreenElement ?? document.documentElement.requestFullscreen?.().catch(() => {}),
    { once: true },
  );
  let timer = 0;
  const seen = () => {
    document.documentElement.classList.remove("idle");
    clearTimeout(timer);
    timer = setTimeout(() => document.documentElement.classList.add("idle"), IDLE_SECONDS * 1000);
  };
  document.addEventListener("pointermove", seen);
  seen();
}
