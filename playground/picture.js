/** The picture: previews and results fade into one another; the sand can lie over it. */

import { fromBase64, typeOf } from "./base64.js";

export class Picture {
  #stage;
  #sand;
  #compared;
  #turn = 0;
  #address = null;

  constructor(stage, sand) {
    this.#stage = stage;
    this.#sand = sand;
    this.#compared = stage.querySelector(".compared");
    this.blob = null;
    sand.addEventListener("drawn", () => this.#compare());
  }

  /** A small picture of one that is being painted. */
  async preview(base64) {
    await this.#show(fromBase64(base64, typeOf(base64)), false);
  }

  /** A finished one. */
  async show(blob) {
    this.blob = blob;
    await this.#show(blob, true);
  }

  /** How far it is, 0 to 1; null when nothing is painted. */
  set progress(share) {
    this.#stage.classList.toggle("painting", share !== null);
    this.#stage.querySelector("progress").value = share ?? 0;
  }

  /** Whether the sand lies over the picture, and over how much of it from the left (0 to 100). */
  compare(on, split) {
    this.#stage.classList.toggle("comparing", on);
    this.#stage.style.setProperty("--split", `${100 - split}%`);
    this.#compare();
  }

  #compare() {
    const { canvas } = this.#sand;
    if (!this.#stage.matches(".comparing, .touched, .waiting")) return;
    if (this.#compared.width !== canvas.width) this.#compared.width = canvas.width;
    if (this.#compared.height !== canvas.height) this.#compared.height = canvas.height;
    this.#compared.getContext("2d").drawImage(canvas, 0, 0);
  }

  async #show(blob, final) {
    const turn = (this.#turn += 1);
    const address = URL.createObjectURL(blob);
    const [under, over] = [".under", ".over"].map((name) => this.#stage.querySelector(name));
    // Decoded before it is swapped in, so that nothing flickers.
    under.src = address;
    const shown = await under.decode().then(() => true, () => false);
    if (turn !== this.#turn || !shown) {
      URL.revokeObjectURL(address);
      return;
    }
    under.className = "over";
    over.className = "under";
    this.#stage.classList.toggle("preview", !final);
    this.#stage.classList.add("shown");
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = address;
  }
}
