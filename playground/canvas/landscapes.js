/** Terrains to begin with. Each is a function of a seed: another press gives another one. */

import { fractal, noise } from "./noise.js";
import { Terrain } from "./terrain.js";

const smooth = (low, high, value) => {
  const part = Math.min(1, Math.max(0, (value - low) / (high - low)));
  return part * part * (3 - 2 * part);
};

function hill(seed) {
  const rough = fractal(seed);
  const bend = noise(seed + 1);
  return (x, y) => {
    const [across, down] = [x + 0.5 * (bend(x * 1.3, y * 1.3) - 0.5), y + 0.5 * (bend(x * 1.3 + 9, y * 1.3) - 0.5)];
    const peak = Math.exp(-((Math.hypot(across, down) * 2.3) ** 2));
    return 0.12 + 0.7 * peak + (rough(x * 1.8, y * 1.8) - 0.46) * (0.34 + 0.5 * peak);
  };
}

function islands(seed) {
  const land = fractal(seed);
  const detail = fractal(seed + 5, 4);
  return (x, y) => {
    const shore = smooth(0.47, 0.68, land(x * 1.5 + 9, y * 1.5 + 9));
    const inland = smooth(0.52, 0.8, land(x * 1.5 + 9, y * 1.5 + 9));
    return 0.07 + 0.34 * shore + 0.5 * inland * (0.5 + detail(x * 2.6, y * 2.6)) + 0.07 * (detail(x * 4, y * 4) - 0.5);
  };
}

function valley(seed) {
  const rough = fractal(seed);
  const course = noise(seed + 2);
  return (x, y) => {
    const river = (course(1.3, y * 1.1 + 20) - 0.5) * 1.5 + (course(9.1, y * 3) - 0.5) * 0.3;
    const away = Math.abs(x - river);
    const slope = smooth(0.02, 0.55, away);
    return 0.06 + 0.48 * slope + 1.0 * (rough(x * 1.7, y * 1.7) - 0.28) * smooth(0.02, 0.7, away);
  };
}

function ridges(seed) {
  const fold = fractal(seed, 4);
  const rough = fractal(seed + 3, 4);
  return (x, y) => {
    const crest = 1 - Math.abs(2 * fold(x * 0.8 + 4, y * 0.8) - 1);
    return 0.06 + 0.72 * smooth(0.66, 1, crest) * (0.5 + 0.8 * rough(x + 3, y)) + 0.12 * rough(x * 2, y * 2);
  };
}

function dunes(seed) {
  const drift = fractal(seed, 2);
  return (x, y) => {
    const wave = (x * 0.9 + y * 0.45) * 2.6 + (drift(x * 0.9, y * 0.9) - 0.5) * 5;
    const part = wave - Math.floor(wave);
    const crest = part < 0.62 ? smooth(0, 0.62, part) : 1 - smooth(0.62, 1, part);
    return 0.14 + crest * (0.12 + 0.5 * smooth(0.25, 0.75, drift(x * 0.8 + 8, y * 0.8 + 8)));
  };
}

export const LANDSCAPES = { hill, islands, valley, ridges, dunes };

/** Sand of a landscape's form on a grid of this size. */
export function landscape(name, width, height, seed) {
  const form = LANDSCAPES[name](seed);
  const terrain = new Terrain(width, height);
  const scale = 2 / Math.min(width, height);
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const value = form((column - width / 2) * scale, (row - height / 2) * scale);
      terrain.heights[row * width + column] = Math.min(1, Math.max(0, value));
    }
  }
  return terrain;
}
