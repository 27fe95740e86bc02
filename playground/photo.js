/** A photograph: its depth lies down in the sand, or the picture begins from it. */

import { call } from "./api.js";
import { fromBase64, toBase64 } from "./base64.js";
import { photographFrom, sandFrom } from "./canvas/decode.js";

/** Events: change (a picture depends on it), refused {error}, estimated {answer}, working. */
export class Photo extends EventTarget {
  #root;
  #sand;
  #form;
  #file = null;
  #address = null;
  #cut = null;

  constructor(root, sand, form) {
    super();
    this.#root = root;
    this.#sand = sand;
    this.#form = form;
    this.#on("#photo-remove", "click", () => this.remove());
    this.#on("#photo-depth", "click", () => this.estimate());
    this.#on("#photo-start", "change", () => this.#started());
  }

  /** Take a photograph; its depth is estimated where the service can. */
  async take(file) {
    await this.#keep(file);
    if (this.#estimators > 0) await this.estimate();
    else {
      this.#root.querySelector("#photo-start").checked = true;
      this.#started();
    }
  }

  /** The photograph of an earlier request, or none. */
  async restore(blob, started) {
    if (blob === null) this.#forget();
    else await this.#keep(blob);
    this.#root.querySelector("#photo-start").checked = started;
    this.#show();
  }

  remove() {
    const { started } = this;
    this.#forget();
    if (started) this.dispatchEvent(new Event("change"));
  }

  /** Whether the picture begins from it. */
  get started() {
    return this.#file !== null && this.#root.querySelector("#photo-start").checked;
  }

  /** What the request has of it: {strength, image (a JPEG)}, or null. */
  async begin() {
    if (!this.started) return null;
    const strength = Number(this.#root.querySelector("[name=strength]").value);
    return { strength, image: await this.#cutTo(this.#form.size.ratio) };
  }

  /** Ask for its depth and lay it in the sand. */
  async estimate() {
    this.dispatchEvent(new Event("working"));
    const button = this.#root.querySelector("#photo-depth");
    button.disabled = true;
    try {
      const image = await this.#cutTo(this.#form.size.ratio);
      const estimator = this.#root.querySelector("[name=depth_estimator]").value;
      const body = { image_b64: await toBase64(image) };
      if (estimator) body.depth_estimator = estimator;
      const response = await call("/estimate_depth", { body });
      const answer = await response.json();
      const map = fromBase64(answer.depth_map_b64, "image/png");
      this.#sand.replace(await sandFrom(map, this.#sand.terrain));
      this.dispatchEvent(new CustomEvent("estimated", { detail: answer }));
    } catch (error) {
      this.dispatchEvent(new CustomEvent("refused", { detail: { error } }));
    } finally {
      button.disabled = false;
    }
  }

  get #estimators() {
    return this.#root.querySelector("[name=depth_estimator]").options.length;
  }

  async #keep(file) {
    const cut = await photographFrom(file, this.#form.size.ratio);
    this.#forget();
    this.#file = file;
    this.#cut = { ratio: this.#form.size.ratio, blob: cut };
    this.#address = URL.createObjectURL(file);
    this.#root.querySelector("img").src = this.#address;
    this.#show();
  }

  async #cutTo(ratio) {
    if (this.#cut.ratio !== ratio) this.#cut = { ratio, blob: await photographFrom(this.#file, ratio) };
    return this.#cut.blob;
  }

  #started() {
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  #forget() {
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#file = null;
    this.#address = null;
    this.#show();
  }

  #show() {
    this.#root.hidden = this.#file === null;
    this.#root.querySelector("[data-name=strength]").hidden = !this.started;
    this.#root.querySelector("[data-name=depth_estimator]").hidden = this.#estimators < 2;
    this.#root.querySelector("#photo-depth").hidden = this.#estimators === 0;
  }

  #on(selector, kind, handler) {
    this.#root.querySelector(selector).addEventListener(kind, handler);
  }
}
