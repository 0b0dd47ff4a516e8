// The gallery: bundled people, garments and whole outfits, one click each. Without a manifest it stays hidden.

import { call } from "./api.js";

const FOLDER = "/studio/samples/";

/** {people: [{file, label}], garments: [{file, category, label}], outfits: [{person, garments, prompt}]} */
export async function manifest() {
  let said;
  try {
    said = await (await call(`${FOLDER}manifest.json`)).json();
  } catch {
    return { people: [], garments: [], outfits: [] };
  }
  const { people = [], garments = [], outfits = [] } = said;
  return { people, garments, outfits };
}

export async function sampleFile(name) {
  const blob = await (await call(FOLDER + encodeURIComponent(name))).blob();
  return new File([blob], name, { type: blob.type || "image/png" });
}

function picture(file) {
  const img = document.createElement("img");
  img.src = FOLDER + encodeURIComponent(file);
  img.alt = "";
  img.loading = "lazy";
  img.decoding = "async";
  return img;
}

/** A toggle for one sample picture. `kind` says in words what it is. */
export function sampleButton({ file, label = file.replace(/\.\w+$/, "") }, kind, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "sample";
  button.dataset.sample = file;
  button.title = label;
  button.setAttribute("aria-label", `${kind}: ${label}`);
  button.setAttribute("aria-pressed", "false");
  button.append(picture(file));
  button.addEventListener("click", () => onClick(button));
  return button;
}

/** A card that fills the whole form. */
export function outfitButton(outfit, index, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "outfit";
  const pieces = outfit.garments.length;
  button.setAttribute("aria-label", `Try sample outfit ${index + 1}: a person and ${pieces} garment${pieces > 1 ? "s" : ""}`);
  const rack = document.createElement("span");
  rack.className = "rack";
  rack.classList.toggle("single", pieces < 3);
  rack.append(...outfit.garments.slice(0, 4).map((garment) => picture(garment.file)));
  const look = document.createElement("span");
  look.className = "look";
  look.append(picture(outfit.person), rack);
  const words = document.createElement("span");
  words.className = "invitation";
  words.textContent = "Try this look";
  button.append(look, words);
  button.addEventListener("click", onClick);
  return button;
}
