// Making and changing elements. Text is only ever set as text, so nothing that a server says becomes markup.

/** An element: `h("p", { class: "quiet", onclick: f }, "text", child)`. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Changes the text of an element only when it is another one, so that selections and screen readers are left alone. */
export function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** Brings the children of `parent` in line with `items`: made by `make` once for each key, then changed by `change`. */
export function sync(parent, items, keyOf, make, change) {
  const known = (parent.known ??= new Map());
  const keys = new Set(items.map(keyOf));
  for (const [key, child] of known) {
    if (keys.has(key)) continue;
    child.remove();
    known.delete(key);
  }
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = known.get(key);
    if (!child) known.set(key, (child = make(item)));
    change(child, item);
    if (child === place) place = place.nextSibling;
    else parent.insertBefore(child, place);
  }
}

/** Brings the cells of a row in line with `cells`, each `[text, class]`. */
export function fill(row, cells) {
  cells.forEach(([text, style], index) => {
    const cell = row.children[index] ?? row.appendChild(document.createElement("td"));
    say(cell, text ?? "–");
    if (cell.className !== (style ?? "")) cell.className = style ?? "";
  });
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (n) => whole.format(n);

export const number = (n) => (Math.abs(n) < 1000 ? short : whole).format(n);

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${short.format(ms)} ms`;
  if (ms < 120_000) return `${short.format(ms / 1000)} s`;
  if (ms < 7_200_000) return `${whole.format(ms / 60_000)} min`;
  return ms < 172_800_000 ? `${short.format(ms / 3_600_000)} h` : `${whole.format(ms / 86_400_000)} days`;
}

export const bytes = (n) => (n === null || n === undefined ? "–" : `${short.format(n / 1048576)} MB`);
