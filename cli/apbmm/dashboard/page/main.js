// The page: which run and which view it shows, by the part of its address after "#".
//   #/KEY/VIEW, #/KEY/evaluations/EVALUATION, #/compare/KEY,KEY

import { Comparison } from "./comparison.js";
import { badge, element } from "./dom.js";
import { Evaluations } from "./evaluations.js";
import { Events, Logs } from "./events.js";
import { Head } from "./head.js";
import { Layers, Overview } from "./overview.js";
import { RunList } from "./runs.js";
import { follow, known, listen } from "./store.js";
import { Workers } from "./workers.js";

const VIEWS = {
  overview: ["Overview", Overview],
  evaluations: ["Evaluations", Evaluations],
  workers: ["Workers", Workers],
  layers: ["Layers", Layers],
  events: ["Events", Events],
  logs: ["Logs", Logs],
};
const EVERYTHING = new Set(["run", "status", "rows", "events", "present", "runs"]);
const main = document.getElementById("main");
const list = new RunList(document.getElementById("runs"));
let shown = { place: "", view: null, head: null };

function place() {
  const [first = "", second = "overview", third = ""] = location.hash.replace(/^#\/?/, "").split("/");
  return { first, second, third: decodeURIComponent(third) };
}

function route() {
  const { first, second, third } = place();
  if (first === "compare") return showComparison(second.split(","));
  const key = first || known.runs[0]?.key || null;
  follow(key);
  list.update(known.runs, key);
  if (known.run && known.run.summary.key === key) showRun(key, second in VIEWS ? second : "overview", third);
  else nothing(known.runs.length || key ? "Reading the run…" : "There is no run here yet.");
}

function nothing(text) {
  close();
  main.replaceChildren(element("p", { class: "note" }, text));
}

function close() {
  shown.view?.close?.();
  shown = { place: "", view: null, head: null };
}

function showRun(key, name, rest) {
  if (shown.place !== `${key}/${name}`) {
    close();
    const head = new Head();
    const view = new VIEWS[name][1](key);
    shown = { place: `${key}/${name}`, view, head };
    main.replaceChildren(head.box, tabs(key, name), view.box);
    head.update(known.run);
    view.update(EVERYTHING, known.run);
  }
  shown.view.open?.(rest);
  document.title = `${known.run.status.run || known.run.summary.label}, apbmm`;
}

function tabs(key, current) {
  return element(
    "nav",
    { class: "views", "aria-label": "views of the run" },
    Object.entries(VIEWS).map(([name, [title]]) =>
      element("a", { href: `#/${key}/${name}`, "aria-current": name === current ? "page" : null }, title),
    ),
  );
}

function showComparison(keys) {
  follow(null);
  list.update(known.runs, null, keys);
  if (shown.place !== `compare/${keys}`) {
    close();
    shown = { place: `compare/${keys}`, view: new Comparison(keys), head: null };
    main.replaceChildren(shown.view.box);
    document.title = "runs side by side, apbmm";
  }
  shown.view.update(new Set(["runs"]), known.runs);
}

// A connection that holds is worth a word only where something can come by it.
function showConnection() {
  const { connection, run } = known;
  const word = connection === "live" && run?.status.condition !== "running" ? "" : connection;
  const place = document.getElementById("connection");
  if (place.textContent !== word) place.replaceChildren(word ? badge(word) : "");
}

listen((changed) => {
  showConnection();
  if (changed.has("runs") || changed.has("run")) route();
  if (known.run && shown.head) {
    shown.head.update(known.run);
    shown.view.update(changed, known.run);
  }
});
window.addEventListener("hashchange", () => {
  route();
  document.getElementById("tip").hidden = true;
});
route();
