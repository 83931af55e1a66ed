// Figures: Vega-Lite charts of the report, drawn in the page's colours and width.

import { element, fetched, table } from "./dom.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const REST = 1000;
// The library is large, and the page does not wait for it with anything else.
const library = new Promise((done) => {
  if (window.vegaEmbed) done();
  else document.querySelector('script[src="/page/charts.js"]').addEventListener("load", done);
});
const tip = document.getElementById("tip");

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// The figures of one view of a run, drawn as they come into sight. `update` draws them anew if the
// run has changed; `open` is called with the evaluation of a mark that was clicked.
export class Figures {
  constructor(address, { open = () => {}, only = () => true } = {}) {
    this.box = element("div", { class: "figures-of-view" });
    this.address = address;
    this.open = open;
    this.only = only;
    this.chosen = new Set();
    this.updates = -1;
    this.redraw = () => this.draw();
    dark.addEventListener("change", this.redraw);
    this.sizes = new ResizeObserver(() => this.resized());
    this.sizes.observe(this.box);
    this.sight = new IntersectionObserver((places) => this.seen(places), { rootMargin: "200px" });
  }

  close() {
    dark.removeEventListener("change", this.redraw);
    this.sizes.disconnect();
    this.sight.disconnect();
    this.closed = true;
  }

  async update(updates) {
    if (updates === this.updates || this.closed) return;
    this.updates = updates;
    if (this.busy) return;
    this.busy = true;
    if (!this.found) this.box.setAttribute("aria-busy", "true");
    let last;
    do {
      last = this.updates;
      this.found = await fetched(this.address);
      if (this.closed) return;
      await this.draw();
      await new Promise((done) => setTimeout(done, REST));
    } while (last !== this.updates && !this.closed);
    this.busy = false;
  }

  resized() {
    const width = this.box.clientWidth;
    if (this.found && width && Math.abs(width - this.width) > 8) this.draw();
  }

  async draw() {
    if (!this.found || this.closed) return;
    this.width = this.box.clientWidth;
    if (this.found.error) {
      this.box.replaceChildren(element("p", { class: "note" }, this.found.error));
      this.box.removeAttribute("aria-busy");
      return;
    }
    const sections = this.found.sections.map((section) => this.section(section));
    const fresh = element("div", { class: "figures-of-view drawing" }, sections);
    this.box.append(fresh);
    // What was in sight is drawn before it takes the place of the figures before.
    const places = [...fresh.querySelectorAll(".chart")];
    const names = new Set([...this.box.querySelectorAll(".chart svg")].map((svg) => svg.parentNode.figure?.name));
    await Promise.all(places.filter((place) => names.has(place.figure.name)).map((place) => this.chart(place)));
    if (this.closed) return;
    const none = element("p", { class: "note" }, "Nothing to draw yet.");
    this.box.replaceChildren(...(fresh.childNodes.length ? fresh.childNodes : [none]));
    this.sight.disconnect();
    for (const place of places) this.sight.observe(place);
    if (!places.length) this.box.removeAttribute("aria-busy");
    this.mark();
  }

  async seen(places) {
    const fresh = places.filter(({ isIntersecting, target }) => isIntersecting && !target.firstChild);
    await Promise.all(fresh.map(({ target }) => this.chart(target)));
    this.box.removeAttribute("aria-busy");
    this.mark();
  }

  section(section) {
    const figures = section.figures.filter((each) => this.only(each.name));
    return [
      section.paragraphs.map((text) => element("p", {}, text)),
      element(
        "div",
        { class: "figures" },
        figures.map((each) => {
          const place = element("div", { class: "chart" });
          place.figure = each;
          const caption = element("figcaption", {}, each.caption);
          return element("figure", {}, element("h3", {}, each.title), place, caption);
        }),
      ),
      section.tables.map((each) => [
        table(each.headings, each.rows, each.words),
        each.caption ? element("p", { class: "caption" }, each.caption) : null,
      ]),
    ];
  }

  async chart(place) {
    this.sight.unobserve(place);
    await drawn(place, place.figure.chart, place.figure.title, this.open);
  }

  // Mark the chosen evaluations in every figure.
  mark(chosen = this.chosen) {
    this.chosen = chosen;
    for (const mark of this.box.querySelectorAll(".chart path")) {
      const name = mark.__data__?.datum?.evaluation;
      if (name) mark.classList.toggle("chosen", chosen.has(name));
    }
  }
}

// Draw a chart into an element; a click on a mark of an evaluation calls `open` with it.
export async function drawn(place, chart, title, open = () => {}) {
  await library;
  const width = Math.max(220, Math.min(1100, place.clientWidth - 96));
  const { view } = await window.vegaEmbed(place, fitted(chart, width), {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true, // expressions are interpreted, so that the page needs no right to make code of text
    defaultStyle: false,
    tooltip: false,
  });
  place.querySelector("svg").setAttribute("aria-label", title);
  view.addEventListener("click", (_, item) => item?.datum?.evaluation && open(item.datum.evaluation));
  view.addEventListener("mousemove", (event, item) => showTip(event, item?.datum?.about));
  view.addEventListener("mouseout", () => showTip(null));
}

function showTip(event, text) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const right = window.innerWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(4, Math.min(right, event.clientX + 12))}px`;
  tip.style.top = `${event.clientY + 14}px`;
}

// The chart in the width of its place and in the colours of the page.
function fitted(chart, width) {
  const text = colour("text"), quiet = colour("quiet"), line = colour("line");
  // Vega warns of the scales of marks that there are none of.
  const filled = (part) => chart.datasets?.[part.data?.name] !== "[]";
  const wide = (part) => {
    const made = { ...part };
    if (typeof made.width === "number") made.width = width;
    for (const list of ["layer", "vconcat"]) if (made[list]) made[list] = made[list].filter(filled).map(wide);
    if (made.mark?.color === "#000000") made.mark = { ...made.mark, color: text };
    if (made.mark?.type === "text" && width < 330) made.mark = { ...made.mark, fontSize: 10 };
    if (made.mark?.stroke === "white") made.mark = { ...made.mark, stroke: colour("surface") };
    return made;
  };
  const { axis, legend, ...rest } = chart.config;
  const config = {
    ...rest,
    background: "transparent",
    padding: 2,
    axis: { ...axis, labelColor: text, titleColor: text, gridColor: line, domainColor: quiet, tickColor: quiet },
    legend: { ...legend, labelColor: text, titleColor: text, columns: width < 330 ? 2 : legend.columns },
    title: { ...rest.title, color: text },
  };
  return { ...wide(chart), config };
}
