/** Pictures from files: into sand, or as they are. */

import { Terrain } from "./terrain.js";

// Of the longer side; more than the service paints from would only travel.
const MOST = 1536;

/** A file as pixels. @throws Error with a sentence for people. */
async function open(blob) {
  try {
    return await createImageBitmap(blob);
  } catch {
    throw new Error("This file is no picture that the browser can open: use PNG, JPEG or WebP.");
  }
}

/** The middle of a picture, in the proportions of a size; RGBA pixels of that size, and the canvas. */
function cut(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [across, down] = [bitmap.width * scale, bitmap.height * scale];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (width - across) / 2, (height - down) / 2, across, down);
  return { canvas, pixels: context.getImageData(0, 0, width, height).data };
}

/** Sand whose heights are a picture's brightness. */
export async function sandFrom(blob, { width, height }) {
  const { pixels } = cut(await open(blob), width, height);
  const terrain = new Terrain(width, height);
  for (let cell = 0; cell < terrain.heights.length; cell += 1) {
    const at = cell * 4;
    terrain.heights[cell] = (0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2]) / 255;
  }
  return terrain;
}

/** Whether a picture has no colours, as depth maps have none. */
export async function isGrey(blob) {
  const { pixels } = cut(await open(blob), 64, 64);
  for (let at = 0; at < pixels.length; at += 4) {
    const [red, green, blue] = pixels.subarray(at, at + 3);
    if (Math.max(red, green, blue) - Math.min(red, green, blue) > 12) return false;
  }
  return true;
}

/** A photograph cut to proportions (width / height), as a JPEG. */
export async function photographFrom(blob, ratio) {
  const bitmap = await open(blob);
  const longer = Math.min(MOST, Math.max(bitmap.width, bitmap.height));
  const [width, height] = ratio >= 1 ? [longer, longer / ratio] : [longer * ratio, longer];
  const { canvas } = cut(bitmap, Math.round(width), Math.round(height));
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.94));
}
