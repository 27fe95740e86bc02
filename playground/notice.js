/** What went wrong, in words, and what can be done about it. */

const TITLES = {
  connection_lost: "Connection lost",
  overloaded: "Busy at the moment",
  not_ready: "Not ready yet",
  runner_lost: "The painter is starting again",
  out_of_memory: "Not enough memory",
  deadline_exceeded: "Too late",
  cancelled: "Cancelled",
  superseded: "Another window of this session paints",
  unauthorized: "A token is needed",
  internal: "Something went wrong",
};

export class Notice {
  #root;
  #timer = 0;

  constructor(root) {
    this.#root = root;
  }

  hide() {
    clearInterval(this.#timer);
    this.#root.hidden = true;
    this.#root.replaceChildren();
  }

  /**
   * Tell of an error.
   *
   * @param seconds counted down to the next attempt; null where only a change can help.
   * @param again makes the attempt.
   */
  show(error, { seconds = null, again = null } = {}) {
    this.hide();
    const title = element("strong", TITLES[error.code] ?? "This cannot be painted");
    const text = element("p", error.message);
    this.#root.append(title, text);
    if (error.status >= 500 && error.requestId) {
      this.#root.append(element("small", `Request ${error.requestId}`));
    }
    if (again) this.#root.append(this.#button(again, seconds));
    this.#root.classList.toggle("passing", seconds !== null);
    this.#root.hidden = false;
  }

  #button(again, seconds) {
    const button = element("button", "Try again");
    button.type = "button";
    const start = () => {
      this.hide();
      again();
    };
    button.addEventListener("click", start);
    if (seconds !== null) {
      const due = performance.now() + seconds * 1000;
      const count = () => {
        const left = Math.ceil((due - performance.now()) / 1000);
        button.textContent = left > 0 ? `Try now, or in ${left} s` : "Trying again…";
        if (left <= 0) start();
      };
      count();
      this.#timer = setInterval(count, 250);
    }
    return button;
  }
}

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}
