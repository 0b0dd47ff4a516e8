// The studio: keeps what was chosen, starts and cancels one try-on at a time, and tells the stage.

import { Problem, apiKey, freshKey, getJson, rememberKey } from "./api.js";
import { MOST, Rail } from "./garments.js";
import { imageFiles, refusal, release, show } from "./pictures.js";
import { manifest, outfitButton, sampleButton, sampleFile } from "./samples.js";
import { Stage } from "./stage.js";
import { cancel, failure, outcome, picture, read, submit } from "./tryon.js";

const at = (id) => document.getElementById(id);
const stage = new Stage();
const rail = new Rail(at("garments"), at("garment-row"), () => changed());
let person = null; // {file, sample}
let running = null; // {controller, id, canceling}
let sendKey = null; // Idempotency-Key of a send that may be repeated unchanged
let gallery = { people: [], garments: [], outfits: [] };
let result = null; // {blob, name} of the picture on the stage

function changed() {
  sendKey = null;
  at("garment-count").textContent = String(MOST - rail.room);
  at("garment-input").disabled = rail.room < 1;
  at("garment-drop").classList.toggle("full", rail.room < 1);
  for (const button of document.querySelectorAll(".sample")) {
    const name = button.dataset.sample;
    button.setAttribute("aria-pressed", String(person?.sample === name || rail.has(name)));
  }
}

function bold(text) {
  const element = document.createElement("b");
  element.textContent = text;
  return element;
}

function complain(title, detail) {
  stage.problem(new Problem({ title, detail }));
  reveal();
}

function setPerson(file, sample = null) {
  const reason = refusal(file);
  if (reason) return complain("This picture cannot be used", reason);
  person = { file, sample };
  show(at("person-picture"), at("person-unseen"), file);
  at("person-picture").alt = "The chosen person";
  at("person-drop").classList.add("filled");
  at("person-call").textContent = "Choose another";
  at("person-remove").hidden = false;
  clearProblem();
  changed();
}

function removePerson() {
  person = null;
  release(at("person-picture"));
  at("person-picture").hidden = true;
  at("person-unseen").hidden = true;
  at("person-drop").classList.remove("filled");
  at("person-call").replaceChildren(bold("Choose a photo"), " or drop one here");
  at("person-remove").hidden = true;
  at("person-input").focus();
  changed();
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
  if (!running && at("result").dataset.state === "problem") stage.empty();
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
  };
}

async function go() {
  if (running) return;
  if (!person) {
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
      result = { blob, name: `try-on-${job.id}.${blob.type === "image/png" ? "png" : "jpg"}` };
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

async function showModel() {
  const tell = (state, words) => {
    at("model").dataset.state = state;
    at("model-name").textContent = words;
  };
  try {
    const said = await getJson("/v1/models");
    const model = (said.data ?? said.models ?? [])[0];
    if (!model) {
      tell("waiting", "No model is ready yet");
      setTimeout(showModel, 5000);
      return;
    }
    tell("ready", [model.id ?? model.model, model.device].filter(Boolean).join(" · "));
    at("model-note").textContent = model.note ?? "";
    at("model-note").hidden = !model.note;
    if (model.max_steps) at("steps").max = String(model.max_steps);
    if (model.default_steps) at("steps").placeholder = String(model.default_steps);
    for (const id of ["width", "height"]) if (model.size_multiple) at(id).step = at(id).min = String(model.size_multiple);
  } catch (error) {
    tell("trouble", error.status === 401 ? "This server asks for an API key" : "The server does not answer");
    if (error.status === 401) at("advanced").open = true;
    else setTimeout(showModel, 5000);
  }
}

function acceptDrops(zone, onFiles) {
  let depth = 0;
  const over = (on) => zone.classList.toggle("over", on);
  zone.addEventListener("dragenter", () => over(++depth > 0));
  zone.addEventListener("dragleave", () => over(--depth > 0));
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(false);
    const files = imageFiles(event.dataTransfer);
    if (files.length) onFiles(files);
  });
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
    setPerson(new File([result.blob], result.name, { type: result.blob.type }));
    rail.clear();
    at("garment-input").focus();
  });
  at("person-input").addEventListener("change", (event) => {
    if (event.target.files.length) setPerson(event.target.files[0]);
    event.target.value = "";
  });
  at("person-remove").addEventListener("click", removePerson);
  at("garment-input").addEventListener("change", (event) => {
    addGarments(Array.from(event.target.files));
    event.target.value = "";
  });
  at("key").value = apiKey();
  at("key").addEventListener("change", (event) => {
    rememberKey(event.target.value);
    at("key-field").classList.remove("wanted");
    showModel();
  });
  acceptDrops(at("person-drop"), ([file]) => setPerson(file));
  acceptDrops(at("garment-drop"), addGarments);
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
  addEventListener("paste", (event) => {
    const files = imageFiles(event.clipboardData);
    if (!files.length) return;
    event.preventDefault();
    if (person) addGarments(files);
    else setPerson(files[0]);
  });
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
showModel();
showGallery();
resume();
