/** The strip of earlier pictures: each brings back its sand, its settings and itself. */

import { words } from "./form.js";
import { Store } from "./store.js";

const THUMBNAIL = 168;

/** Events: restore {entry}. */
export class History extends EventTarget {
  #root;
  #list;
  #store = new Store();
  #entries = [];

  constructor(root) {
    super();
    this.#root = root;
    this.#list = root.querySelector("ol");
    root.querySelector("#forget").addEventListener("click", () => this.#forget());
    this.#list.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show what is kept from before; gives the newest entry, or null. */
  async load() {
    this.#entries = await this.#store.all();
    this.#list.replaceChildren(...this.#entries.map((entry) => this.#item(entry)));
    this.#count();
    return this.#entries[0] ?? null;
  }

  /**
   * Keep a finished picture.
   *
   * @param entry {picture, depth, image: Blobs or null; body: its fields; seconds}.
   */
  async add(entry) {
    const thumbnail = await small(entry.picture);
    const kept = await this.#store.add({ ...entry, thumbnail, time: Date.now() });
    this.#entries = [kept, ...this.#entries];
    this.#list.prepend(this.#item(kept));
    this.#list.scrollLeft = 0;
    this.mark(kept);
    this.#count();
  }

  /** Show which entry is the picture that is shown; null for none. */
  mark(entry) {
    for (const item of this.#list.children) {
      const current = entry !== null && Number(item.dataset.id) === entry.id;
      if (current) item.firstChild.setAttribute("aria-current", "true");
      else item.firstChild.removeAttribute("aria-current");
    }
  }

  #item(entry) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const image = document.createElement("img");
    item.dataset.id = entry.id;
    button.type = "button";
    const clock = new Date(entry.time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const name = words(entry.body.era ?? entry.body.model) || "picture";
    button.title = `${name} · seed ${entry.body.seed} · ${clock}\n${entry.body.prompt}`;
    button.setAttribute("aria-label", `Restore ${name}, seed ${entry.body.seed}, ${clock}`);
    image.alt = "";
    image.src = URL.createObjectURL(entry.thumbnail);
    image.onload = () => URL.revokeObjectURL(image.src);
    button.append(image);
    button.addEventListener("click", () => {
      this.mark(entry);
      this.dispatchEvent(new CustomEvent("restore", { detail: { entry } }));
    });
    item.append(button);
    return item;
  }

  async #key(event) {
    const item = event.target.closest("li");
    if (event.key === "ArrowRight") item?.nextElementSibling?.firstChild.focus();
    else if (event.key === "ArrowLeft") item?.previousElementSibling?.firstChild.focus();
    else if (event.key === "Delete" && item) {
      (item.nextElementSibling ?? item.previousElementSibling)?.firstChild.focus();
      await this.#store.remove(Number(item.dataset.id));
      this.#entries = this.#entries.filter(({ id }) => id !== Number(item.dataset.id));
      item.remove();
      this.#count();
    } else return;
    event.preventDefault();
  }

  async #forget() {
    await this.#store.clear();
    this.#entries = [];
    this.#list.replaceChildren();
    this.#count();
  }

  #count() {
    this.#root.classList.toggle("some", this.#entries.length > 0);
    this.#root.querySelector("#forget").hidden = this.#entries.length === 0;
  }
}

/** A thumbnail, the picture's middle. */
async function small(picture) {
  const bitmap = await createImageBitmap(picture);
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = THUMBNAIL;
  canvas.height = THUMBNAIL;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(
    bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, THUMBNAIL, THUMBNAIL,
  );
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.85));
}
