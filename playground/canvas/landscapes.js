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
    const turned = (bend(x * 1.6 + 3, y * 1.6) - 0.5) * 0.5;
    const far = Math.hypot(x * (1 + turned), y * (1 - turned)) * 1.15;
    return 0.1 + 0.72 * Math.exp(-((far * 1.9) ** 2)) + (rough(x * 2.2, y * 2.2) - 0.5) * 0.42;
  };
}

function islands(seed) {
  const land = fractal(seed);
  const detail = fractal(seed + 5);
  return (x, y) => {
    const shore = smooth(0.45, 0.64, land(x * 1.9 + 9, y * 1.9 + 9));
    return 0.08 + shore * (0.36 + 0.5 * detail(x * 3, y * 3)) + 0.05 * detail(x * 6, y * 6);
  };
}

function valley(seed) {
  const rough = fractal(seed);
  const course = noise(seed + 2);
  return (x, y) => {
    const river = (course(1.3, y * 1.7 + 20) - 0.5) * 0.9 + (course(9.1, y * 4) - 0.5) * 0.16;
    const away = Math.abs(x - river + y * 0.25);
    return 0.06 + 0.62 * smooth(0.03, 0.75, away) + 0.34 * rough(x * 2.4, y * 2.4) * smooth(0, 0.3, away);
  };
}

function ridges(seed) {
  const fold = fractal(seed, 4);
  const rough = fractal(seed + 3);
  return (x, y) => {
    const crest = 1 - Math.abs(2 * fold(x * 1.5 + 4, y * 1.5) - 1);
    return 0.05 + 0.85 * crest ** 4 + 0.22 * (rough(x * 5, y * 5) - 0.3);
  };
}

function dunes(seed) {
  const drift = fractal(seed, 3);
  return (x, y) => {
    const wave = (x * 0.9 + y * 0.45) * 4.2 + drift(x * 1.4, y * 1.4) * 5;
    const part = wave - Math.floor(wave);
    const crest = part < 0.72 ? smooth(0, 0.72, part) : 1 - smooth(0.72, 1, part);
    return 0.12 + crest * (0.25 + 0.5 * drift(x * 1.1 + 8, y * 1.1 + 8));
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
