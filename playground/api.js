/** Calls to the service that this page comes from, with the token that was entered. */

const KEY = "experimance.token";

/** The folder above this page: the service, whatever prefix a proxy puts before it. */
export const SERVICE = new URL("..", document.baseURI).href.replace(/\/$/, "");

const PASSING = new Set([
  "connection_lost", "overloaded", "not_ready", "out_of_memory", "runner_lost", "deadline_exceeded",
]);

/** What the service, or the way to it, answered instead of a result. */
export class Refusal extends Error {
  constructor({ status, code, message, detail = [], requestId = "", retryAfter = null }) {
    super(message);
    Object.assign(this, { status, code, detail, requestId, retryAfter });
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return this.retryAfter !== null || PASSING.has(this.code) || this.status >= 502;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** The error body of the wire contract as a Refusal. */
export function refusalOf(status, body, retryAfter = null) {
  return new Refusal({
    status,
    code: body?.error ?? "internal",
    message: body?.error_message ?? `The service answered with status ${status}.`,
    detail: body?.detail,
    requestId: body?.request_id,
    retryAfter,
  });
}

/**
 * Call a route; GET without a body, else POST with it as JSON.
 *
 * @throws Refusal: an error answer, or status 0 where nothing answers; AbortError by the signal.
 */
export async function call(path, { body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(`${SERVICE}${path}`, {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers,
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw lost();
  }
  if (response.ok) return response;
  const seconds = Number(response.headers.get("Retry-After") ?? Number.NaN);
  const content = await response.json().catch(() => null);
  // A service in trouble still says how it is: /healthcheck is 503 then, and no error body.
  if (content?.status && content?.queue) return new Response(JSON.stringify(content));
  throw refusalOf(response.status, content, Number.isFinite(seconds) ? seconds : null);
}

/** The Refusal for a service that cannot be reached. */
export function lost() {
  return new Refusal({
    status: 0,
    code: "connection_lost",
    message: "The service does not answer. It may be starting again, or the network is gone.",
  });
}
