/** Latest wins: the picture follows what changes, and no request ever waits behind another. */

import { paint } from "./stream.js";

// While a hand moves, a request is left alone at least this long (ms), so that something shows.
const SHORTEST = 140;
const LONGEST = 700;
// One that has shown nothing at all is given more time.
const PATIENCE = 1600;

/**
 * Events, all with a `detail`: begin and what was composed, progress {kind, …}, done {answer,
 * seconds, settled} and what was composed, refused {error}.
 */
export class Session extends EventTarget {
  // Of this page alone: the session of a duplicated tab would end this one's requests.
  #name = `playground-${crypto.getRandomValues(new Uint32Array(2)).join("")}`;
  #compose;
  #abort = null;
  #began = 0;
  #shown = false;
  #usual = LONGEST;
  #waiting = false;
  #timer = 0;
  #held = false;

  /** @param compose gives {body, …} of the request as it would be now, or null for none. */
  constructor(compose) {
    super();
    this.#compose = compose;
  }

  get running() {
    return this.#abort !== null;
  }

  /** Something changed. `now`: a hand was lifted or a button pressed, so nothing is spared. */
  changed({ now = false } = {}) {
    this.#waiting = true;
    if (this.#held) return;
    clearTimeout(this.#timer);
    const delay = now ? 0 : this.#due() - performance.now();
    if (delay <= 0) this.#start();
    else this.#timer = setTimeout(() => this.changed(), Math.min(delay, 100));
  }

  /** End what runs, and forget what waits. */
  stop() {
    this.#waiting = false;
    this.#held = false;
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  /** Start nothing until it is released: the service asked to wait. */
  hold() {
    this.#held = true;
    clearTimeout(this.#timer);
  }

  /** Start with what is there now. */
  release() {
    this.#held = false;
    this.changed({ now: true });
  }

  #due() {
    if (!this.running) return 0;
    const wanted = Math.min(LONGEST, Math.max(SHORTEST, this.#usual));
    return this.#began + (this.#shown ? wanted : Math.max(wanted, PATIENCE));
  }

  async #start() {
    this.stop();
    const abort = new AbortController();
    this.#abort = abort;
    this.#began = performance.now();
    this.#shown = false;
    try {
      const composed = await this.#compose();
      if (abort.signal.aborted) return;
      if (composed !== null) await this.#follow(composed, abort.signal);
      if (this.#abort === abort) this.#abort = null;
    } catch (error) {
      if (abort.signal.aborted) return;
      this.#abort = null;
      this.#tell("refused", { error });
    }
  }

  async #follow(composed, signal) {
    this.#tell("begin", composed);
    for await (const event of paint({ ...composed.body, session: this.#name }, signal)) {
      if (signal.aborted) return;
      if (event.kind !== "done") {
        this.#shown ||= Boolean(event.preview_b64);
        this.#tell("progress", event);
        continue;
      }
      const seconds = (performance.now() - this.#began) / 1000;
      this.#usual = this.#usual * 0.5 + seconds * 500;
      this.#tell("done", { answer: event, seconds, settled: !this.#waiting, ...composed });
    }
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
