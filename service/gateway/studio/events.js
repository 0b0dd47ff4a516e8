// Server-sent events over fetch: EventSource cannot carry an Authorization header. Reconnects with
// Last-Event-ID so that nothing is lost, and ends at a terminal event.

import { Problem, call } from "./api.js";

export const TERMINAL = new Set(["succeeded", "failed", "canceled", "expired"]);
const PAUSES_MS = [300, 700, 1500, 3000, 5000, 5000, 5000, 5000];

/** Splits decoded text into {id, event, data} as the HTML standard's event-stream grammar says. */
export class EventParser {
  #rest = "";
  #fields = { event: "message", data: [] };
  lastId = null;

  *push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#fields.data.length) {
          yield { id: this.lastId, event: this.#fields.event, data: this.#fields.data.join("\n") };
        }
        this.#fields = { event: "message", data: [] };
        continue;
      }
      const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (name === "data") this.#fields.data.push(value);
      else if (name === "event") this.#fields.event = value;
      else if (name === "id") this.lastId = value;
    }
  }
}

const pause = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    reject(new DOMException("stopped", "AbortError"));
  }, { once: true });
});

/** Follow `path`, calling onEvent(type, data), until a terminal event. Throws a Problem when it cannot. */
export async function follow(path, { onEvent, signal }) {
  let lastId = null;
  let failures = 0;
  for (;;) {
    try {
      const reply = await call(path, {
        headers: { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) },
        cache: "no-store",
        signal,
      });
      const parser = new EventParser();
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        for (const { id, event, data } of parser.push(value)) {
          lastId = id ?? lastId;
          failures = 0;
          const said = JSON.parse(data);
          onEvent(event, said.data ?? said);
          if (TERMINAL.has(event)) {
            await reader.cancel();
            return event;
          }
        }
      }
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) throw error;
      const lasting = error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429;
      if (lasting || failures >= PAUSES_MS.length) throw error;
    }
    if (failures >= PAUSES_MS.length) {
      throw new Problem({ title: "The progress of this try-on cannot be followed", code: "events", retryable: true });
    }
    await pause(PAUSES_MS[failures], signal);
    failures += 1;
  }
}
