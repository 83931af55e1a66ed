// One evaluation: its figures on each benchmark, weights, stages, attempts, commands, answers.

import { badge, bar, copied, duration, element, fetched, figure, moment, number, table } from "./dom.js";
import { drawn } from "./figures.js";

export class Detail {
  constructor(key, shut) {
    this.key = key;
    this.shut = shut;
    this.name = "";
    this.box = element("aside", { class: "detail", hidden: true, "aria-label": "evaluation" });
    this.box.addEventListener("keydown", (event) => event.key === "Escape" && shut());
  }

  close() {
    this.name = "";
  }

  hide() {
    this.name = "";
    this.box.hidden = true;
  }

  async show(name) {
    if (name === this.name) return;
    this.name = name;
    this.row = null;
    this.box.hidden = false;
    await this.read(true);
  }

  // Read it again if its row has changed.
  update(run) {
    const row = run.rows.get(this.name);
    if (this.name && this.row && row !== this.row) this.read(false);
    this.row = row;
  }

  async read(focus) {
    const name = this.name;
    if (focus) this.box.setAttribute("aria-busy", "true");
    const found = await fetched(`/runs/${this.key}/evaluations/${encodeURIComponent(name)}`);
    if (name !== this.name) return;
    const heading = element("h2", { tabindex: "-1" }, name);
    const button = element("button", { type: "button", class: "shut", onclick: () => this.shut() }, "close");
    const parts = found.error ? [element("p", { class: "note" }, found.error)] : this.parts(found);
    this.box.replaceChildren(button, heading, ...parts);
    if (focus) {
      heading.focus({ preventScroll: true });
      this.box.scrollIntoView({ block: "nearest" });
    }
    const place = this.box.querySelector(".chart");
    if (place) await drawn(place, found.weights, `layer weights of ${name}`);
    this.box.removeAttribute("aria-busy");
  }

  parts(found) {
    const objectives = Object.entries(found.objectives ?? {});
    return [
      element("p", {}, badge(found.state), ` ${found.purpose}${found.on_front ? ", on the front" : ""}${found.breaks.length ? `, breaks ${found.breaks.join(", ")}` : ""}`),
      found.message ? element("p", { class: "trouble" }, found.message) : null,
      Object.entries(found.commands).map(([what, command]) =>
        element("p", { class: "command" }, copied(command, `copy: ${what}`), element("code", {}, command)),
      ),
      objectives.length
        ? table(["objective", "value"], objectives.map(([name, value]) => [name, number(value, ".4f")]))
        : null,
      this.benchmarks(found),
      found.weights ? [element("h3", {}, "Layer weights"), element("div", { class: "chart" })] : null,
      this.parameters(found),
      this.stages(found),
      this.attempts(found),
      Object.keys(found.benchmarks).length ? this.answers(found) : null,
    ]
      .flat(2)
      .filter(Boolean);
  }

  benchmarks({ benchmarks, forms }) {
    const names = Object.keys(benchmarks);
    if (!names.length) return null;
    const metrics = [...new Set(names.flatMap((name) => Object.keys(benchmarks[name].metrics)))];
    return [
      element("h3", {}, "Benchmarks"),
      table(
        ["metric", ...names],
        [
          ...metrics.map((metric) => [
            metric,
            ...names.map((name) => figure(benchmarks[name].metrics[metric], forms[metric])),
          ]),
          ["answers", ...names.map((name) => String(benchmarks[name].questions * benchmarks[name].repeats))],
          ["cut off by the limit", ...names.map((name) => String(benchmarks[name].truncated))],
        ],
      ),
      element("p", { class: "caption" }, "Below the figures are their 95 % intervals."),
    ];
  }

  parameters({ parameters }) {
    const found = Object.entries(parameters);
    if (!found.length) return null;
    return [element("h3", {}, "Parameters"), table(["parameter", "value"], found.map(([n, v]) => [n, number(v)]))];
  }

  stages({ stages }) {
    const found = Object.entries(stages);
    if (!found.length) return null;
    const most = Math.max(...found.map(([, seconds]) => seconds));
    return [
      element("h3", {}, "Stages"),
      table(["stage", "seconds"], found.map(([name, seconds]) => [name, bar(seconds / most, duration(seconds))])),
    ];
  }

  attempts({ tried }) {
    if (!tried.length) return null;
    return [
      element("h3", {}, "Attempts"),
      table(
        ["attempt", "worker", "state", "begun", "took", "message"],
        tried.map((each) => [
          String(each.number),
          each.worker,
          each.state,
          moment(each.begun_at),
          each.ended_at ? duration(each.ended_at - each.begun_at) : "in progress",
          each.message,
        ]),
        6,
      ),
    ];
  }

  answers(found) {
    const place = element("div", { "aria-live": "polite" });
    const others = found.sources.filter((source) => source !== found.id);
    return [
      element("h3", {}, "Answers"),
      element(
        "p",
        {},
        others.map((source) =>
          element("button", { type: "button", onclick: () => this.beside(place, found.id, source) }, `beside ${source}`),
        ),
      ),
      place,
    ];
  }

  async beside(place, name, against) {
    place.replaceChildren(element("p", { class: "note" }, "Reading…"));
    const query = `against=${encodeURIComponent(against)}`;
    const found = await fetched(`/runs/${this.key}/evaluations/${encodeURIComponent(name)}/answers?${query}`);
    if (found.error) {
      place.replaceChildren(element("p", { class: "note" }, found.error));
      return;
    }
    place.replaceChildren(
      element("p", { class: "note" }, `${found.differing} of ${found.asked} answers score differently; these come first.`),
      ...found.questions.map((question) => asked(question, found.evaluations)),
    );
  }
}

function asked(question, evaluations) {
  return element(
    "details",
    { class: "question" },
    element(
      "summary",
      {},
      `${question.benchmark}, ${question.answer}: `,
      evaluations.map((name) => `${name} ${number(question.answers[name].score)}`).join(", "),
    ),
    question.asked ? element("pre", { tabindex: "0" }, question.asked) : null,
    question.target ? element("p", {}, `Right answer: ${question.target}`) : null,
    element(
      "div",
      { class: "side-by-side" },
      evaluations.map((name) => {
        const { score, tokens, answer, left_out, extracted } = question.answers[name];
        const more = left_out ? `\n… ${left_out} characters more` : "";
        return element(
          "div",
          {},
          element("h4", {}, `${name}: score ${number(score)}, ${tokens} tokens`),
          extracted ? element("p", {}, `Found in it: ${extracted}`) : null,
          element("pre", { tabindex: "0" }, answer === null ? "(the text is not on this host)" : answer + more),
        );
      }),
    ),
  );
}
