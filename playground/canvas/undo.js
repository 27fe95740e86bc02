/** What the sand was before, and before that. */

const MOST = 40;

export class Undo {
  #past = [];
  #future = [];

  /** Remember the sand as it is before a change. */
  remember(terrain) {
    this.#past.push(terrain.snapshot());
    if (this.#past.length > MOST) this.#past.shift();
    this.#future = [];
  }

  get possible() {
    return { undo: this.#past.length > 0, redo: this.#future.length > 0 };
  }

  /** The sand one change back, or null; what is there now can be redone. */
  back(terrain) {
    return this.#move(this.#past, this.#future, terrain);
  }

  forward(terrain) {
    return this.#move(this.#future, this.#past, terrain);
  }

  #move(from, to, terrain) {
    if (from.length === 0) return null;
    to.push(terrain.snapshot());
    return from.pop();
  }
}
