// One try-on from the form to its end: send, follow, fetch the picture. Knows nothing of the page.

import { Problem, call, getJson, problemFrom, upload } from "./api.js";
import { TERMINAL, follow } from "./events.js";

const path = (id) => `/v1/try-ons/${encodeURIComponent(id)}`;

/** The multipart body of POST /v1/try-ons; garments keep their order and become image 2 to 7. */
export function body({ person, garments, fields }) {
  const form = new FormData();
  form.append("person", person, person.name);
  for (const garment of garments) form.append("garment", garment.file, garment.file.name);
  for (const garment of garments) form.append("categories", garment.category);
  if (garments.some((garment) => garment.layer)) {
    for (const garment of garments) form.append("layers", garment.layer);
  }
  for (const [name, value] of Object.entries(fields)) {
    if (value !== "") form.append(name, value);
  }
  return form;
}

/** Send it; resolves to the accepted job. `key` makes a repeated send the same job. */
export const submit = (request, { key, onProgress, signal }) =>
  upload("/v1/try-ons", body(request), { headers: { "Idempotency-Key": key }, onProgress, signal });

export const read = (id) => getJson(path(id));

/** Wait for the end of job `id`, telling every event; resolves to the finished job. */
export async function outcome(id, { onEvent, signal }) {
  const job = await read(id);
  if (TERMINAL.has(job.status)) return job;
  await follow(job.links?.events ?? `${path(id)}/events`, { onEvent, signal });
  return read(id);
}

export const cancel = async (id) => (await call(`${path(id)}/cancel`, { method: "POST" })).json();

/** Erase record, inputs and picture on the server. */
export const erase = (id) => call(path(id), { method: "DELETE" });

/** The finished picture as a Blob. */
export async function picture(job) {
  const reply = await call(job.result?.url ?? job.links?.image ?? `${path(job.id)}/image`);
  return reply.blob();
}

/** The problem of a job that ended without a picture. */
export function failure(job) {
  if (job.status === "expired") {
    return new Problem({
      title: "The time for this try-on ran out",
      detail: job.error?.detail ?? "The server is busy. Try again in a moment.",
      code: job.error?.code ?? "expired",
      retryable: true,
    });
  }
  const said = problemFrom(500, job.error ?? {});
  if (!job.error?.title) said.title = "The try-on did not succeed";
  return said;
}
