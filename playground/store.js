/** Pictures that came to rest, newest first: in IndexedDB, or in memory where there is none. */

const MOST = 60;
const NAME = "experimance";
const SHELF = "pictures";

export class Store {
  #database;
  #memory = [];

  constructor() {
    this.#database = open();
  }

  /** All entries, newest first. */
  async all() {
    const database = await this.#database;
    if (!database) return [...this.#memory];
    const found = await promised(database.transaction(SHELF).objectStore(SHELF).getAll());
    return found.reverse();
  }

  /** Keep an entry; gives it with its `id`. The oldest beyond the limit go. */
  async add(entry) {
    const database = await this.#database;
    if (!database) {
      const kept = { ...entry, id: (this.#memory[0]?.id ?? 0) + 1 };
      this.#memory = [kept, ...this.#memory].slice(0, MOST);
      return kept;
    }
    const shelf = database.transaction(SHELF, "readwrite").objectStore(SHELF);
    const id = await promised(shelf.add(entry));
    const ids = await promised(shelf.getAllKeys());
    for (const old of ids.slice(0, Math.max(0, ids.length - MOST))) shelf.delete(old);
    return { ...entry, id };
  }

  async remove(id) {
    const database = await this.#database;
    this.#memory = this.#memory.filter((entry) => entry.id !== id);
    if (database) await promised(database.transaction(SHELF, "readwrite").objectStore(SHELF).delete(id));
  }

  async clear() {
    const database = await this.#database;
    this.#memory = [];
    if (database) await promised(database.transaction(SHELF, "readwrite").objectStore(SHELF).clear());
  }
}

async function open() {
  try {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(SHELF, { keyPath: "id", autoIncrement: true });
    };
    return await promised(request);
  } catch {
    return null;
  }
}

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
