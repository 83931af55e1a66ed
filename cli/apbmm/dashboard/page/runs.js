// The list of runs, with boxes to choose those that are shown side by side.

import { badge, element, number } from "./dom.js";

function inWords(run) {
  const done = run.budget ? `${run.done}/${run.budget}` : run.done;
  return run.run ? `${run.algorithm}, ${done}, hypervolume ${number(run.hypervolume, ".4f")}` : "has not begun";
}

export class RunList {
  constructor(box) {
    this.box = box;
    this.chosen = new Set();
  }

  update(runs, current, compared = []) {
    this.box.hidden = runs.length < 2 && !compared.length;
    const focused = document.activeElement?.id;
    for (const key of compared) this.chosen.add(key);
    const keys = runs.filter((run) => this.chosen.has(run.key)).map((run) => run.key);
    this.box.replaceChildren(
      element("h2", {}, "Runs"),
      element("ul", {}, runs.map((run) => this.entry(run, run.key === current, () => this.update(runs, current)))),
      keys.length > 1
        ? element("a", { class: "button", id: "compare", href: `#/compare/${keys}` }, `${keys.length} side by side`)
        : element("p", { class: "note" }, "Tick two or more to see them side by side."),
    );
    if (focused && this.box.querySelector(`#${CSS.escape(focused)}`)) document.getElementById(focused).focus();
  }

  entry(run, current, again) {
    const box = element("input", {
      type: "checkbox",
      id: `choose-${run.key}`,
      "aria-label": `${run.label}, side by side`,
      onchange: () => {
        if (!this.chosen.delete(run.key)) this.chosen.add(run.key);
        again();
      },
    });
    box.checked = this.chosen.has(run.key);
    return element(
      "li",
      {},
      box,
      element(
        "a",
        { id: `run-${run.key}`, href: `#/${run.key}/overview`, "aria-current": current ? "page" : null },
        element("b", {}, run.label.split("/").pop()),
        run.rehearsal ? badge("rehearsal") : null,
        run.condition ? badge(run.condition) : null,
        element("small", {}, !run.updates ? "is being read" : run.trouble || inWords(run)),
      ),
    );
  }
}
