/** The settings: controls filled from the catalog, and the request's fields read from them. */

import { chips } from "./chips.js";
import { Loras } from "./loras.js";

const SECONDS_OF_TYPING = 0.35;
// What the service takes where a field is left out, and needs not be told.
const DEFAULTS = {
  controlnet_strength: 0.8, control_guidance_start: 0, control_guidance_end: 1, lora_strength: 1,
  scheduler: "auto", speed: "exact", decoder: "", output_format: "jpeg", quality: 90,
};
const NUMBERS = ["steps", "cfg", "guidance_start", "guidance_end", "width", "height"];
const SLIDERS = ["controlnet_strength", "control_guidance_start", "control_guidance_end", "lora_strength", "quality"];
const SWITCHES = ["invert_depth", "normalize_depth", "enable_deepcache"];

/** Events: change {rest}: a picture would be different; `rest`: nothing more comes of it for now. */
export class Form extends EventTarget {
  #root;
  #models = null;
  #typing = 0;
  #proposed = "";

  constructor(root) {
    super();
    this.#root = root;
    this.eras = chips(root.querySelector("#era"), "era", () => this.#eraChosen());
    this.variants = chips(root.querySelector("#model"), "model", () => this.#variantChosen());
    this.loras = new Loras(root.querySelector("#own-loras"), root.querySelector("#loras"));
    root.addEventListener("input", (event) => this.#input(event));
    root.addEventListener("change", (event) => event.target.type === "range" && this.#changed());
    root.addEventListener("submit", (event) => event.preventDefault());
    root.querySelector("#propose").addEventListener("click", () => this.#propose(true));
    root.querySelector("#reset").addEventListener("click", () => this.#reset());
    this.seed = newSeed();
    this.#label();
  }

  /** What requests may name, and the choice that stands for each. */
  fill(models) {
    const first = this.#models === null;
    this.#models = models;
    const eras = models.available_eras.map((name) => [name, words(name), models.era_prompts[name]]);
    this.eras.fill([...eras, ["", "no era", "No era: the variant alone, without LoRAs"]]);
    this.variants.fill(
      models.available_models.map((name) => [name, words(name), models.details[name].description]),
    );
    if (first) {
      this.eras.value = models.available_eras[0] ?? "";
      this.variants.value = models.default_model;
    }
    this.#options("scheduler", models.available_schedulers);
    this.#options("controlnet", models.available_controlnets, models.default_controlnet);
    this.#options("depth_estimator", models.available_depth_estimators ?? [], models.default_depth_estimator);
    this.loras.fill(models.available_loras);
    this.#variant();
    if (first) this.#propose(false);
  }

  get ready() {
    return this.#models !== null;
  }

  get prompt() {
    return this.#control("prompt").value;
  }

  get seed() {
    return Number(this.#root.querySelector("#seed").value);
  }

  set seed(value) {
    this.#root.querySelector("#seed").value = value;
  }

  get locked() {
    return this.#root.querySelector("#lock").checked;
  }

  /** Width and height of the picture, and their quotient. */
  get size() {
    const native = this.#models?.details[this.variants.value]?.native_size ?? 1;
    const [width, height] = ["width", "height"].map((name) => Number(this.#control(name).value) || native);
    return { width, height, ratio: Math.min(4, Math.max(0.25, width / height)) };
  }

  /** The request's fields but for its pictures; what is as the service would have it is left out. */
  fields() {
    const fields = { prompt: this.prompt };
    const put = (name, value) => {
      if (value !== "" && value !== undefined && value !== DEFAULTS[name]) fields[name] = value;
    };
    put("negative_prompt", this.#control("negative_prompt").value.trim());
    put("era", this.eras.value);
    put("model", this.variants.value);
    if (this.#models && this.#control("controlnet").value !== this.#models.default_controlnet) {
      put("controlnet", this.#control("controlnet").value);
    }
    for (const name of NUMBERS) {
      const { value } = this.#control(name);
      put(name, value === "" ? "" : Number(value));
    }
    const seed = this.#root.querySelector("#seed").value;
    put("seed", seed === "" ? "" : Number(seed));
    for (const name of SLIDERS) put(name, Number(this.#control(name).value));
    for (const name of ["scheduler", "speed", "decoder", "output_format"]) put(name, this.#control(name).value);
    for (const name of SWITCHES) if (this.#control(name).checked) fields[name] = true;
    if (fields.output_format === "png") delete fields.quality;
    if (this.loras.chosen) fields.loras = this.loras.value;
    return fields;
  }

  /** Controls as the fields of an earlier request had them. */
  restore(fields) {
    this.eras.value = fields.era ?? "";
    this.#control("prompt").value = fields.prompt ?? "";
    if (fields.model !== undefined) this.variants.value = fields.model;
    this.#control("negative_prompt").value = fields.negative_prompt ?? "";
    this.#control("controlnet").value = fields.controlnet ?? this.#models?.default_controlnet ?? "";
    for (const name of NUMBERS) this.#control(name).value = fields[name] ?? "";
    for (const name of SLIDERS) this.#control(name).value = fields[name] ?? DEFAULTS[name];
    this.#variant();
    for (const name of ["scheduler", "speed", "decoder", "output_format"]) {
      this.#control(name).value = fields[name] ?? DEFAULTS[name];
    }
    for (const name of SWITCHES) this.#control(name).checked = fields[name] ?? false;
    if (fields.strength !== undefined) this.#control("strength").value = fields.strength;
    if (fields.seed !== undefined) this.seed = fields.seed;
    this.loras.restore(fields.loras);
    this.#proposed = this.#models?.era_prompts[this.eras.value] ?? "";
    this.#offer();
    this.#label();
  }

  /** Settings by name, e.g. of the page's address; whether any of them is a control. */
  preset(values) {
    const known = new Set(["era", "model", "seed", "prompt"]);
    const given = Object.entries(values).filter(([name]) => known.has(name) || this.#control(name));
    if (given.length === 0) return false;
    const now = this.fields();
    for (const [name, value] of given) {
      const { type } = this.#control(name) ?? {};
      if (type === "checkbox") now[name] = value === "1" || value === "true";
      else now[name] = type === "number" || type === "range" || name === "seed" ? Number(value) : value;
    }
    const prompt = values.prompt ?? this.#models?.era_prompts[now.era];
    this.restore({ ...now, prompt: prompt ?? now.prompt });
    return true;
  }

  /** Mark the controls that an error names. */
  mark(fields) {
    for (const part of this.#root.querySelectorAll("[data-name]")) {
      const wrong = fields.some((field) => field.split(".")[0] === part.dataset.name);
      part.classList.toggle("wrong", wrong);
      for (const control of part.querySelectorAll("input, textarea, select")) {
        if (wrong) control.setAttribute("aria-invalid", "true");
        else control.removeAttribute("aria-invalid");
      }
      if (wrong) part.closest("details")?.setAttribute("open", "");
    }
  }

  /** What is chosen, in a few words. */
  summary() {
    return words(this.eras.value) || words(this.variants.value);
  }

  #control(name) {
    return this.#root.querySelector(`[name="${CSS.escape(name)}"]:not([type=radio])`);
  }

  #input(event) {
    if (event.target.type === "radio") return;
    if (event.target.name === "prompt") this.#offer();
    this.#label();
    clearTimeout(this.#typing);
    const typed = event.target.matches("textarea, input[type=number]");
    if (typed) this.#typing = setTimeout(() => this.#changed(), SECONDS_OF_TYPING * 1000);
    else this.#changed(event.target.type !== "range");
  }

  #eraChosen() {
    this.#propose(false);
    this.#changed();
  }

  #variantChosen() {
    this.#variant();
    this.#changed();
  }

  /** The era's prompt, unless somebody wrote another one. */
  #propose(always) {
    const prompt = this.#models?.era_prompts[this.eras.value];
    const box = this.#control("prompt");
    if (prompt !== undefined && (always || box.value.trim() === "" || box.value === this.#proposed)) {
      box.value = prompt;
      this.#proposed = prompt;
    }
    this.#offer();
    if (always) this.#changed();
  }

  #offer() {
    const prompt = this.#models?.era_prompts[this.eras.value];
    this.#root.querySelector("#propose").hidden = prompt === undefined || prompt === this.prompt;
  }

  #variant() {
    const details = this.#models?.details[this.variants.value];
    if (!details) return;
    for (const name of ["steps", "cfg", "guidance_start", "guidance_end"]) {
      this.#control(name).placeholder = details[name];
    }
    this.#control("width").placeholder = details.native_size;
    this.#control("height").placeholder = details.native_size;
    this.#options("speed", details.speeds);
    // The first one leaves the decoder to the speed.
    this.#options("decoder", ["", ...details.decoders]);
  }

  #options(name, values, chosen) {
    const select = this.#control(name);
    const kept = select.value;
    select.replaceChildren(...values.map((value) => new Option(words(value) || "from speed", value)));
    if (values.includes(kept)) select.value = kept;
    else if (values.includes(chosen)) select.value = chosen;
    select.disabled = values.length < 2;
  }

  #reset() {
    const { prompt, seed, era, model } = this.fields();
    this.restore({ prompt, seed, era, model });
    this.#changed();
  }

  #label() {
    for (const output of this.#root.querySelectorAll("output")) {
      const { value, step } = output.parentElement.querySelector("input");
      output.textContent = step && Number(step) < 1 ? Number(value).toFixed(2) : value;
    }
  }

  #changed(rest = true) {
    this.dispatchEvent(new CustomEvent("change", { detail: { rest } }));
  }
}

/** A name of the catalog as people read it. */
export function words(name) {
  return (name ?? "").replaceAll("_", " ");
}

/** A seed that was not used before, probably. */
export function newSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}
