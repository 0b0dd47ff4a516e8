// The studio: keeps what was chosen, starts and cancels one try-on at a time, and tells the stage.

import { Problem, apiKey, freshKey, rememberKey } from "./api.js";
import { MOST, Rail } from "./garments.js";
import { takeFiles, takePasted } from "./chosen_files.js";
import { drawsSmall, showModel } from "./model.js";
import { Person } from "./person.js";
import { refusal } from "./pictures.js";
import { manifest, outfitButton, sampleButton, sampleFile } from "./samples.js";
import { Stage } from "./stage.js";
import { cancel, erase, failure, outcome, picture, read, submit } from "./tryon.js";
import { garmentOf } from "./wording.js";

const at = (id) => document.getElementById(id);
const stage = new Stage();
const rail = new Rail(at("garments"), at("garment-row"), () => changed());
const person = new Person(() => changed());
let running = null; // {controller, id, canceling}
let sendKey = null; // Idempotency-Key of a send that may be repeated unchanged
let gallery = { people: [], garments: [], outfits: [] };
let format = ""; // output_format to ask for
let result = null; // {id, file} of the picture on the stage

function changed() {
  sendKey = null;
  markRefused("");
  at("garment-count").textContent = String(MOST - rail.room);
  at("garment-input").disabled = rail.room < 1;
  at("garment-drop").classList.toggle("full", rail.room < 1);
  for (const button of document.querySelectorAll(".sample")) {
    const name = button.dataset.sample;
    button.setAttribute("aria-pressed", String(person.sample === name || rail.has(name)));
  }
}

function markRefused(pointer) {
  at("person-drop").classList.toggle("refused", pointer === "person");
  rail.refuse(garmentOf(pointer));
}

function complain(title, detail) {
  stage.problem(new Problem({ title, detail }));
  reveal();
}

function setPerson(file, sample = null) {
  const reason = refusal(file);
  if (reason) return complain("This picture cannot be used", reason);
  person.set(file, sample);
  clearProblem();
}

function addGarments(files) {
  for (const file of files) {
    const reason = refusal(file);
    if (reason) return complain("This picture cannot be used", reason);
    if (!rail.add(file)) {
      return complain("The rail is full", `A try-on takes up to ${MOST} garments. Remove one to add “${file.name}”.`);
    }
  }
  clearProblem();
}

function clearProblem() {
  if (!running && at("result").dataset.state === "problem") stage.settle();
}

function reveal() {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const box = at("result").getBoundingClientRect();
  if (box.top > innerHeight * 0.6 || box.bottom < 120) {
    at("result").scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }
}

function setRunning(run) {
  const had = document.activeElement === at(run ? "go" : "cancel");
  running = run;
  at("go").hidden = Boolean(run);
  at("cancel").hidden = !run;
  at("cancel").disabled = false;
  at("cancel").textContent = "Cancel";
  at("result").setAttribute("aria-busy", String(Boolean(run)));
  if (had) (run ? at("cancel") : at("result")).focus({ preventScroll: true });
}

function fields() {
  const [width, height] = [at("width").value, at("height").value];
  if (Boolean(width) !== Boolean(height)) {
    at("advanced").open = true;
    at(width ? "height" : "width").focus();
    throw new Problem({ title: "One measure is missing", detail: "Give both width and height, or neither." });
  }
  return {
    prompt: at("words").value.trim(),
    seed: at("seed").value.trim(),
    steps: at("steps").value,
    size: width ? `${width}x${height}` : "",
    output_format: format,
  };
}

async function go() {
  if (running) return;
  if (!person.file) {
    complain("A person is missing", "Choose a photo of a person, drop one, or take one of the samples.");
    at("person-input").focus();
    return;
  }
  if (rail.garments.length === 0) {
    complain("A garment is missing", "Add at least one garment, or take one of the samples.");
    at("garment-input").focus();
    return;
  }
  const original = person.file;
  const started = performance.now();
  await attempt(original, async (run) => {
    const request = { person: original, garments: rail.garments, fields: fields() };
    sendKey ??= freshKey();
    const job = await submit(request, {
      key: sendKey,
      signal: run.controller.signal,
      onProgress: (share) => stage.progress(share < 1 ? "upload" : "decode", share < 1 ? share : null),
    });
    sendKey = null;
    history.replaceState(null, "", `#try-on=${job.id}`);
    return job.id;
  }, () => (performance.now() - started) / 1000);
}

/** Run one try-on to its end on the stage. `begin` resolves to the id of the job to follow. */
async function attempt(original, begin, elapsed) {
  const run = { controller: new AbortController(), id: null, canceling: false };
  setRunning(run);
  stage.begin(original);
  reveal();
  try {
    run.id = await begin(run);
    if (run.canceling) await stop();
    const job = await outcome(run.id, {
      signal: run.controller.signal,
      onEvent: (type, data) => stage.event(type, data),
    });
    if (job.status === "canceled") {
      stage.empty("Canceled. Nothing was made.");
    } else if (job.status === "succeeded") {
      const blob = await picture(job);
      const name = `try-on-${job.id}.${blob.type.split("/").pop()}`;
      result = { id: job.id, file: new File([blob], name, { type: blob.type }) };
      await stage.done(job, blob, original, elapsed?.() ?? null);
    } else {
      throw failure(job);
    }
  } catch (error) {
    if (error.name === "AbortError") stage.empty("Canceled. Nothing was made.");
    else failed(error);
  } finally {
    setRunning(null);
  }
}

function failed(problem) {
  if (!(problem instanceof Problem)) console.error(problem);
  stage.problem(problem);
  markRefused(problem.pointer ?? "");
  if (problem.status === 401) askForKey();
  if (!problem.retryable) sendKey = null;
}

function askForKey() {
  at("advanced").open = true;
  at("key-field").classList.add("wanted");
  at("key").focus();
}

async function stop() {
  const run = running;
  if (!run) return;
  run.canceling = true;
  at("cancel").disabled = true;
  at("cancel").textContent = "Canceling…";
  if (!run.id) return run.controller.abort();
  try {
    const job = await cancel(run.id);
    if (job.status === "canceled") run.controller.abort();
  } catch (error) {
    if (error.status !== 409) failed(error);
  }
}

async function forget() {
  try {
    await erase(result.id);
  } catch (error) {
    failed(error);
    return;
  }
  result = null;
  history.replaceState(null, "", location.pathname);
  stage.empty("Erased: its pictures are deleted, its words can no longer be read.");
  at("result").focus({ preventScroll: true });
}

async function wear(outfit) {
  const known = new Map(gallery.garments.map((garment) => [garment.file, garment]));
  const files = await Promise.all([outfit.person, ...outfit.garments.map(({ file }) => file)].map(sampleFile));
  setPerson(files[0], outfit.person);
  rail.clear();
  outfit.garments.forEach((garment, index) => {
    rail.add(files[index + 1], { ...known.get(garment.file), ...garment, sample: garment.file });
  });
  at("words").value = outfit.prompt ?? "";
  await go();
}

async function showGallery() {
  gallery = await manifest();
  const guarded = (action) => async (...said) => {
    try {
      await action(...said);
    } catch (error) {
      failed(error);
    }
  };
  const people = gallery.people.map((entry) => sampleButton(entry, "Sample person", guarded(async () => {
    setPerson(await sampleFile(entry.file), entry.file);
  })));
  const garments = gallery.garments.map((entry) => sampleButton(entry, "Sample garment", guarded(async () => {
    if (rail.has(entry.file)) rail.removeSample(entry.file);
    else if (rail.room < 1) complain("The rail is full", `A try-on takes up to ${MOST} garments.`);
    else rail.add(await sampleFile(entry.file), { ...entry, sample: entry.file });
  })));
  const outfits = gallery.outfits.slice(0, 3).map((outfit, index) => outfitButton(outfit, index, guarded(() => wear(outfit))));
  for (const [id, buttons] of [["sample-people", people], ["sample-garments", garments], ["outfits", outfits]]) {
    at(id).replaceChildren(...buttons);
    at(id).hidden = buttons.length === 0;
  }
}

function wire() {
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    go();
  });
  at("form").addEventListener("input", () => { sendKey = null; });
  at("cancel").addEventListener("click", stop);
  at("again").addEventListener("click", go);
  at("reseed").addEventListener("click", () => {
    at("seed").value = "";
    go();
  });
  at("wear-more").addEventListener("click", () => {
    setPerson(result.file);
    rail.clear();
    at("garment-input").focus();
  });
  at("erase").addEventListener("click", forget);
  at("key").value = apiKey();
  at("key").addEventListener("change", (event) => {
    rememberKey(event.target.value);
    at("key-field").classList.remove("wanted");
    showModel(heed);
  });
  takeFiles("person-input", "person-drop", ([file]) => setPerson(file));
  takeFiles("garment-input", "garment-drop", addGarments);
  takePasted((files) => (person.file ? addGarments(files) : setPerson(files[0])));
}

function heed(model) {
  format = drawsSmall(model) ? "png" : "";
}

async function resume() {
  const id = /^#try-on=([\w-]+)$/.exec(location.hash)?.[1];
  if (!id) return;
  try {
    await read(id);
  } catch (error) {
    history.replaceState(null, "", location.pathname);
    if (error.status !== 404 && error.status !== 410) failed(error);
    return;
  }
  await attempt(null, async () => id, null);
}

wire();
changed();
showModel(heed);
showGallery();
resume();
