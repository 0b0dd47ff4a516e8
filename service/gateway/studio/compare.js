// Before and after over one another: drag on the picture, or move the range input by keyboard.

export class Compare {
  #frame;
  #slider;

  constructor(frame, slider) {
    this.#frame = frame;
    this.#slider = slider;
    slider.addEventListener("input", () => this.#draw());
    frame.addEventListener("pointerdown", (event) => this.#grab(event));
    this.#draw();
  }

  /** Show the slider, or only the result when there is no original to compare with. */
  reset(comparable) {
    this.#frame.classList.toggle("alone", !comparable);
    this.#slider.disabled = !comparable;
    this.#slider.value = "50";
    this.#draw();
  }

  #grab(event) {
    if (this.#slider.disabled || event.button !== 0) return;
    const move = (at) => {
      const box = this.#frame.getBoundingClientRect();
      const share = ((at.clientX - box.left) / box.width) * 100;
      this.#slider.value = String(Math.round(Math.min(100, Math.max(0, share))));
      this.#draw();
    };
    move(event);
    this.#frame.setPointerCapture(event.pointerId);
    this.#frame.addEventListener("pointermove", move);
    const release = () => this.#frame.removeEventListener("pointermove", move);
    this.#frame.addEventListener("pointerup", release, { once: true });
    this.#frame.addEventListener("pointercancel", release, { once: true });
    this.#slider.focus({ preventScroll: true, focusVisible: false });
    event.preventDefault();
  }

  #draw() {
    const share = Number(this.#slider.value);
    this.#frame.style.setProperty("--cut", `${share}%`);
    this.#slider.setAttribute("aria-valuetext", `${share}% original, ${100 - share}% result`);
  }
}
