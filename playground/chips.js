/** One of several names, as radio buttons that look like chips. */

/** @param chosen called when somebody chooses. */
export function chips(place, name, chosen) {
  place.addEventListener("change", chosen);
  return {
    /** @param choices [value, label, title]. */
    fill(choices) {
      const kept = this.value;
      place.replaceChildren(
        ...choices.map(([value, text, title]) => {
          const label = document.createElement("label");
          const input = Object.assign(document.createElement("input"), { type: "radio", name, value });
          const shown = document.createElement("span");
          shown.textContent = text;
          label.title = title ?? "";
          label.append(input, shown);
          return label;
        }),
      );
      this.value = kept;
    },
    get value() {
      return place.querySelector("input:checked")?.value ?? "";
    },
    set value(value) {
      const input = [...place.querySelectorAll("input")].find((one) => one.value === value);
      if (input) input.checked = true;
    },
  };
}
