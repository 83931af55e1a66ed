// Elements, and values in words. Texts of a run reach the page only as text nodes, never as HTML.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

export function badge(word) {
  return element("span", { class: `badge ${word.replaceAll(/[^a-z]/g, "-")}` }, word);
}

// A number in the form that Python would write: ".4f", ".1%".
export function number(value, form = ".4g") {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const digits = Number(/\.(\d+)/.exec(form)?.[1] ?? 0);
  if (form.endsWith("%")) return `${(100 * value).toFixed(digits)}%`;
  if (form.endsWith("f")) return value.toFixed(digits);
  return String(Number(value.toPrecision(4)));
}

// A figure with its interval below it.
export function figure(found, form) {
  if (!found) return "–";
  const { value, low, high } = found;
  if (low === null || high === null) return number(value, form);
  return [number(value, form), element("small", {}, `${number(low, form)} to ${number(high, form)}`)];
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(2)} h`;
}

export function moment(seconds) {
  if (!seconds) return "–";
  const when = new Date(1000 * seconds);
  const today = when.toDateString() === new Date().toDateString();
  return today ? when.toLocaleTimeString() : when.toLocaleString();
}

// A bar that says with its text what it shows, filled to a share of 0 to 1.
export function bar(share, label) {
  const filled = element("div", { class: "filled" });
  filled.style.width = `${100 * Math.max(0, Math.min(1, share || 0))}%`;
  return element("div", { class: "bar" }, filled, element("span", {}, label));
}

export function table(headings, rows, words = 1) {
  const cell = (tag, content, place) =>
    element(tag, { class: place < words ? "words" : null, scope: tag === "th" ? "col" : null }, content);
  return element(
    "div",
    { class: "scrolled", tabindex: "0", role: "region", "aria-label": headings[0] || "table" },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, headings.map((h, n) => cell("th", h, n)))),
      element("tbody", {}, rows.map((row) => element("tr", {}, row.map((c, n) => cell("td", c, n))))),
    ),
  );
}

// Fill a box anew. What has the focus in it keeps that, if it is there again.
export function renew(box, ...children) {
  const called = (one) => one.dataset.focus ?? one.getAttribute("href");
  const focused = box.contains(document.activeElement) ? called(document.activeElement) : null;
  box.replaceChildren(...children);
  if (!focused) return;
  const again = [...box.querySelectorAll("a, button, input")].find((one) => called(one) === focused);
  again?.focus({ preventScroll: true });
}

// A button that puts a command on the clipboard.
export function copied(command, label = "copy") {
  const button = element("button", { type: "button", title: command, "data-focus": command, "aria-label": `${label}: ${command}` }, label);
  button.addEventListener("click", async () => {
    if (!(await put(command))) {
      window.prompt("The browser gives no clipboard to this page. Copy it from here:", command);
      return;
    }
    button.textContent = "copied";
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}

async function put(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without TLS a browser gives the clipboard to pages of this host only.
    const field = element("textarea", { readonly: true, class: "aside-of-page" }, text);
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

export async function fetched(address) {
  try {
    const found = await (await fetch(address)).json();
    return found.error ? { error: [found.error, found.hint].filter(Boolean).join(": ") } : found;
  } catch {
    return { error: "the dashboard does not answer" };
  }
}
