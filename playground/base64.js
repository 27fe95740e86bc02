/** Bytes as text and back. */

/** A Blob's bytes as base64 without a prefix. */
export async function toBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const pieces = [];
  for (let start = 0; start < bytes.length; start += 0x8000) {
    pieces.push(String.fromCharCode(...bytes.subarray(start, start + 0x8000)));
  }
  return btoa(pieces.join(""));
}

/** A Blob of a media type from base64. */
export function fromBase64(text, type) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type });
}

/** The media type of a picture by its first bytes, as base64 has them. */
export function typeOf(text) {
  if (text.startsWith("iVBOR")) return "image/png";
  return text.startsWith("UklGR") ? "image/webp" : "image/jpeg";
}
