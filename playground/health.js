/** How the service is, beside the title. */

import { call } from "./api.js";

const SECONDS = 8;

/** Events: back: it answers again, or is ready now. */
export class Health extends EventTarget {
  #root;
  #ready = null;

  constructor(root) {
    super();
    this.#root = root;
    document.addEventListener("visibilitychange", () => this.#look());
    setInterval(() => this.#look(), SECONDS * 1000);
    this.#look();
  }

  async #look() {
    if (document.hidden) return;
    try {
      const health = await (await call("/healthcheck")).json();
      this.#tell(health.status, sentence(health), health.ready_for_inference);
    } catch {
      this.#tell("gone", "No answer", false);
    }
  }

  #tell(status, text, ready) {
    this.#root.dataset.status = status;
    const place = this.#root.querySelector("span");
    if (place.textContent !== text) place.textContent = text;
    if (ready && this.#ready === false) this.dispatchEvent(new Event("back"));
    this.#ready = ready;
  }
}

function sentence({ status, queue, startup_status: startup }) {
  if (status === "error") return startup.startup_error ?? "In trouble";
  if (status === "starting" || status === "loading_models") {
    const files = Object.values(startup.download_progress);
    const sum = (name) => files.reduce((total, file) => total + (file[name] ?? 0), 0);
    const share = sum("total_bytes") > 0 ? ` ${Math.floor((100 * sum("bytes_downloaded")) / sum("total_bytes"))} %` : "";
    return status === "starting" ? "Starting" : `Loading models${share}`;
  }
  return queue.waiting > 0 ? `Ready, ${queue.waiting} waiting` : "Ready";
}
