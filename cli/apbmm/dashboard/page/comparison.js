// Several runs side by side.

import { element } from "./dom.js";
import { Figures } from "./figures.js";

export class Comparison {
  constructor(keys) {
    this.keys = keys;
    const query = keys.map((key) => `run=${encodeURIComponent(key)}`).join("&");
    this.figures = new Figures(`/comparison?${query}`);
    this.figures.box.setAttribute("aria-busy", "true"); // also while the runs are being read
    this.box = element("div", {}, element("h2", {}, `${keys.length} runs side by side`), this.figures.box);
  }

  close() {
    this.figures.close();
  }

  update(_, runs) {
    const compared = runs.filter((run) => this.keys.includes(run.key));
    const ready = compared.every((run) => run.updates);
    if (ready && compared.length) this.figures.update(compared.map((run) => run.updates).join());
  }
}
