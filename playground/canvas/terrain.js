/** The sand: heights from 0 to 1, near = high, row by row from the top. */

export const LONG_SIDE = 512;

export class Terrain {
  constructor(width, height, heights = new Float32Array(width * height)) {
    this.width = width;
    this.height = height;
    this.heights = heights;
  }

  /** Level sand of a picture's proportions, its longer side LONG_SIDE. */
  static level(ratio, height = 0.35) {
    const wide = ratio >= 1;
    const terrain = new Terrain(
      wide ? LONG_SIDE : Math.max(1, Math.round(LONG_SIDE * ratio)),
      wide ? Math.max(1, Math.round(LONG_SIDE / ratio)) : LONG_SIDE,
    );
    terrain.heights.fill(height);
    return terrain;
  }

  /** Grey bytes, one a cell, as they are sent. */
  bytes() {
    const bytes = new Uint8Array(this.heights.length);
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = this.heights[i] * 255 + 0.5;
    return bytes;
  }

  /** A snapshot for undoing: half the memory, and finer than what is sent. */
  snapshot() {
    const kept = new Uint16Array(this.heights.length);
    for (let i = 0; i < kept.length; i += 1) kept[i] = this.heights[i] * 65535 + 0.5;
    return { width: this.width, height: this.height, kept };
  }

  static of({ width, height, kept }) {
    return new Terrain(width, height, Float32Array.from(kept, (value) => value / 65535));
  }

  /** The same sand on another grid; cells between old ones are interpolated. */
  resampled(width, height) {
    if (width === this.width && height === this.height) return this;
    const result = new Terrain(width, height);
    const { heights } = this;
    for (let y = 0; y < height; y += 1) {
      const fromY = ((y + 0.5) * this.height) / height - 0.5;
      const top = Math.min(this.height - 1, Math.max(0, Math.floor(fromY)));
      const below = Math.min(this.height - 1, top + 1);
      const partY = Math.min(1, Math.max(0, fromY - top));
      for (let x = 0; x < width; x += 1) {
        const fromX = ((x + 0.5) * this.width) / width - 0.5;
        const left = Math.min(this.width - 1, Math.max(0, Math.floor(fromX)));
        const right = Math.min(this.width - 1, left + 1);
        const partX = Math.min(1, Math.max(0, fromX - left));
        const upper =
          heights[top * this.width + left] * (1 - partX) +
          heights[top * this.width + right] * partX;
        const lower =
          heights[below * this.width + left] * (1 - partX) +
          heights[below * this.width + right] * partX;
        result.heights[y * width + x] = upper * (1 - partY) + lower * partY;
      }
    }
    return result;
  }
}
