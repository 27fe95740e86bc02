/** A hand over a stage: pointer, pen, finger or keys, as strokes of the brush. */

// How much a second of resting, and a brush's width of moving, bring at full strength.
const PER_SECOND = { raise: 0.5, lower: 0.5, smooth: 5, flatten: 4 };
const PER_WIDTH = { raise: 0.1, lower: 0.1, smooth: 0.9, flatten: 0.8 };
const OPPOSITE = { raise: "lower", lower: "raise", smooth: "smooth", flatten: "flatten" };

/** Paints the sand through an element that shows it, or the picture made from it. */
export class Hand {
  #stage;
  #sand;
  #brush;
  #ring;
  #pointer = null;
  #at = null;
  #last = null;
  #time = 0;

  /**
   * @param stage the element that is painted on.
   * @param brush {tool, size (share of the longer side), strength}, read at every moment.
   */
  constructor(stage, sand, brush) {
    this.#stage = stage;
    this.#sand = sand;
    this.#brush = brush;
    this.#ring = stage.querySelector(".ring");
    const on = (kind, handler) => stage.addEventListener(kind, handler);
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", (event) => this.#up(event));
    on("lostpointercapture", (event) => this.#up(event));
    on("pointerenter", () => this.#ring.classList.add("shown"));
    on("pointerleave", () => this.#ring.classList.remove("shown"));
    on("contextmenu", (event) => event.preventDefault());
    on("keydown", (event) => this.#key(event));
    on("keyup", (event) => event.key === " " && this.#sand.end());
    on("focus", () => this.#follow(this.#at ?? this.#middle()));
    on("blur", () => this.#ring.classList.remove("shown"));
  }

  /** The ring shows the brush where the hand is. */
  resize() {
    if (this.#at) this.#place(this.#at);
  }

  #middle() {
    const { width, height } = this.#sand.terrain;
    return { x: width / 2, y: height / 2, pressure: 1 };
  }

  #point(event) {
    const box = this.#stage.getBoundingClientRect();
    const { width, height } = this.#sand.terrain;
    const pen = event.pointerType === "pen" && event.pressure > 0;
    return {
      x: ((event.clientX - box.left) / box.width) * width - 0.5,
      y: ((event.clientY - box.top) / box.height) * height - 0.5,
      pressure: pen ? event.pressure * 1.6 : 1,
    };
  }

  #radius(pressure = 1) {
    const { width, height } = this.#sand.terrain;
    const size = this.#brush.size * Math.max(width, height);
    return Math.max(2, (size / 2) * (0.6 + 0.4 * Math.min(1.5, pressure)));
  }

  #down(event) {
    if (this.#pointer !== null || (event.button !== 0 && event.button !== 2)) return;
    event.preventDefault();
    this.#stage.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.#at = this.#point(event);
    this.#last = this.#at;
    this.#time = performance.now();
    const turned = event.button === 2 || event.shiftKey;
    const tool = turned ? OPPOSITE[this.#brush.tool] : this.#brush.tool;
    const level = this.#sand.at(this.#at.x, this.#at.y);
    this.#stage.classList.add("touched");
    this.#sand.begin();
    this.#press(tool, [this.#at], 0.05, level);
    this.#frame(tool, level);
  }

  #move(event) {
    if (this.#pointer === null || event.pointerId === this.#pointer) this.#follow(this.#point(event));
  }

  #up(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.#stage.classList.remove("touched");
    if (event.pointerType !== "mouse") this.#ring.classList.remove("shown");
    this.#sand.end();
  }

  /** While the hand is down, each frame brings what its time and its way are worth. */
  #frame(tool, level) {
    requestAnimationFrame(() => {
      const now = performance.now();
      const seconds = Math.min(0.1, (now - this.#time) / 1000);
      this.#time = now;
      const [from, to] = [this.#last, this.#at];
      const radius = this.#radius(to.pressure);
      const way = Math.hypot(to.x - from.x, to.y - from.y);
      const count = Math.max(1, Math.ceil(way / (radius * 0.25)));
      const points = Array.from({ length: count }, (_, index) => {
        const part = (index + 1) / count;
        return {
          x: from.x + (to.x - from.x) * part,
          y: from.y + (to.y - from.y) * part,
          pressure: to.pressure,
        };
      });
      this.#last = to;
      const amount = (PER_SECOND[tool] * seconds + (PER_WIDTH[tool] * way) / radius) / count;
      this.#press(tool, points, amount, level);
      if (this.#pointer !== null) this.#frame(tool, level);
    });
  }

  #press(tool, points, amount, level) {
    for (const { x, y, pressure } of points) {
      const strength = Math.min(1, amount * this.#brush.strength * 2 * pressure);
      this.#sand.press(tool, x, y, this.#radius(pressure), strength, level);
    }
  }

  #key(event) {
    const step = this.#radius() * (event.shiftKey ? 1 : 0.3);
    const { x, y } = this.#at ?? this.#middle();
    const moves = {
      ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step],
    };
    if (moves[event.key]) {
      const { width, height } = this.#sand.terrain;
      const [right, down] = moves[event.key];
      this.#follow({
        x: Math.min(width - 1, Math.max(0, x + right)),
        y: Math.min(height - 1, Math.max(0, y + down)),
        pressure: 1,
      });
    } else if (event.key === " ") {
      if (!event.repeat) this.#sand.begin();
      const at = this.#at ?? this.#middle();
      this.#press(this.#brush.tool, [at], 0.12, this.#sand.at(at.x, at.y));
    } else return;
    event.preventDefault();
  }

  #follow(point) {
    this.#at = point;
    this.#place(point);
  }

  #place({ x, y, pressure }) {
    const { width, height } = this.#sand.terrain;
    const share = (200 * this.#radius(pressure)) / width;
    this.#ring.style.width = `${share}%`;
    this.#ring.style.left = `${((x + 0.5) / width) * 100}%`;
    this.#ring.style.top = `${((y + 0.5) / height) * 100}%`;
    this.#ring.classList.add("shown");
  }
}
