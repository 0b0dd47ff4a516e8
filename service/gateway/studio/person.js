// The person: one picture, chosen, dropped, pasted or taken from the samples.

import { release, show } from "./pictures.js";

const at = (id) => document.getElementById(id);

export class Person {
  #onChange;
  file = null;
  sample = null;

  constructor(onChange) {
    this.#onChange = onChange;
    at("person-remove").addEventListener("click", () => this.#clear());
  }

  set(file, sample = null) {
    this.file = file;
    this.sample = sample;
    show(at("person-picture"), at("person-unseen"), file);
    at("person-picture").alt = "The chosen person";
    this.#draw();
  }

  #clear() {
    this.file = this.sample = null;
    release(at("person-picture"));
    at("person-picture").hidden = at("person-unseen").hidden = true;
    at("person-input").focus();
    this.#draw();
  }

  #draw() {
    const filled = this.file !== null;
    at("person-drop").classList.toggle("filled", filled);
    at("person-call-empty").hidden = filled;
    at("person-call-filled").hidden = !filled;
    at("person-remove").hidden = !filled;
    this.#onChange();
  }
}
