/** The buttons that take the shown picture elsewhere. */

import { token } from "./api.js";
import { toBase64 } from "./base64.js";
import { asCurl, asPython, copy, download } from "./export.js";

const TOAST_SECONDS = 2.5;

/** A request's fields and its pictures as one body. */
export async function withPictures({ body, depth, image }) {
  const complete = { ...body, depth_map_b64: await toBase64(depth) };
  return image ? { ...complete, image_b64: await toBase64(image) } : complete;
}

/**
 * @param root holds #download, #curl, #python; `toast` tells that something was copied.
 * @param shown gives what is shown: {picture, body, depth, image}.
 * @param refused called with an Error where the clipboard is closed.
 */
export function shareButtons(root, toast, shown, refused) {
  let timer = 0;
  const tell = (text) => {
    toast.textContent = text;
    toast.classList.add("shown");
    clearTimeout(timer);
    timer = setTimeout(() => toast.classList.remove("shown"), TOAST_SECONDS * 1000);
  };
  const copied = async (make, name) => {
    try {
      await copy(make(await withPictures(shown()), token.get() !== ""));
      tell(`Copied as ${name}.`);
    } catch (error) {
      refused(error);
    }
  };
  const on = (selector, action) => root.querySelector(selector).addEventListener("click", action);
  on("#download", () => download(shown().picture, shown().body));
  on("#curl", () => copied(asCurl, "curl"));
  on("#python", () => copied(asPython, "Python"));
}
