/** LoRAs chosen one by one, instead of the era's. */

export class Loras {
  #own;
  #place;

  /** @param own the checkbox that says that they are chosen here. */
  constructor(own, place) {
    this.#own = own;
    this.#place = place;
    own.addEventListener("change", () => this.#show());
  }

  fill(names) {
    const kept = this.value;
    this.#place.replaceChildren(
      ...names.map((name) => {
        const label = document.createElement("label");
        label.className = "slider";
        const text = document.createElement("span");
        text.textContent = name.replaceAll("_", " ");
        const input = document.createElement("input");
        Object.assign(input, { type: "range", min: -5, max: 5, step: 0.05, value: 0 });
        input.dataset.lora = name;
        label.append(text, input, document.createElement("output"));
        return label;
      }),
    );
    this.restore(this.chosen ? kept : undefined);
  }

  get chosen() {
    return this.#own.checked;
  }

  /** [{name, strength}] of those that act. */
  get value() {
    return this.#sliders()
      .map((input) => ({ name: input.dataset.lora, strength: Number(input.value) }))
      .filter(({ strength }) => strength !== 0);
  }

  /** @param loras as a request has them; undefined where the era decides. */
  restore(loras) {
    this.#own.checked = loras !== undefined;
    for (const input of this.#sliders()) {
      input.value = loras?.find(({ name }) => name === input.dataset.lora)?.strength ?? 0;
    }
    this.#show();
  }

  #sliders() {
    return [...this.#place.querySelectorAll("input")];
  }

  #show() {
    this.#place.hidden = !this.chosen;
  }
}
