/** The page: its parts, and what each tells the others. */

import { call, token } from "./api.js";
import { fromBase64, typeOf } from "./base64.js";
import { sandFrom } from "./canvas/decode.js";
import { Hand } from "./canvas/hand.js";
import { landscape } from "./canvas/landscapes.js";
import { Sand } from "./canvas/sand.js";
import { helpDialog, tokenDialog } from "./dialogs.js";
import { takeFiles } from "./files.js";
import { Form, newSeed, words } from "./form.js";
import { Health } from "./health.js";
import { History } from "./history.js";
import { listen } from "./keys.js";
import { isKiosk, settle, sizeOfScreen } from "./kiosk.js";
import { Notice } from "./notice.js";
import { Photo } from "./photo.js";
import { Picture } from "./picture.js";
import { Session } from "./session.js";
import { shareButtons, withPictures } from "./share.js";
import { turnTheme } from "./theme.js";
import { brushOf, offerLandscapes, sandButtons } from "./tools.js";

const MOST_BACKOFF = 10;
const KIOSK_RETRY = 10;

const find = (selector) => document.querySelector(selector);
const query = Object.fromEntries(new URLSearchParams(location.search));

const sand = new Sand(find("#sand canvas"));
const form = new Form(find("#form"));
const photo = new Photo(find("#photo"), sand, form);
const picture = new Picture(find("#picture"), sand);
const history = new History(find(".history"));
const notice = new Notice(find("#notice"));
const session = new Session(compose);
const hands = [];
const brush = brushOf(find(".tools"), () => hands.forEach((hand) => hand.resize()));
hands.push(new Hand(find("#sand"), sand, brush), new Hand(find("#picture"), sand, brush));
const buttons = sandButtons(find(".tools"), sand);
offerLandscapes(find("#landscapes"), sand);
const askForToken = tokenDialog(find("#token-dialog"), find("#token"), start);
helpDialog(find("#help-dialog"), find("#help"));
takeFiles(document.body, sand, photo, (error) => notice.show(error));
shareButtons(find(".caption"), find("#toast"), () => shown, (error) => notice.show(error));

/** What is shown: {picture, depth, image: Blobs; body: the fields beside them; seconds}. */
let shown = null;
let failures = 0;

/** The request as it would be now, or null where it cannot be. */
async function compose() {
  if (!form.ready) return null;
  if (form.prompt.trim() === "") {
    form.mark(["prompt"]);
    say("Say what to paint.");
    return null;
  }
  if (find("#seed").value === "") form.seed = newSeed();
  const fields = form.fields();
  const [depth, begun] = await Promise.all([sand.png(), photo.begin()]);
  const sent = { depth, image: begun?.image ?? null };
  if (begun) fields.strength = begun.strength;
  return { body: await withPictures({ body: fields, ...sent }), fields, sent };
}

/** Something changed that the picture depends on. `rest`: nothing more comes of it for now. */
function follow(rest) {
  if (!find("#follow").checked) return;
  if (rest && !form.locked) form.seed = newSeed();
  session.changed({ now: rest });
}

function paintNow() {
  if (!form.locked) form.seed = newSeed();
  session.release();
}

function say(text) {
  if (find("#state").textContent !== text) find("#state").textContent = text;
}

function warn(warnings) {
  const list = find("#warnings");
  list.hidden = warnings.length === 0;
  list.replaceChildren(
    ...warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
}

function describe({ body, seconds }) {
  const parts = [`${seconds.toFixed(seconds < 10 ? 2 : 1)} s`, `seed ${body.seed}`, words(body.model)];
  say(parts.join(" · "));
}

async function show(entry) {
  shown = entry;
  for (const name of ["#compare", "#download", "#curl", "#python"]) find(name).disabled = false;
  await picture.show(entry.picture);
}

session.addEventListener("begin", () => {
  notice.hide();
  form.mark([]);
  picture.progress = 0.02;
  history.mark(null);
  say("Painting…");
});

session.addEventListener("progress", ({ detail }) => {
  if (detail.kind === "queued" && detail.position > 0) say(`Waiting, ${detail.position} before this one.`);
  if (detail.kind === "started") say("Painting…");
  if (detail.kind !== "step") return;
  picture.progress = detail.step / detail.steps;
  if (detail.preview_b64) {
    find("#picture").classList.remove("waiting");
    picture.preview(detail.preview_b64);
  }
});

session.addEventListener("done", async ({ detail }) => {
  const { answer, fields, sent, seconds, settled } = detail;
  failures = 0;
  picture.progress = null;
  find("#picture").classList.remove("waiting");
  const body = { ...fields, seed: answer.seed_used, model: answer.model_used };
  const blob = fromBase64(answer.image_b64, typeOf(answer.image_b64));
  const entry = { picture: blob, ...sent, body, seconds };
  warn(answer.metadata.warnings);
  describe(entry);
  await show(entry);
  if (settled && !find(".touched") && !isKiosk) await history.add(entry);
});

session.addEventListener("refused", ({ detail }) => refused(detail.error, () => session.release()));
photo.addEventListener("refused", ({ detail }) => refused(detail.error, () => photo.estimate()));
photo.addEventListener("working", () => say("Looking at the photograph’s depth…"));
photo.addEventListener("estimated", ({ detail }) => {
  say(`Depth by ${words(detail.depth_estimator)} in ${detail.seconds.toFixed(1)} s.`);
  warn(detail.warnings ?? []);
});
photo.addEventListener("change", () => follow(true));

/** Tell of an error, and try again where that may help. */
function refused(error, again) {
  picture.progress = null;
  find("#picture").classList.remove("waiting");
  say("");
  failures += 1;
  if (error.status === 401) {
    notice.show(error);
    askForToken(true);
    return;
  }
  form.mark((error.detail ?? []).map(({ field }) => field));
  let seconds = null;
  if (error.passing) seconds = error.retryAfter ?? Math.min(MOST_BACKOFF, 2 ** (failures - 1));
  else if (isKiosk) seconds = KIOSK_RETRY;
  if (seconds !== null) session.hold();
  const helps = seconds !== null || !(error.status < 500);
  notice.show(error, { seconds, again: helps ? again : null });
}

sand.addEventListener("change", () => {
  find("#picture").classList.toggle("waiting", find("#follow").checked);
  follow(false);
});
sand.addEventListener("rest", () => follow(true));
form.addEventListener("change", ({ detail }) => {
  reshape();
  follow(detail.rest);
});

function reshape() {
  const { ratio } = form.size;
  const screen = innerWidth / innerHeight;
  // Multiples of 8 pixels leave a hair's breadth at the screen's edge.
  const fills = isKiosk && Math.abs(ratio / screen - 1) < 0.02;
  document.documentElement.style.setProperty("--ratio", fills ? screen : ratio);
  sand.reshape(ratio);
}

history.addEventListener("restore", ({ detail }) => restore(detail.entry));

async function restore(entry) {
  session.stop();
  notice.hide();
  warn([]);
  picture.progress = null;
  form.restore(entry.body);
  form.mark([]);
  reshape();
  await photo.restore(entry.image, entry.image !== null);
  sand.restore(await sandFrom(entry.depth, sand.terrain));
  find("#picture").classList.remove("waiting");
  history.mark(entry);
  await show(entry);
  describe(entry);
}

function compare() {
  const on = find("#compare").getAttribute("aria-pressed") !== "true";
  find("#compare").setAttribute("aria-pressed", on);
  find(".compare").hidden = !on;
  picture.compare(on, Number(find("#split").value));
}

function anotherSeed() {
  form.seed = newSeed();
  session.release();
}

function stop() {
  session.stop();
  notice.hide();
  picture.progress = null;
  say("Stopped.");
}

const on = (selector, kind, action) => find(selector).addEventListener(kind, action);
on("#paint", "click", paintNow);
on("#dice", "click", anotherSeed);
on("#follow", "change", () => follow(true));
on("#compare", "click", compare);
on("#split", "input", () => picture.compare(true, Number(find("#split").value)));
on("#theme", "click", turnTheme);

listen(
  [
    ["R", "raise", () => brush.choose("raise")],
    ["L", "lower", () => brush.choose("lower")],
    ["S", "smooth", () => brush.choose("smooth")],
    ["F", "flatten", () => brush.choose("flatten")],
    ["[", "smaller brush", () => brush.larger(-2)],
    ["]", "larger brush", () => brush.larger(2)],
    ["-", "gentler", () => brush.stronger(-5)],
    ["+", "stronger", () => brush.stronger(5)],
    ["Ctrl+Z", "undo", buttons.undo],
    ["Ctrl+Shift+Z / Ctrl+Y", "redo", buttons.redo],
    ["Ctrl+Enter", "paint now", paintNow],
    ["N", "another seed", anotherSeed],
    ["C", "compare with the sand", () => shown && compare()],
    ["D", "show the depth map", buttons.raw],
    ["T", "light or dark", turnTheme],
    ["Escape", "stop", stop],
    ["?", "this list", () => find("#help").click()],
    ["← ↑ → ↓", "move the brush, with the sand in focus"],
    ["Space", "press the brush there"],
    ["Shift", "while painting: raise instead of lower, and the other way round"],
    ["Delete", "take a picture out of the history"],
  ],
  find("#keys"),
  find("#single"),
);

/** Ask what there is, and begin; again after a token was entered, or when the service is back. */
async function start() {
  try {
    const first = !form.ready;
    form.fill(await (await call("/models")).json());
    notice.hide();
    if (first) await begin();
    else if (failures > 0) session.release();
  } catch (error) {
    refused(error, start);
  }
}

async function begin() {
  if (isKiosk) {
    const { width, height } = sizeOfScreen(form.size.width);
    form.preset({ width, height });
  }
  const preset = form.preset(query);
  reshape();
  const { width, height } = sand.terrain;
  const newest = isKiosk ? null : await history.load();
  if (newest && !preset) await restore(newest);
  else {
    // Unless somebody painted already, while the service was silent.
    if (!sand.possible.undo) sand.lay(landscape("islands", width, height, isKiosk ? newSeed() : 4));
    session.release();
  }
}

const handed = new URLSearchParams(location.hash.slice(1)).get("token");
if (handed) {
  token.set(handed);
  window.history.replaceState(null, "", location.pathname + location.search);
}
if (isKiosk) settle(find("#picture"));
new Health(find("#health")).addEventListener("back", start);
start();
