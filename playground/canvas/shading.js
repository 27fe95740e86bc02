/** Sand as the eye sees it: lit from the upper left, in the colours of sand, with grain. */

import { random } from "./noise.js";

const STOPS = [
  [0.0, 58, 36, 22],
  [0.28, 122, 82, 50],
  [0.52, 198, 151, 99],
  [0.74, 229, 194, 143],
  [1.0, 255, 243, 218],
];
const LIGHT = [-0.52, -0.6, 0.61];
const GRAIN = 256;

const colours = new Uint32Array(1024);
for (let index = 0; index < colours.length; index += 1) {
  const value = index / (colours.length - 1);
  const above = Math.max(1, STOPS.findIndex(([at]) => at >= value));
  const [from, ...low] = STOPS[above - 1];
  const [to, ...high] = STOPS[above];
  const [red, green, blue] = low.map((part, channel) =>
    Math.round(part + ((high[channel] - part) * (value - from)) / (to - from)),
  );
  colours[index] = (255 << 24) | (blue << 16) | (green << 8) | red;
}

const grains = (() => {
  const next = random(7);
  return Float32Array.from({ length: GRAIN * GRAIN }, () => (next() + next() - 1) * 0.055);
})();

/**
 * Draw a rectangle of the sand.
 *
 * @param context of a canvas that has a pixel per cell.
 * @param raw whether to show the height itself as grey.
 * @param area {left, top, right, bottom}, ends excluded; everything without it.
 */
export function shade(context, terrain, raw, area) {
  const { width, height } = terrain;
  const left = Math.max(0, (area?.left ?? 0) - 1);
  const top = Math.max(0, (area?.top ?? 0) - 1);
  const right = Math.min(width, (area?.right ?? width) + 1);
  const bottom = Math.min(height, (area?.bottom ?? height) + 1);
  if (right <= left || bottom <= top) return;
  const image = context.createImageData(right - left, bottom - top);
  const pixels = new Uint32Array(image.data.buffer);
  const paint = raw ? grey : sand;
  paint(terrain, pixels, left, top, right, bottom);
  context.putImageData(image, left, top);
}

function grey({ width, heights }, pixels, left, top, right, bottom) {
  let pixel = 0;
  for (let row = top; row < bottom; row += 1) {
    for (let column = left; column < right; column += 1) {
      const value = (heights[row * width + column] * 255 + 0.5) | 0;
      pixels[pixel] = (255 << 24) | (value << 16) | (value << 8) | value;
      pixel += 1;
    }
  }
}

function sand({ width, height, heights }, pixels, left, top, right, bottom) {
  // Small grids stand for the same ground, so that their slopes are as steep.
  const steep = 26 * (Math.max(width, height) / 512);
  let pixel = 0;
  for (let row = top; row < bottom; row += 1) {
    const above = Math.max(0, row - 1) * width;
    const below = Math.min(height - 1, row + 1) * width;
    for (let column = left; column < right; column += 1) {
      const before = Math.max(0, column - 1);
      const after = Math.min(width - 1, column + 1);
      const at = row * width;
      const slopeX = (heights[at + after] - heights[at + before]) * steep;
      const slopeY = (heights[below + column] - heights[above + column]) * steep;
      const lit =
        (LIGHT[2] - slopeX * LIGHT[0] - slopeY * LIGHT[1]) /
        Math.sqrt(1 + slopeX * slopeX + slopeY * slopeY);
      const grain = grains[(row % GRAIN) * GRAIN + (column % GRAIN)];
      const value = 0.15 + 0.7 * lit + 0.3 * (heights[at + column] - 0.35) + grain;
      pixels[pixel] = colours[value <= 0 ? 0 : value >= 1 ? 1023 : (value * 1023) | 0];
      pixel += 1;
    }
  }
}
