// What stands above every view of a run: its state, its budget, and what is wrong with it.

import { badge, bar, duration, element, number } from "./dom.js";

const UNITS = { evaluations: "evaluations", gpu_hours: "GPU-hours", generated_tokens: "tokens" };

export class Head {
  constructor() {
    this.state = element("div");
    this.trouble = element("div", { role: "alert" });
    this.numbers = element("div");
    this.box = element("section", { class: "head", "aria-label": "state of the run" }, this.state, this.trouble, this.numbers);
  }

  update(run) {
    const { status, summary } = run;
    // A master that confirms the front says nothing of the search itself.
    const present = run.present.confirming ? {} : run.present;
    const confirming = run.present.confirming ? run.present : null;
    const trouble = [
      summary.trouble,
      present.trouble || status.trouble,
      confirming?.trouble && `The confirmation: ${confirming.trouble}`,
    ].filter(Boolean);
    if (trouble.join() !== this.told) {
      // Only what is new is read out.
      this.told = trouble.join();
      this.trouble.replaceChildren(...trouble.map((text) => element("p", { class: "trouble" }, text)));
    }
    this.numbers.replaceChildren(
      status.begun
        ? tiles(status, present, confirming)
        : element("p", { class: "note" }, summary.updates ? "The run has not begun." : "The journal is being read…"),
    );
    this.state.replaceChildren(
      ...[
        status.rehearsal ? element("p", { class: "rehearsal" }, "REHEARSAL: the measurements are invented") : null,
        element(
          "h2",
          {},
          status.run || summary.label,
          " ",
          status.condition ? badge(condition(status, present)) : null,
          confirming ? badge("being confirmed") : null,
          element("small", {}, status.begun ? `${status.algorithm} in ${summary.label}` : summary.label),
        ),
        status.finished ? element("p", {}, `Over: ${status.finished}.`) : null,
      ].filter(Boolean),
    );
  }
}

// Whether a master works on the run, or one that only another user may ask may do so.
export function served(status) {
  return ["running", "another user's master"].includes(status.condition);
}

function condition(status, present) {
  if (present.draining) return "draining";
  return status.condition;
}

function tiles(status, present, confirming) {
  const left = present.forecast ? `, ${present.forecast.in_words}` : "";
  return element(
    "dl",
    { class: "tiles" },
    ...status.limits.map((limit, place) =>
      tile(
        UNITS[limit.name] ?? limit.name,
        bar(limit.spent / limit.limit, `${amount(limit.spent)} of ${amount(limit.limit)}`),
        `${amount(limit.left)} left${place === 0 ? left : ""}`,
      ),
    ),
    tile("hypervolume", number(status.hypervolume, ".4f"), `${status.front_size} on the front${beyond(status)}`),
    ...(present.workers ? atWork(status, present) : served(status) ? [] : leftOver(status)),
    tile("cost", duration(status.gpu_seconds), `of ${status.hours_name === "GPU-hours" ? "a card" : "a worker"}, ${Math.round(status.tokens).toLocaleString("en")} tokens`),
    tile("time", duration(present.seconds ?? status.seconds), "with a master"),
    tile("load rate", number(status.load_rate, ".1%"), "of the workers' time is used"),
    status.confirmed
      ? tile("confirmed", `${status.confirmed.merges} of ${status.confirmed.wanted}`, `hypervolume ${number(status.confirmed.hypervolume, ".4f")}`)
      : null,
    ...(confirming ? beingConfirmed(confirming) : []),
  );
}

// What the master's workers do now, both tiles as of one moment.
function atWork({ evaluations }, { workers, running, tokens_a_second }) {
  return [
    tile("being evaluated", String(running.length), counted(evaluations, ["queued", "paused", "stopped", "failed"])),
    tile("workers", String(workers.length), states(workers, tokens_a_second)),
  ];
}

// How many workers are in each state, and how fast they are together.
function states(workers, speed) {
  const counts = {};
  for (const { state } of workers) counts[state] = (counts[state] ?? 0) + 1;
  const tokens = speed?.mean ? `${Math.round(speed.mean).toLocaleString("en")} tokens a second` : "";
  return [counted(counts, Object.keys(counts)), tokens].filter(Boolean).join(", ");
}

// What the workers of a confirmation do now.
function beingConfirmed({ workers, running, forecast, tokens_a_second }) {
  return [
    tile("being confirmed", running.map(({ id }) => id).join(", ") || "nothing yet", forecast ? forecast.in_words : ""),
    tile("workers that confirm", String(workers.length), states(workers, tokens_a_second)),
  ];
}

// What a run without a master has not completed.
function leftOver({ evaluations }) {
  const { running: interrupted, queued, paused, stopped, failed } = evaluations;
  const all = interrupted + queued + paused + stopped + failed;
  if (!all) return [];
  const words = counted({ ...evaluations, interrupted }, ["interrupted", "queued", "paused", "stopped", "failed"]);
  return [tile("not completed", String(all), words)];
}

function counted(counts, names) {
  return names.filter((name) => counts[name]).map((name) => `${counts[name]} ${name}`).join(", ");
}

function tile(name, value, more = "") {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value), element("dd", { class: "more" }, more));
}

function amount(value) {
  return value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toFixed(2)));
}

// How many merges break a constraint, where the run has any.
function beyond(status) {
  return status.constraints.length ? `, ${status.breaking} beyond ${status.constraints.join(", ")}` : "";
}
