// The REST API as this page uses it: an optional bearer key, and every failure as one `Problem`.

const KEY = "changeroom.key";

/** An RFC 9457 problem, or a failure of the network told in the same shape. `status` is 0 without a reply. */
export class Problem extends Error {
  constructor({ status = 0, title, detail = "", code = "", pointer = "", retryable = false, retryAfter = null }) {
    super(detail || title);
    Object.assign(this, { status, title, detail, code, pointer, retryable, retryAfter });
  }
}

export const unreachable = () => new Problem({
  title: "The server does not answer",
  detail: "Check the connection. Nothing is lost: trying again continues the same request.",
  code: "network",
  retryable: true,
});

export function problemFrom(status, body, retryAfter = null) {
  let said = {};
  try {
    said = typeof body === "string" ? JSON.parse(body) : body ?? {};
  } catch {
    said = {};
  }
  return new Problem({
    status,
    title: said.title ?? `The server answered ${status}`,
    detail: said.detail ?? said.message ?? "",
    code: said.code ?? String(said.type ?? "").split(/[/:#]/).pop(),
    pointer: said.pointer ?? "",
    retryable: said.retryable ?? status >= 500,
    retryAfter: retryAfter === null ? null : Number.parseFloat(retryAfter),
  });
}

let memory = "";
try {
  memory = sessionStorage.getItem(KEY) ?? "";
} catch {
  memory = ""; // storage can be forbidden; the key then lives as long as the page
}

export const apiKey = () => memory;
export function rememberKey(key) {
  memory = key.trim();
  try {
    if (memory) sessionStorage.setItem(KEY, memory);
    else sessionStorage.removeItem(KEY);
  } catch {
    return;
  }
}

export const authorization = () => (memory ? { Authorization: `Bearer ${memory}` } : {});

/** fetch that throws a Problem for every non-2xx reply and every network failure. */
export async function call(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!reply.ok) throw problemFrom(reply.status, await reply.text(), reply.headers.get("Retry-After"));
  return reply;
}

export const getJson = async (path, options) => (await call(path, options)).json();

/** A key for Idempotency-Key; crypto.randomUUID is missing on plain-http addresses such as a phone's LAN. */
export function freshKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** POST a form with upload progress (fetch has none). Resolves to the reply's JSON. */
export function upload(path, form, { headers = {}, onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries({ ...authorization(), ...headers })) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("canceled", "AbortError"));
    request.onload = () => {
      if (request.status < 200 || request.status > 299) {
        reject(problemFrom(request.status, request.responseText, request.getResponseHeader("Retry-After")));
        return;
      }
      try {
        resolve(JSON.parse(request.responseText));
      } catch {
        reject(problemFrom(502, { title: "The server's answer cannot be read" }));
      }
    };
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    if (signal?.aborted) {
      reject(new DOMException("canceled", "AbortError"));
      return;
    }
    request.send(form);
  });
}
