// The right-hand side: one of empty, working, problem or done, and what each of them says.

import { Compare } from "./compare.js";
import { enlarge, load } from "./pictures.js";
import { showTimings } from "./timings.js";
import { aboutPicture, placeInLine, stageNow, writtenBy } from "./wording.js";

const ENLARGED_WIDTH = 576;
const at = (id) => document.getElementById(id);

function keepRatio(img) {
  if (img.naturalWidth) img.parentElement.style.setProperty("--ratio", `${img.naturalWidth} / ${img.naturalHeight}`);
}

export class Stage {
  #compare = new Compare(document.querySelector("#compare .frame"), at("slider"));
  #spoken = "";
  #urls = [];
  #finished = false;

  /** state: empty, working, problem or done */
  #enter(state) {
    at("result").dataset.state = state;
    for (const part of ["empty", "working", "problem", "done"]) at(part).hidden = part !== state;
  }

  /** Say `text` to a screen reader, once. */
  say(text) {
    if (text === this.#spoken) return;
    this.#spoken = text;
    at("announce").textContent = text;
  }

  /** Take a problem away: back to the finished picture, or to the empty stage. */
  settle() {
    if (this.#finished) this.#enter("done");
    else this.empty();
  }

  empty(message = "") {
    this.#finished = false;
    this.#enter("empty");
    at("empty-title").textContent = message || "Nothing on the rail yet";
    this.say(message);
  }

  /** Begin a run, with the original (may be null) as the first thing to see. */
  begin(original) {
    this.#forget();
    this.#finished = false;
    this.#enter("working");
    const preview = at("preview");
    preview.classList.add("waiting");
    preview.alt = "";
    if (original) preview.src = this.#url(original);
    else preview.removeAttribute("src");
    preview.hidden = !original;
    preview.onerror = () => { preview.hidden = true; };
    preview.onload = () => {
      keepRatio(preview);
      enlarge(preview, ENLARGED_WIDTH);
    };
    this.progress("upload", null);
  }

  /** One line and a bar. `share` null means it cannot be known. */
  progress(stage, share, detail = "") {
    const now = stageNow(stage);
    at("now").textContent = now;
    at("now-detail").textContent = detail;
    const bar = at("progress");
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    this.say(stage === "queue" && detail ? `${now}, ${detail}` : now);
  }

  /** One event of the stream. */
  event(type, data) {
    if (type === "queued") this.progress("queue", null, placeInLine(data.position));
    else if (type === "processing") this.progress(data.stage ?? "decode", null);
    else if (type === "progress") this.#step(data);
  }

  #step({ stage, step, steps, preview }) {
    const counted = steps > 0 && step > 0;
    this.progress(stage ?? "denoise", counted ? step / steps : null, counted ? `step ${step} of ${steps}` : "");
    if (!preview) return;
    const img = at("preview");
    img.src = `data:image/jpeg;base64,${preview}`;
    img.alt = "Preview of the picture so far";
    img.hidden = false;
    img.classList.remove("waiting");
  }

  problem(problem) {
    this.#enter("problem");
    at("problem-title").textContent = problem.title ?? "Something went wrong in this page";
    at("problem-detail").textContent = aboutPicture(problem.detail ?? problem.message ?? "", problem.pointer ?? "");
    const said = [];
    if (problem.retryAfter > 0) said.push(`The server asks for ${Math.ceil(problem.retryAfter)} s of patience.`);
    if (problem.code) said.push(`Reference: ${problem.code}`);
    at("problem-code").textContent = said.join(" ");
    at("again").hidden = !problem.retryable;
    at("announce").textContent = "";
    this.#spoken = "";
  }

  /** The finished picture beside `original` (null when this page does not have it). */
  async done(job, blob, original, seenHere) {
    const after = at("after");
    const before = at("before");
    this.#finished = true;
    this.#enter("done");
    const size = await load(after, this.#url(blob), ENLARGED_WIDTH);
    keepRatio(after);
    const drawn = original ? await load(before, this.#url(original), ENLARGED_WIDTH) : null;
    before.hidden = !drawn;
    this.#compare.reset(Boolean(drawn));
    const small = size && size.width * 2 <= ENLARGED_WIDTH;
    at("caption").textContent = size
      ? `${size.width} × ${size.height} pixels${small ? ", shown enlarged" : ""}`
      : "This browser cannot draw the picture’s format; download it instead.";
    const download = at("download");
    download.href = this.#url(blob);
    download.download = `changeroom-${job.id}.${{ "image/png": "png", "image/webp": "webp" }[blob.type] ?? "jpg"}`;
    at("instruction").textContent = job.instruction?.text ?? "";
    at("instruction-by").textContent = writtenBy(job.instruction ?? {});
    this.#facts(job);
    showTimings(at("timings"), job.timings ?? {}, seenHere);
    this.say(seenHere ? `Your picture is ready, after ${seenHere.toFixed(1)} seconds.` : "Your picture is ready.");
  }

  #facts(job) {
    const facts = [["Seed", job.seed], ["Model", job.model], ["Note", job.result?.approximation]];
    if (job.attempts > 1) facts.push(["Attempts", job.attempts]);
    at("facts").replaceChildren(...facts.filter(([, value]) => value !== null && value !== undefined).flatMap(([name, value]) => {
      const term = document.createElement("dt");
      term.textContent = name;
      const said = document.createElement("dd");
      said.textContent = value;
      return [term, said];
    }));
  }

  #url(blob) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    return url;
  }

  #forget() {
    for (const url of this.#urls.splice(0)) URL.revokeObjectURL(url);
  }
}
