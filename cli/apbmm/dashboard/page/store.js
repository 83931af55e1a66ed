// What the page knows, and the stream that keeps it up to date.

export const known = { runs: [], key: null, run: null, connection: "connecting" };

const listeners = new Set();
let source = null;

// `listener` is called with the names of what has changed: runs, run, status, rows, events, present.
export function listen(listener) {
  listeners.add(listener);
}

function tell(...changed) {
  for (const listener of listeners) listener(new Set(changed));
}

// Follow the list of runs, and one run if a key is given.
export function follow(key) {
  if (source && key === known.key) return;
  known.key = key;
  known.run = null;
  connect();
}

function connect() {
  source?.close();
  source = new EventSource(known.key ? `/stream?run=${known.key}` : "/stream");
  source.addEventListener("open", () => connected("live"));
  source.addEventListener("error", () => {
    connected(source.readyState === EventSource.CLOSED ? "connection lost" : "connection lost, trying again");
  });
  for (const [name, take] of Object.entries({ runs, whole, update, present })) {
    source.addEventListener(name, (event) => take(JSON.parse(event.data)));
  }
}

// A browser keeps few connections to one host: pages that nobody sees give theirs back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    connected("paused");
  } else if (source) {
    connect();
  }
});

function connected(how) {
  known.connection = how;
  tell("connection");
}

function runs(found) {
  known.runs = found;
  tell("runs");
}

function whole(found) {
  const rows = new Map(found.rows.map((row) => [row.id, row]));
  known.run = { ...found, rows };
  tell("run", "status", "rows", "events", "present");
}

function update(found) {
  if (!known.run) return;
  const { summary, status, columns, rows, events } = found;
  Object.assign(known.run, { summary, status, columns });
  for (const row of rows) known.run.rows.set(row.id, row);
  known.run.events = [...known.run.events, ...events].slice(-500);
  tell("status", ...(rows.length ? ["rows"] : []), ...(events.length ? ["events"] : []));
}

function present(found) {
  if (!known.run) return;
  known.run.present = found;
  tell("present");
}
