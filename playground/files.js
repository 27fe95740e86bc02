/** Files that come in: chosen, dropped or pasted; depth images become sand, colours a photograph. */

import { isGrey, sandFrom } from "./canvas/decode.js";

/**
 * @param sand takes depth images; `photo` takes photographs.
 * @param refused called with an Error whose message is for people.
 */
export function takeFiles(root, sand, photo, refused) {
  const guarded = (action) => (file) => action(file).catch(refused);
  const asDepth = guarded(async (file) => sand.replace(await sandFrom(file, sand.terrain)));
  const asPhoto = guarded((file) => photo.take(file));
  const asEither = guarded(async (file) => ((await isGrey(file)) ? asDepth(file) : asPhoto(file)));
  chosen(root.querySelector("#depth-file"), asDepth);
  chosen(root.querySelector("#photo-file"), asPhoto);
  root.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.querySelector("#sand").classList.add("dropping");
  });
  root.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) root.querySelector("#sand").classList.remove("dropping");
  });
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    root.querySelector("#sand").classList.remove("dropping");
    if (event.dataTransfer.files.length > 0) asEither(event.dataTransfer.files[0]);
  });
  root.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (file) asEither(file);
  });
}

function chosen(input, take) {
  input.addEventListener("change", () => {
    if (input.files.length > 0) take(input.files[0]);
    // The same file may be chosen again.
    input.value = "";
  });
}
