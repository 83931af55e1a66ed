// What each worker does now, and what it did when.

import { badge, bar, duration, element, renew, table } from "./dom.js";
import { Figures } from "./figures.js";
import { show } from "./overview.js";

export class Workers {
  constructor(key) {
    this.key = key;
    this.now = element("div");
    this.figures = new Figures(`/runs/${key}/figures/workers`, { open: (name) => show(key, name) });
    this.box = element("div", {}, element("h2", {}, "Workers"), this.now, this.figures.box);
  }

  close() {
    this.figures.close();
  }

  update(changed, run) {
    if (changed.has("present") || changed.has("status")) renew(this.now, this.workers(run));
    if (run.status.begun && (changed.has("rows") || changed.has("status"))) this.figures.update(run.summary.updates);
  }

  workers(run) {
    const workers = run.present.workers ?? run.status.workers;
    const confirming = run.present.confirming
      ? element("p", { class: "note" }, "These confirm the front: they measure its merges once more, on other questions. Below is what the search's workers did.")
      : null;
    return element("div", {}, confirming, this.table(workers, run));
  }

  table(workers, run) {
    if (!workers.length) return element("p", { class: "note" }, "No worker is connected.");
    const seconds = new Map((run.present.running ?? run.status.running).map((each) => [each.worker, each.seconds]));
    return table(
      ["worker", "state", "device", "host", "evaluation", "stage", "questions", "for", "heartbeat"],
      workers.map((worker) => [
        worker.name,
        element("span", {}, badge(worker.state), ...[worker.reason, worker.trouble].filter(Boolean).map((text) => element("span", { class: "trouble" }, text))),
        worker.gpu,
        worker.host,
        worker.evaluation ? element("a", { href: `#/${this.key}/evaluations/${worker.evaluation}` }, worker.evaluation) : "",
        [worker.stage, beside(worker)].filter(Boolean).join("; "),
        worker.total ? bar(worker.done / worker.total, `${worker.done} of ${worker.total}`) : worker.evaluation ? "none yet" : "",
        seconds.has(worker.name) ? duration(seconds.get(worker.name)) : "",
        worker.heartbeat_age === undefined ? "" : `${worker.heartbeat_age.toFixed(1)} s ago`,
      ]),
      6,
    );
  }
}

// The report that a worker makes while its engine has the next merge.
function beside({ evaluation, reporting }) {
  return reporting && reporting !== evaluation ? `report of ${reporting}` : "";
}
