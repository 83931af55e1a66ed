// The table of evaluations: sorted, filtered, a page at a time; and the one that is open.

import { copied, element, moment, number } from "./dom.js";
import { Detail } from "./detail.js";
import { Figures } from "./figures.js";
import { show } from "./overview.js";

const PAGE = 100;
const STATES = {
  "": "all",
  front: "on the front",
  done: "done",
  active: "in progress",
  queued: "queued",
  paused: "paused",
  stopped: "stopped",
  failed: "failed",
};
const TEXTS = [
  ["id", "evaluation"],
  ["number", "front"],
  ["state", "state"],
  ["purpose", "purpose"],
];
const REST = [
  ["worker", "worker"],
  ["attempts", "attempts"],
  ["done_at", "done at"],
];
const CONDITION = /^([\w.]+)(<=|>=|<|>|=)(-?[\d.]+)(%?)$/;

export class Evaluations {
  constructor(key) {
    this.key = key;
    this.sorted = { by: null, down: true };
    this.page = 0;
    this.chosen = new Set();
    this.filter = element("input", {
      type: "search",
      id: "filter",
      placeholder: "e0031 gpu-2 accuracy>60% tokens<300",
      oninput: () => this.draw(true),
    });
    this.states = element(
      "select",
      { id: "state", "aria-label": "state", onchange: () => this.draw(true) },
      Object.entries(STATES).map(([value, title]) => element("option", { value }, title)),
    );
    this.count = element("p", { class: "note", role: "status" });
    this.selection = element("div", { class: "selection" });
    this.body = element("tbody");
    this.head = element("tr");
    this.pages = element("p", { class: "pages" });
    this.detail = new Detail(key, () => this.shut());
    this.figures = new Figures(`/runs/${key}/figures/overview`, {
      open: (name) => show(key, name),
      only: (name) => name.startsWith("objectives-"),
    });
    this.box = element(
      "div",
      { class: "evaluations" },
      element(
        "div",
        {},
        element("h2", {}, "Evaluations"),
        element("p", { class: "filters" }, element("label", { for: "filter" }, "Filter "), this.filter, this.states),
        this.count,
        this.selection,
        element(
          "div",
          { class: "scrolled", tabindex: "0", role: "region", "aria-label": "evaluations" },
          element("table", {}, element("thead", {}, this.head), this.body),
        ),
        this.pages,
        element("details", {}, element("summary", {}, "Figure of the chosen ones"), this.figures.box),
      ),
      this.detail.box,
    );
    this.box.querySelector("details").addEventListener("toggle", () => this.drawFigure());
  }

  close() {
    this.figures.close();
    this.detail.close();
  }

  open(name) {
    if (name) this.detail.show(name);
    else this.detail.hide();
    for (const row of this.body.children) row.classList.toggle("open", row.dataset.id === name);
  }

  shut() {
    const name = this.detail.name;
    location.hash = `#/${this.key}/evaluations`;
    this.body.querySelector(`[data-id="${CSS.escape(name)}"] a`)?.focus();
  }

  update(changed, run) {
    this.run = run;
    if (changed.has("rows") || changed.has("run")) {
      this.draw();
      this.drawFigure();
      this.detail.update(run);
    }
  }

  drawFigure() {
    if (this.run.status.begun && this.box.querySelector("details").open) this.figures.update(this.run.summary.updates);
  }

  columns() {
    const numbers = this.run.columns.map(({ key, title, form }) => ({ key, title, form }));
    const texts = (list) => list.map(([key, title]) => ({ key, title }));
    return [...texts(TEXTS), ...numbers, ...texts(REST)];
  }

  shown() {
    const wanted = this.states.value;
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = words.map((word) => this.test(word));
    const found = [...this.run.rows.values()].filter(
      (row) =>
        (!wanted || (wanted === "front" ? row.number !== null : row.state === wanted)) &&
        tests.every((test) => test(row)),
    );
    const { by, down } = this.sorted;
    if (by === null) return found.reverse(); // the latest first
    const sign = down ? -1 : 1;
    const none = (value) => value === null || value === undefined || value === "";
    return found.sort((a, b) => {
      const [x, y] = [a[by], b[by]];
      if (none(x) || none(y)) return none(x) - none(y);
      return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
    });
  }

  // What a word of the filter asks of a row: a limit of a column, or to have the word somewhere.
  test(word) {
    const [, name, relation, limit, percent] = CONDITION.exec(word) ?? [];
    const column = name && this.run.columns.find((each) => each.title.toLowerCase() === name);
    if (!column) {
      return (row) =>
        [row.id, row.state, row.purpose, row.worker, row.message].some((text) => text?.toLowerCase().includes(word));
    }
    const value = Number(limit) / (percent ? 100 : 1);
    const holds = {
      "<": (x) => x < value, ">": (x) => x > value, "<=": (x) => x <= value, ">=": (x) => x >= value, "=": (x) => x === value,
    }[relation];
    return (row) => typeof row[column.key] === "number" && holds(row[column.key]);
  }

  draw(anew = false) {
    if (anew) this.page = 0;
    const focused = document.activeElement?.dataset?.focus;
    const rows = this.shown(), columns = this.columns();
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    this.page = Math.min(this.page, pages - 1);
    const estimated = rows.some((row) => row.estimated) ? "; ~ is an estimate from a part of the answers" : "";
    this.count.textContent = `${rows.length} of ${this.run.rows.size} evaluations${estimated}`;
    this.head.replaceChildren(element("th", { scope: "col" }, ""), ...columns.map((column) => this.heading(column)));
    this.body.replaceChildren(
      ...rows.slice(this.page * PAGE, (this.page + 1) * PAGE).map((row) => this.row(row, columns)),
    );
    this.pages.replaceChildren(
      ...(pages > 1
        ? [
            this.turn("earlier page", -1, this.page === 0),
            ` page ${this.page + 1} of ${pages} `,
            this.turn("next page", 1, this.page === pages - 1),
          ]
        : []),
    );
    this.drawSelection();
    if (focused) this.box.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  turn(title, by, disabled) {
    const onclick = () => {
      this.page += by;
      this.draw();
    };
    return element("button", { type: "button", "data-focus": title, disabled, onclick }, title);
  }

  heading({ key, title, form }) {
    const { by, down } = this.sorted;
    const order = by === key ? (down ? "descending" : "ascending") : "none";
    const onclick = () => {
      this.sorted = by === key ? { by: down ? key : null, down: false } : { by: key, down: true };
      this.draw();
    };
    const mark = { descending: " ↓", ascending: " ↑", none: "" }[order];
    return element(
      "th",
      { scope: "col", "aria-sort": order, class: form ? null : "words" },
      element("button", { type: "button", "data-focus": `sort-${key}`, onclick }, `${title}${mark}`),
    );
  }

  row(row, columns) {
    const choose = element("input", {
      type: "checkbox",
      id: `choose-${row.id}`,
      "aria-label": `choose ${row.id}`,
      "data-focus": `choose-${row.id}`,
      onchange: () => {
        if (!this.chosen.delete(row.id)) this.chosen.add(row.id);
        this.drawSelection();
      },
    });
    choose.checked = this.chosen.has(row.id);
    const made = element(
      "tr",
      {
        "data-id": row.id,
        class: [row.number === null ? "" : "on-front", this.detail.name === row.id ? "open" : "", row.state].join(" "),
        onclick: (event) => event.target.closest("a, input") || show(this.key, row.id),
      },
      element("td", {}, choose),
      columns.map(({ key, form }) =>
        element("td", { class: form ? null : "words" }, this.cell(row, key, form)),
      ),
    );
    return made;
  }

  cell(row, key, form) {
    if (form) return (row.estimated && /^o\d/.test(key) ? "~ " : "") + number(row[key], form);
    if (key === "id") {
      return element("a", { href: `#/${this.key}/evaluations/${row.id}`, "data-focus": `open-${row.id}` }, row.id);
    }
    if (key === "done_at") return moment(row.done_at);
    if (key === "number") return row.number === null ? (row.breaks ? `breaks ${row.breaks}` : "") : "yes";
    return row[key] === null || row[key] === undefined ? "" : String(row[key]);
  }

  drawSelection() {
    this.figures.mark(this.chosen);
    const rows = [...this.chosen].map((name) => this.run.rows.get(name)).filter(Boolean);
    const commands = rows.map((row) => row.export).filter(Boolean);
    this.selection.replaceChildren(
      ...(rows.length
        ? [
            element("span", {}, `${rows.length} chosen: ${[...this.chosen].join(", ")} `),
            commands.length ? copied(commands.join("\n"), "copy export commands") : "",
            element(
              "button",
              {
                type: "button",
                onclick: () => {
                  this.chosen.clear();
                  this.draw();
                },
              },
              "choose none",
            ),
          ]
        : []),
    );
  }
}
