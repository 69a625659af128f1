// The two charts, drawn as SVG from the figures of `/stats/history`.

import { duration, number } from "./dom.js";

const HEIGHT = 176;
const LEFT = 48;
const BOTTOM = 20;
const TOP = 8;
const SPACE = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const x = (width, index, n) => LEFT + ((width - LEFT) * index) / n;
const y = (share) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - share);

/** The least of 1, 2, 5, 10, 20 ... that is not below `value`. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 5, 10].map((step) => step * power).find((it) => value <= it * 1.0001);
}

function frame(width, label, ticks, history) {
  const minutes = (history.points.length * history.interval_seconds) / 60;
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label },
    ...ticks.flatMap(([share, text]) => [
      svg("line", { class: "grid", x1: LEFT, x2: width, y1: y(share), y2: y(share) }),
      svg("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, text),
    ]),
    svg("text", { x: LEFT, y: HEIGHT - 4 }, `${number(minutes)} min ago`),
    svg("text", { x: width, y: HEIGHT - 4, "text-anchor": "end" }, "now"),
  );
}

/** Calls per second in a point. The last one is not over yet. */
export const rate = (point, what) => point[what] / Math.max(point.seconds, 1);

/** Both are drawn `width` pixels wide. */
export function rateChart(history, width) {
  const { points } = history;
  const top = ceiling(Math.max(1, ...points.map((point) => rate(point, "calls"))));
  const now = points.at(-1);
  const label = `Calls per second: ${number(rate(now, "calls"))} now, ${number(Math.max(...points.map((it) => rate(it, "calls"))))} at most`;
  const chart = frame(width, label, [[0, "0"], [0.5, number(top / 2)], [1, number(top)]], history);
  const step = (width - LEFT) / points.length;
  points.forEach((point, index) => {
    const failed = rate(point, "errors") / top;
    const all = rate(point, "calls") / top;
    const bar = (style, from, to) =>
      svg("rect", { class: style, x: x(width, index, points.length), width: Math.max(step - 1, 1), y: y(to), height: Math.max(y(from) - y(to), 0) });
    if (0 < all) chart.append(bar("ok", failed, all), bar("bad", 0, failed));
  });
  return chart;
}

export function latencyChart(history, width) {
  const points = history.points;
  const known = points.flatMap((point) => [point.p50_ms, point.p99_ms]).filter((it) => it !== null);
  const highest = Math.max(...known, 0.1);
  // Latencies of one gateway may differ a thousandfold, so the scale is logarithmic.
  const from = Math.floor(Math.log10(Math.max(Math.min(...known, highest), 0.001)));
  const to = Math.max(Math.ceil(Math.log10(highest)), from + 1);
  const share = (ms) => (Math.log10(Math.max(ms, 10 ** from)) - from) / (to - from);
  const ticks = Array.from({ length: to - from + 1 }, (_, index) => [index / (to - from), duration(10 ** (from + index))]);
  const last = points.findLast((point) => point.p50_ms !== null);
  const label = last
    ? `Latency: the last calls took ${duration(last.p50_ms)} in the median, 99 in 100 at most ${duration(last.p99_ms)}`
    : "Latency: no calls in the last minutes";
  const chart = frame(width, label, known.length ? ticks : [[0, ""], [1, ""]], history);
  for (const [what, style] of [["p50_ms", "low"], ["p99_ms", "high"]]) {
    let path = "";
    points.forEach((point, index) => {
      if (point[what] === null) return;
      const at = `${x(width, index + 0.5, points.length)} ${y(share(point[what]))}`;
      // A point without neighbours would have no length, and so not be seen.
      path += points[index - 1]?.[what] == null ? `M${at}h1` : `L${at}`;
    });
    chart.append(svg("path", { class: `line ${style}`, d: path }));
  }
  return chart;
}
