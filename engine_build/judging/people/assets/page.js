// Shows one pair after another, keeps every vote in localStorage at once, and saves them all as one JSON file.
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const place = `changeroom-side-by-side-${page.page}`;
const at = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];

const sitting = remembered() ?? {
  kind: "changeroom-votes",
  version: 1,
  page: page.page,
  sitting: [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
  voter: "",
  votes: {},
};
let now = firstOpen();
let shownAt = 0;

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(place));
    return kept?.page === page.page ? kept : null;
  } catch {
    return null;
  }
}

// Votes are only ever added: what another tab has kept since stays. Nothing is written before there is something to keep.
function keep() {
  const kept = remembered();
  if (kept) {
    sitting.sitting = kept.sitting;
    sitting.voter ||= kept.voter;
    sitting.votes = { ...kept.votes, ...sitting.votes };
  }
  store(place, JSON.stringify(sitting));
}

function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    at("warning").textContent = "This browser keeps nothing for this page: save your votes before you close it.";
    at("warning").hidden = false;
  }
}

function firstOpen() {
  const open = page.trials.findIndex((trial) => !(trial.id in sitting.votes));
  return open < 0 ? page.trials.length : open;
}

function answered() {
  return page.trials.filter((trial) => trial.id in sitting.votes).length;
}

function show() {
  const ended = now >= page.trials.length;
  at("trial").hidden = ended;
  at("done").hidden = !ended;
  at("large").close();
  at("fill").style.width = `${(100 * answered()) / page.trials.length}%`;
  at("count").textContent = ended ? `${answered()} of ${page.trials.length}` : `${now + 1} of ${page.trials.length}`;
  at("save-early").hidden = ended || answered() === 0;
  if (ended) showEnd();
  else showTrial(page.trials[now]);
}

function showTrial(trial) {
  const vote = sitting.votes[trial.id];
  for (const name of ["person", "left", "right"]) at(name).src = page.pictures[trial[name]];
  at("garments").replaceChildren(...trial.garments.map(garmentFigure));
  at("garments").dataset.count = trial.garments.length;
  at("instruction").textContent = trial.instruction;
  at("back").disabled = now === 0;
  for (const side of ["left", "right"]) at(`ship-${side}`).checked = vote?.ship?.[side] ?? false;
  for (const button of all("[data-vote]")) button.setAttribute("aria-pressed", button.dataset.vote === vote?.vote);
  document.activeElement?.blur();
  scrollTo(0, 0);
  shownAt = performance.now();
}

function garmentFigure(garment, index) {
  const figure = document.createElement("figure");
  const see = document.createElement("button");
  const picture = document.createElement("img");
  const caption = document.createElement("figcaption");
  see.type = "button";
  see.className = "see";
  see.ariaLabel = `Enlarge the garment: ${garment.category}`;
  picture.src = page.pictures[garment.picture];
  picture.alt = garment.category;
  caption.textContent = `${index + 2} · ${garment.category}`;
  see.append(picture);
  see.addEventListener("click", () => enlarge(picture));
  figure.append(see, caption);
  return figure;
}

function showEnd() {
  const left = page.trials.length - answered();
  at("told").textContent = left
    ? `${answered()} pairs are voted on, ${left} are not. Save now, or look again.`
    : `All ${page.trials.length} pairs are voted on. Save the votes and send the file to whoever asked you.`;
  at("voter").value = sitting.voter;
  at("copy").value = text();
  at("save").focus();
}

function text() {
  return JSON.stringify(sitting, null, 1) + "\n";
}

function choose(vote) {
  const trial = page.trials[now];
  const seconds = Math.round((performance.now() - shownAt) / 100) / 10 + (sitting.votes[trial.id]?.seconds ?? 0);
  sitting.votes[trial.id] = { vote, seconds: Math.round(10 * seconds) / 10, ...shipped() };
  keep();
  go(now + 1);
}

function shipped() {
  return page.ship ? { ship: { left: at("ship-left").checked, right: at("ship-right").checked } } : {};
}

// A tick on a pair that is voted on already counts at once.
function tick() {
  const vote = sitting.votes[page.trials[now].id];
  if (!vote) return;
  Object.assign(vote, shipped());
  keep();
}

function go(to) {
  now = Math.max(0, Math.min(page.trials.length, to));
  show();
}

function save() {
  sitting.voter = at("voter").value.trim() || sitting.voter;
  keep();
  at("copy").value = text();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text()], { type: "application/json" }));
  link.download = `votes-${page.page.slice(0, 8)}-${sitting.sitting.slice(0, 6)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const seen = () => all("#trial .see img");

function enlarge(picture) {
  at("large-picture").src = picture.src;
  at("large-name").textContent = picture.alt;
  if (!at("large").open) at("large").showModal();
}

function turn(step) {
  const pictures = seen();
  const shown = pictures.findIndex((picture) => picture.src === at("large-picture").src && picture.alt === at("large-name").textContent);
  enlarge(pictures[(shown + step + pictures.length) % pictures.length]);
}

const KEYS = { ArrowLeft: "left", ArrowDown: "same", ArrowRight: "right" };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key;
  if (at("large").open) {
    if (key === "ArrowLeft" || key === "ArrowRight") turn(key === "ArrowLeft" ? -1 : 1);
    else if (key === " " || key === "Enter") at("large").close();
    else return;
  } else if (event.target.matches("input[type=text], textarea")) {
    return;
  } else if (key === "ArrowUp") {
    go(now - 1);
  } else if (now >= page.trials.length) {
    return;
  } else if (key in KEYS) {
    choose(KEYS[key]);
  } else if (page.ship && (key === "1" || key === "2")) {
    at(key === "1" ? "ship-left" : "ship-right").click();
  } else if (key === " " && !event.target.closest("button, label")) {
    enlarge(at("left"));
  } else {
    return;
  }
  event.preventDefault();
});

for (const button of all("[data-vote]")) {
  // The second click of a double click would vote on a pair that nobody has seen yet.
  button.addEventListener("click", (event) => event.detail > 1 || choose(button.dataset.vote));
}
for (const side of ["left", "right"]) at(`ship-${side}`).addEventListener("change", tick);
for (const name of ["person", "left", "right"]) at(name).parentElement.addEventListener("click", () => enlarge(at(name)));
at("back").addEventListener("click", () => go(now - 1));
at("again").addEventListener("click", () => go(now - 1));
at("save").addEventListener("click", save);
at("save-early").addEventListener("click", () => go(page.trials.length));
at("voter").addEventListener("change", () => {
  sitting.voter = at("voter").value.trim();
  keep();
  at("copy").value = text();
});
at("large").addEventListener("click", () => at("large").close());

document.title = page.title;
at("title").textContent = page.title;
for (const label of all(".ship")) label.hidden = !page.ship;
store("changeroom-side-by-side", "");
show();
