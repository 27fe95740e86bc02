/** The shown picture elsewhere: as a file, as a curl command, as Python. */

import { SERVICE } from "./api.js";

/** Save a picture under a name that tells what it is. */
export function download(picture, body) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(picture);
  link.download = `experimance-${body.era ?? body.model}-${body.seed}.${suffix(body)}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A command that paints the same picture; the body is on standard input, for it is long. */
export function asCurl(body, guarded) {
  const format = body.output_format ?? "jpeg";
  const lines = [
    `curl --fail-with-body --silent --show-error ${shell(`${SERVICE}/generate`)}`,
    ...(guarded ? ['--header "Authorization: Bearer $API_TOKEN"'] : []),
    "--header 'Content-Type: application/json'",
    `--header 'Accept: image/${format}'`,
    `--output picture.${suffix(body)} --data-binary @- <<'END'`,
  ];
  return `${lines.join(" \\\n  ")}\n${JSON.stringify(body)}\nEND\n`;
}

/** A program that paints the same picture, with BentoML's client. */
export function asPython(body, guarded) {
  const token = guarded ? ', token=os.environ["API_TOKEN"]' : "";
  const fields = Object.entries(body).map(([name, value]) => `        ${name}=${python(value)},`);
  return [
    "# pip install bentoml",
    "import base64",
    ...(guarded ? ["import os"] : []),
    "from pathlib import Path",
    "",
    "import bentoml",
    "",
    `with bentoml.SyncHTTPClient(${python(SERVICE)}, timeout=600${token}) as client:`,
    "    answer = client.generate(",
    ...fields,
    "    )",
    `Path("picture.${suffix(body)}").write_bytes(base64.b64decode(answer["image_b64"]))`,
    'print("seed", answer["seed_used"], "seconds", answer["generation_time"])',
    "",
  ].join("\n");
}

/** Text to the clipboard, also where the page is not served securely. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = document.createElement("textarea");
    box.value = text;
    box.className = "hidden";
    document.body.append(box);
    box.select();
    const copied = document.execCommand("copy");
    box.remove();
    if (!copied) throw new Error("The browser does not let this page use the clipboard.");
  }
}

function suffix(body) {
  return { jpeg: "jpg", png: "png", webp: "webp" }[body.output_format ?? "jpeg"];
}

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A JSON value as Python writes it. */
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, part]) => `${python(name)}: ${python(part)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
