// What happened, newest first; and the ends of the logs that lie in the run's folder.

import { element, fetched, moment, renew } from "./dom.js";

const AGAIN = 2000;
const LONGEST = 200000;

export class Events {
  constructor(key) {
    this.key = key;
    this.quiet = element("input", { type: "checkbox", id: "quiet", onchange: () => this.draw() });
    this.list = element("ol", { class: "events", reversed: true });
    this.box = element(
      "div",
      {},
      element("h2", {}, "Events"),
      element("p", {}, this.quiet, element("label", { for: "quiet" }, " also proposals and leases")),
      this.list,
    );
  }

  update(changed, run) {
    this.events = run.events;
    if (changed.has("events")) this.draw();
  }

  draw() {
    const shown = this.events.filter((each) => this.quiet.checked || each.weight !== "quiet");
    renew(
      this.list,
      ...shown.toReversed().map((each) =>
        element(
          "li",
          { class: each.weight },
          element("time", {}, moment(each.time)),
          each.evaluation
            ? element("a", { href: `#/${this.key}/evaluations/${each.evaluation}` }, each.evaluation)
            : element("span"),
          element("span", {}, each.text),
        ),
      ),
    );
  }
}

export class Logs {
  constructor(key) {
    this.address = `/runs/${key}/logs`;
    this.choice = element("select", { id: "log", "aria-label": "log", onchange: () => this.begin() });
    this.text = element("pre", { tabindex: "0", "aria-label": "end of the log" });
    this.note = element("p", { class: "note" });
    this.box = element("div", {}, element("h2", {}, "Logs"), this.choice, this.note, this.text);
    this.list();
  }

  update() {}

  close() {
    clearTimeout(this.timer);
    this.closed = true;
  }

  async list() {
    const names = await fetched(this.address);
    const found = Array.isArray(names) ? names : [];
    this.choice.replaceChildren(...found.map((name) => element("option", { value: name }, name)));
    this.choice.hidden = this.text.hidden = !found.length;
    this.note.textContent = found.length
      ? ""
      : names.error || "No log lies in the folder of the run. A worker on another host keeps its own, and a master writes to its terminal.";
    if (found.length) this.begin();
  }

  begin() {
    this.end = null;
    this.text.textContent = "";
    this.read();
  }

  async read() {
    clearTimeout(this.timer);
    const name = this.choice.value;
    const after = this.end === null ? "" : `?after=${this.end}`;
    const found = await fetched(`${this.address}/${name.split("/").map(encodeURIComponent).join("/")}${after}`);
    if (this.closed || name !== this.choice.value) return;
    if (found.error) this.note.textContent = found.error;
    else if (found.text || this.end === null) {
      const follows = this.text.scrollTop + this.text.clientHeight >= this.text.scrollHeight - 40;
      const before = found.begin === this.end ? this.text.textContent : "";
      this.text.textContent = (before + found.text).slice(-LONGEST);
      this.note.textContent = this.text.textContent ? "" : "This log is empty.";
      this.text.hidden = !this.text.textContent;
      this.end = found.end;
      if (follows) this.text.scrollTop = this.text.scrollHeight;
    }
    this.timer = setTimeout(() => this.read(), AGAIN);
  }
}
