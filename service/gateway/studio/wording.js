// The words of the page: categories, ways to wear, stages. `LAYERS` repeats LAYER_WORDS of
// engine_build/instruction.py and a test keeps the two equal.

export const LAYERS = {
  "auto": [],
  "tops": ["tucked in", "untucked", "under the dress", "over the dress"],
  "pants": ["over the shoes", "inside the shoes"],
  "skirts": ["over the pants"],
  "dresses": ["over the pants"],
  "coats": ["open", "closed"],
  "shoes": [],
  "bags": ["in front", "behind", "left hand", "right hand"],
  "hats": ["over the hair", "tilted"]
};

const CATEGORY_NAMES = {
  auto: "Let the model see", tops: "Top", pants: "Pants", skirts: "Skirt", dresses: "Dress",
  coats: "Coat", shoes: "Shoes", bags: "Bag", hats: "Hat",
};

const STAGES = {
  upload: ["Sending", "Sending"],
  queue: ["In the queue", "In the queue"],
  fetch: ["Fetching the pictures", "Fetching"],
  intake: ["Checking the pictures", "Checking pictures"],
  prepare: ["Reading the pictures", "Reading pictures"],
  decode: ["Reading the pictures", "Reading pictures"],
  text: ["Reading your words", "Reading words"],
  vae_encode: ["Looking at the clothes", "Seeing the clothes"],
  denoise: ["Painting", "Painting"],
  vae_decode: ["Developing", "Developing"],
  encode: ["Saving", "Saving"],
  store: ["Saving", "Storing"],
  engine: ["Painting", "The model"],
  total: ["Working", "In all"],
};

export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
const plain = (key) => sentence(String(key).replaceAll(/[_-]+/g, " "));

export const categoryName = (category) => CATEGORY_NAMES[category] ?? plain(category);
/** What is happening now, for the progress line. */
export const stageNow = (stage) => STAGES[stage]?.[0] ?? (stage ? plain(stage) : "Working");
/** What a stage was, for the latency table. */
export const stageName = (stage) => STAGES[stage]?.[1] ?? plain(stage);

export function seconds(value) {
  if (value < 0.0005) return "< 1 ms";
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  return `${value.toFixed(value < 9.995 ? 2 : 1)} s`;
}

/** The place on the rail of the garment a problem is about, or -1. */
export const garmentOf = (pointer) => Number(/^garments?[./](\d+)/.exec(pointer)?.[1] ?? -1);

/** A problem's detail with the picture it is about named as the page names it. */
export function aboutPicture(detail, pointer) {
  const garment = garmentOf(pointer);
  const picture = garment >= 0 ? `Garment ${garment + 1}` : pointer === "person" ? "Person" : "";
  const rest = detail.startsWith(`${pointer}: `) ? sentence(detail.slice(pointer.length + 2)) : detail;
  return picture ? `${picture}: ${rest}` : detail;
}

/** Who wrote an instruction, and why a language model that was asked did not. */
export function writtenBy({ by = "", fallback = null }) {
  if (by !== "grammar") return by && `Written by ${by.replace(/^model:/, "")}.`;
  return fallback ? `Written by the built-in grammar: the language model was not used (${fallback}).` : "Written by the built-in grammar.";
}

/** `ahead` is the number of jobs before this one. */
export function placeInLine(ahead) {
  if (!Number.isInteger(ahead)) return "";
  return ahead < 1 ? "next in line" : `${ahead} ahead of you`;
}
