// The rail: up to six garments, each with a category and a way to wear it.

import { release, show } from "./pictures.js";
import { LAYERS, categoryName, sentence } from "./wording.js";

export const MOST = 6;

export class Rail {
  #list;
  #template;
  #onChange;
  #rows = [];

  constructor(list, template, onChange) {
    this.#list = list;
    this.#template = template;
    this.#onChange = onChange;
  }

  get garments() {
    return this.#rows.map(({ file, category, layer }) => ({ file, category: category.value, layer: layer.value }));
  }

  get room() {
    return MOST - this.#rows.length;
  }

  has(sample) {
    return this.#rows.some((row) => row.sample === sample);
  }

  /** Hang one garment; `sample` names a gallery picture. False when the rail is full. */
  add(file, { category = "auto", layer = "", label = file.name, sample = null } = {}) {
    if (this.room < 1) return false;
    const item = this.#template.content.firstElementChild.cloneNode(true);
    const part = (selector) => item.querySelector(selector);
    const row = { item, file, sample, label, picture: part(".picture") };
    row.category = part(".category");
    row.layer = part(".layer");
    row.category.replaceChildren(...Object.keys(LAYERS).map((name) => new Option(categoryName(name), name)));
    row.category.value = category in LAYERS ? category : "auto";
    this.#offerLayers(row, layer);
    part(".name").textContent = label;
    show(row.picture, part(".unseen"), file);
    row.category.addEventListener("change", () => {
      this.#offerLayers(row, "");
      this.#onChange();
    });
    row.layer.addEventListener("change", () => this.#onChange());
    part(".remove").addEventListener("click", () => this.#remove(row));
    this.#rows.push(row);
    this.#list.append(item);
    this.#number();
    return true;
  }

  /** Mark the garment at this place as the one that was refused; another place marks none. */
  refuse(place) {
    this.#rows.forEach(({ item }, index) => item.classList.toggle("refused", index === place));
  }

  removeSample(sample) {
    const row = this.#rows.find((candidate) => candidate.sample === sample);
    if (row) this.#drop(row);
  }

  clear() {
    for (const row of [...this.#rows]) this.#drop(row, true);
    this.#number();
  }

  #offerLayers(row, layer) {
    const words = LAYERS[row.category.value];
    row.layer.replaceChildren(new Option("As is", ""), ...words.map((word) => new Option(sentence(word), word)));
    row.layer.value = words.includes(layer) ? layer : "";
    row.layer.parentElement.hidden = words.length === 0;
  }

  #remove(row) {
    const at = this.#rows.indexOf(row);
    this.#drop(row);
    const neighbour = this.#rows[at] ?? this.#rows[at - 1];
    const target = neighbour?.item.querySelector(".remove") ?? document.getElementById("garment-input");
    target.focus();
  }

  #drop(row, quiet = false) {
    this.#rows.splice(this.#rows.indexOf(row), 1);
    release(row.picture);
    row.item.remove();
    if (!quiet) this.#number();
  }

  #number() {
    this.#rows.forEach((row, index) => {
      const name = `garment ${index + 1}, ${row.label}`;
      row.picture.alt = sentence(name);
      row.category.setAttribute("aria-label", `Category of ${name}`);
      row.layer.setAttribute("aria-label", `How ${name} is worn`);
      row.item.querySelector(".remove").setAttribute("aria-label", `Remove ${name}`);
    });
    this.#onChange();
  }
}
