/** The brush's controls, and the landscapes to begin with. */

import { LANDSCAPES, landscape } from "./canvas/landscapes.js";
import { shade } from "./canvas/shading.js";
import { Terrain } from "./canvas/terrain.js";
import { newSeed, words } from "./form.js";

const THUMBNAIL = 56;
const LEVEL = 0.35;

/** @returns the brush {tool, size, strength}, which follows its controls; and what keys do to it. */
export function brushOf(root, resized) {
  const [size, force] = ["#size", "#force"].map((name) => root.querySelector(name));
  const label = () => {
    for (const input of [size, force]) input.parentElement.querySelector("output").textContent = input.value;
    resized();
  };
  root.addEventListener("input", label);
  label();
  const step = (input, by) => {
    input.value = Number(input.value) + by;
    label();
  };
  return {
    get tool() {
      return root.querySelector("input[name=tool]:checked").value;
    },
    get size() {
      return Number(size.value) / 100;
    },
    get strength() {
      return Number(force.value) / 100;
    },
    choose(tool) {
      root.querySelector(`input[name=tool][value=${tool}]`).checked = true;
    },
    larger: (by) => step(size, by),
    stronger: (by) => step(force, by),
  };
}

/** Buttons that replace the sand by a landscape, each press by another one of its kind. */
export function offerLandscapes(place, sand) {
  for (const name of Object.keys(LANDSCAPES)) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Begin with ${words(name)}`);
    button.title = words(name);
    const canvas = document.createElement("canvas");
    canvas.width = THUMBNAIL;
    canvas.height = THUMBNAIL;
    shade(canvas.getContext("2d"), landscape(name, THUMBNAIL, THUMBNAIL, 11), false);
    button.append(canvas);
    button.addEventListener("click", () => {
      const { width, height } = sand.terrain;
      sand.replace(landscape(name, width, height, newSeed()));
    });
    place.append(button);
  }
}

/** Undo, redo, level, and the look of the sand; `restful` tells the buttons when they can. */
export function sandButtons(root, sand) {
  const on = (name, action) => root.querySelector(name).addEventListener("click", action);
  const actions = {
    undo: () => sand.undo(),
    redo: () => sand.redo(),
    clear: () => sand.replace(Terrain.level(sand.terrain.width / sand.terrain.height, LEVEL)),
    raw: () => {
      sand.raw = !sand.raw;
      root.querySelector("#raw").setAttribute("aria-pressed", sand.raw);
    },
  };
  for (const [name, action] of Object.entries(actions)) on(`#${name}`, action);
  const enable = () => {
    root.querySelector("#undo").disabled = !sand.possible.undo;
    root.querySelector("#redo").disabled = !sand.possible.redo;
  };
  for (const kind of ["change", "rest", "restored"]) sand.addEventListener(kind, enable);
  enable();
  return actions;
}
