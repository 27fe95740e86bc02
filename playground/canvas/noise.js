/** Smooth random numbers for landscapes, and a grain for the sand. */

/** Random numbers from 0 to 1 that a seed determines (a linear congruential generator, mixed). */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    let mixed = state ^ (state >>> 15);
    mixed = Math.imul(mixed, 0x2c1b3c6d);
    return ((mixed ^ (mixed >>> 13)) >>> 0) / 2 ** 32;
  };
}

/** A function of (x, y) from 0 to 1 that is smooth over about one unit. */
export function noise(seed) {
  const next = random(seed);
  const size = 64;
  const values = Float32Array.from({ length: size * size }, next);
  const at = (x, y) => values[(y & (size - 1)) * size + (x & (size - 1))];
  const ease = (part) => part * part * part * (part * (part * 6 - 15) + 10);
  return (x, y) => {
    const left = Math.floor(x);
    const top = Math.floor(y);
    const partX = ease(x - left);
    const partY = ease(y - top);
    const upper = at(left, top) * (1 - partX) + at(left + 1, top) * partX;
    const lower = at(left, top + 1) * (1 - partX) + at(left + 1, top + 1) * partX;
    return upper * (1 - partY) + lower * partY;
  };
}

/** Octaves of noise, each twice as fine and half as strong; 0 to 1. */
export function fractal(seed, octaves = 5) {
  const layers = Array.from({ length: octaves }, (_, index) => noise(seed + 101 * index));
  return (x, y) => {
    let sum = 0;
    let weight = 0;
    layers.forEach((layer, index) => {
      const scale = 2 ** index;
      sum += layer(x * scale + 7.3 * index, y * scale) / scale;
      weight += 1 / scale;
    });
    return sum / weight;
  };
}
