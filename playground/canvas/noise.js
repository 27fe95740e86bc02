/** Smooth random numbers for landscapes, and for the grain of the sand. */

/** Random numbers from 0 to 1 that a seed determines: a counter whose bits are mixed twice. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** A function of (x, y) from 0 to 1 that is smooth over about one unit: slopes on a grid, blended. */
export function noise(seed) {
  const next = random(seed);
  const size = 64;
  const angles = Float32Array.from({ length: size * size }, () => next() * 2 * Math.PI);
  const across = angles.map(Math.cos);
  const down = angles.map(Math.sin);
  const slope = (column, row, x, y) => {
    const at = (row & (size - 1)) * size + (column & (size - 1));
    return across[at] * (x - column) + down[at] * (y - row);
  };
  const ease = (part) => part * part * part * (part * (part * 6 - 15) + 10);
  return (x, y) => {
    const left = Math.floor(x);
    const top = Math.floor(y);
    const partX = ease(x - left);
    const upper = slope(left, top, x, y) * (1 - partX) + slope(left + 1, top, x, y) * partX;
    const lower = slope(left, top + 1, x, y) * (1 - partX) + slope(left + 1, top + 1, x, y) * partX;
    const partY = ease(y - top);
    return Math.min(1, Math.max(0, 0.5 + 0.72 * (upper * (1 - partY) + lower * partY)));
  };
}

/** Octaves of noise, each twice as fine and less than half as strong; 0 to 1. */
export function fractal(seed, octaves = 5) {
  const layers = Array.from({ length: octaves }, (_, index) => noise(seed + 101 * index));
  return (x, y) => {
    let sum = 0;
    let weight = 0;
    layers.forEach((layer, index) => {
      const scale = 2 ** index;
      const share = 0.44 ** index;
      // Each octave is turned, so that no grid shows.
      const [turnX, turnY] = [0.8 * x + 0.6 * y, 0.8 * y - 0.6 * x];
      [x, y] = [turnX, turnY];
      sum += layer(x * scale + 7.3 * index, y * scale) * share;
      weight += share;
    });
    return sum / weight;
  };
}
