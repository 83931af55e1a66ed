// The first view, with the front and how it grew; and the view of the layers.

import { copied, element, number, renew, table } from "./dom.js";
import { Figures } from "./figures.js";
import { served } from "./head.js";

export function show(key, evaluation) {
  location.hash = `#/${key}/evaluations/${encodeURIComponent(evaluation)}`;
}

export class Overview {
  constructor(key) {
    this.key = key;
    const open = (evaluation) => show(key, evaluation);
    this.figures = new Figures(`/runs/${key}/figures/overview`, { open });
    this.awaited = element("p");
    this.members = element("div");
    this.box = element("div", {}, element("h2", {}, "Front"), this.awaited, this.figures.box, this.members);
  }

  close() {
    this.figures.close();
  }

  update(changed, run) {
    if (!run.status.begun) return;
    if (changed.has("rows") || changed.has("status")) this.figures.update(run.summary.updates);
    if (changed.has("rows")) renew(this.members, ...this.frontTable(run));
    this.awaited.textContent = awaited(run);
    this.awaited.hidden = !this.awaited.textContent;
  }

  frontTable(run) {
    const rows = [...run.rows.values()];
    const members = rows.filter((row) => row.number).sort((a, b) => a.number - b.number);
    members.push(...rows.filter((row) => row.purpose === "reference" && row.state === "done"));
    if (!members.length) return [];
    const holds = run.status.confirmed?.holds ?? {};
    const shown = run.columns.filter((column) => !["seconds", "gpu_seconds"].includes(column.key));
    const confirmed = Object.keys(holds).length > 0;
    return [
      table(
        ["evaluation", ...(confirmed ? ["holds"] : []), ...shown.map((c) => c.title), "take it away"],
        members.map((row) => [
          element("a", { href: `#/${this.key}/evaluations/${row.id}` }, row.id),
          ...(confirmed ? [{ true: "yes", false: "no" }[holds[row.id]] ?? ""] : []),
          ...shown.map((column) => number(row[column.key], column.form)),
          row.export ? copied(row.export, "copy export") : "",
        ]),
        1 + confirmed,
      ),
      element("p", { class: "caption" }, "Merges on the front, then the references."),
    ];
  }
}

// Why the front has no merge; "" if it has one.
function awaited({ status, present, rows }) {
  const all = [...rows.values()];
  if (all.some((row) => row.number)) return "";
  if (status.breaking) return `All ${status.breaking} merges that are measured break ${status.constraints.join(", ")}.`;
  if (status.finished) return "No merge was measured.";
  const references = all.filter((row) => row.purpose === "reference" && row.state !== "done").map((row) => row.id);
  const now = (present.running ?? []).map((each) => each.id).join(", ");
  return [
    "No merge is measured yet.",
    references.length ? `The references come first, as the objectives are scaled by them: ${references.join(" and ")}.` : "",
    present.workers ? `Being evaluated: ${now || "nothing"}.` : served(status) ? "" : "No master serves the run.",
  ].filter(Boolean).join(" ");
}

export class Layers {
  constructor(key) {
    this.figures = new Figures(`/runs/${key}/figures/layers`);
    this.box = element("div", {}, element("h2", {}, "Prior and layers"), this.figures.box);
  }

  close() {
    this.figures.close();
  }

  update(changed, run) {
    if (run.status.begun && (changed.has("rows") || changed.has("status"))) this.figures.update(run.summary.updates);
  }
}
