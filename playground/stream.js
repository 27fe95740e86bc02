/** Server-sent events of a request, read as they come. */

import { call, lost, refusalOf } from "./api.js";

/**
 * Ask for a picture; yields {kind, ...data} per event: queued, started, step, done.
 *
 * @throws Refusal: an error answer, an error event, or a connection that ended before the picture;
 *   AbortError by the signal.
 */
export async function* paint(body, signal) {
  const response = await call("/generate_stream", { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : lost();
    });
    if (done) throw lost();
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const { kind, data } = parse(event);
      if (kind === "error") throw refusalOf(null, data);
      yield { kind, ...data };
      if (kind === "done") return;
    }
  }
}

/** One event's name and its data, which is JSON here. */
export function parse(event) {
  let kind = "message";
  const data = [];
  for (const line of event.split("\n")) {
    if (line.startsWith("event:")) kind = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trim());
  }
  return { kind, data: JSON.parse(data.join("\n") || "{}") };
}
