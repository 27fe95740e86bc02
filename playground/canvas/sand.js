/** The sand on its canvas: painted, undone, replaced; tells when it changed. */

import { stamp } from "./brush.js";
import { shade } from "./shading.js";
import { Terrain } from "./terrain.js";
import { Undo } from "./undo.js";
import { greyPng } from "../png.js";

/** Events: change (while it is painted), rest (a change is complete). */
export class Sand extends EventTarget {
  #canvas;
  #context;
  #undo = new Undo();
  #raw = false;
  #png = null;

  constructor(canvas, terrain = Terrain.level(1)) {
    super();
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#show(terrain);
  }

  get canvas() {
    return this.#canvas;
  }

  get possible() {
    return this.#undo.possible;
  }

  get raw() {
    return this.#raw;
  }

  set raw(shown) {
    this.#raw = shown;
    this.#draw();
  }

  /** Remember what is there: a change begins. */
  begin() {
    this.#undo.remember(this.terrain);
  }

  /** Press the brush; see brush.js. */
  press(tool, x, y, radius, amount, level) {
    this.#draw(stamp(this.terrain, tool, x, y, radius, amount, level));
    this.#changed("change");
  }

  /** The change is complete. */
  end() {
    this.#changed("rest");
  }

  /** Other sand in its place, which can be undone. */
  replace(terrain) {
    this.begin();
    this.#show(terrain);
    this.end();
  }

  /** The sand that an earlier picture was made from, which needs not be painted again. */
  restore(terrain) {
    this.begin();
    this.lay(terrain);
  }

  /** The first sand of all: nothing to be painted, nothing to be undone. */
  lay(terrain) {
    this.#show(terrain);
    this.dispatchEvent(new Event("restored"));
  }

  undo() {
    this.#go(this.#undo.back(this.terrain));
  }

  redo() {
    this.#go(this.#undo.forward(this.terrain));
  }

  /** Other proportions: the same sand, stretched. */
  reshape(ratio) {
    const { width, height } = Terrain.level(ratio);
    const terrain = this.terrain.resampled(width, height);
    if (terrain !== this.terrain) this.#show(terrain);
  }

  /** The height under a cell. */
  at(x, y) {
    const { width, height, heights } = this.terrain;
    const column = Math.min(width - 1, Math.max(0, Math.round(x)));
    return heights[Math.min(height - 1, Math.max(0, Math.round(y))) * width + column];
  }

  /** The depth map that is sent, a grey PNG; made once per change. */
  async png() {
    this.#png ??= greyPng(this.terrain.width, this.terrain.height, this.terrain.bytes());
    return this.#png;
  }

  #go(snapshot) {
    if (snapshot === null) return;
    this.#show(Terrain.of(snapshot));
    this.end();
  }

  #show(terrain) {
    this.terrain = terrain;
    this.#canvas.width = terrain.width;
    this.#canvas.height = terrain.height;
    this.#png = null;
    this.#draw();
  }

  #draw(area) {
    shade(this.#context, this.terrain, this.#raw, area);
    this.dispatchEvent(new Event("drawn"));
  }

  #changed(kind) {
    this.#png = null;
    this.dispatchEvent(new Event(kind));
  }
}
