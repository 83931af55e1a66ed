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
    const { status, present, summary } = run;
    const trouble = [summary.trouble, present.trouble || status.trouble].filter(Boolean);
    if (trouble.join() !== this.told) {
      // Only what is new is read out.
      this.told = trouble.join();
      this.trouble.replaceChildren(...trouble.map((text) => element("p", { class: "trouble" }, text)));
    }
    this.numbers.replaceChildren(
      status.begun
        ? tiles(status, present)
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
          element("small", {}, status.begun ? `${status.algorithm} in ${summary.label}` : summary.label),
        ),
        status.finished ? element("p", {}, `Over: ${status.finished}.`) : null,
      ].filter(Boolean),
    );
  }
}

function condition(status, present) {
  if (present.draining) return "draining";
  return status.condition;
}

function tiles(status, present) {
  const counts = status.evaluations;
  const left = present.forecast ? `about ${duration(present.forecast.seconds)} left` : "";
  const tokens = present.tokens_a_second?.mean;
  const speed = tokens ? `, ${Math.round(tokens).toLocaleString("en")} tokens a second` : "";
  const running = status.condition === "running";
  const abandoned = running ? 0 : counts.running;
  const busy = (present.workers ?? []).filter((worker) => worker.state === "busy").length;
  return element(
    "dl",
    { class: "tiles" },
    ...status.limits.map((limit) =>
      tile(
        UNITS[limit.name] ?? limit.name,
        bar(limit.spent / limit.limit, `${amount(limit.spent)} of ${amount(limit.limit)}`),
        `${amount(limit.left)} left`,
      ),
    ),
    tile("hypervolume", number(status.hypervolume, ".4f"), `${status.front_size} on the front`),
    tile("running", String(running ? counts.running : 0), [left, abandoned ? `${abandoned} ${abandoned > 1 ? "were" : "was"} running when the master ended` : "", counts.queued ? `${counts.queued} queued` : "", counts.paused ? `${counts.paused} paused` : "", counts.failed ? `${counts.failed} failed` : ""].filter(Boolean).join(", ")),
    tile("workers", String((present.workers ?? status.workers).length), present.workers ? `${busy} busy${speed}` : "no master"),
    tile("cost", duration(status.gpu_seconds), `of ${status.hours_name === "GPU-hours" ? "a card" : "a worker"}, ${Math.round(status.tokens).toLocaleString("en")} tokens`),
    tile("load rate", number(status.load_rate, ".1%"), `${duration(present.seconds ?? status.seconds)} with a master`),
    status.confirmed
      ? tile("confirmed", `${status.confirmed.merges} of ${status.confirmed.wanted}`, `hypervolume ${number(status.confirmed.hypervolume, ".4f")}`)
      : null,
  );
}

function tile(name, value, more = "") {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value), element("dd", { class: "more" }, more));
}

function amount(value) {
  return value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toFixed(2)));
}
