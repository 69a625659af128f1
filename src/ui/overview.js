// Figures, charts, servers with their workers, and recent calls, kept true by `update`.

import { latencyChart, rate, rateChart } from "./charts.js";
import { bytes, count, duration, fill, h, number, say, sync } from "./dom.js";
import { send } from "./gateway.js";

const WORKER_COLUMNS = ["Worker", "State", "In flight", "Calls", "Errors", "Memory", "CPU", "Running for", "Restarts", "PID", ""];
const NUMBERS = new Set(["In flight", "Calls", "Errors", "Memory", "CPU", "Running for", "Restarts", "PID"]);

const at = (id) => document.getElementById(id);

/** Shows what `/stats` and `/stats/history` said. `tell` shows news of what a button did. */
export function update(stats, history, tell) {
  showFigures(stats, history);
  for (const [id, chart] of [["rate-chart", rateChart], ["latency-chart", latencyChart]]) {
    const place = at(id);
    // It has no width while it is hidden.
    place.replaceChildren(chart(history, place.clientWidth || 480));
  }
  const servers = Object.entries(stats.servers);
  sync(at("servers"), servers, ([name]) => name, ([name]) => makeServer(name, tell), changeServer);
  showCalls(history.calls);
}

function showFigures(stats, history) {
  const last = history.points.findLast((point) => point.p50_ms !== null);
  const servers = Object.values(stats.servers);
  const workers = servers.flatMap((server) => server.workers);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const failed = sum(history.points.map((point) => point.errors));
  const minutes = (history.points.length * history.interval_seconds) / 60;
  const figures = [
    ["Calls per second", number(rate(history.points.at(-1), "calls"))],
    ["Median", duration(last?.p50_ms)],
    ["99 in 100 below", duration(last?.p99_ms)],
    [`Failed in ${number(minutes)} min`, count(failed), failed ? "bad" : ""],
    ["In flight", count(sum(workers.map((worker) => worker.in_flight)))],
    ["Waiting", count(sum(servers.map((server) => server.pool.queued)))],
    ["Workers", `${sum(servers.map((it) => it.pool.workers.ready + it.pool.workers.busy))} of ${sum(servers.map((it) => it.pool.workers.total))}`],
    ["Connections", count(stats.connections.open)],
    ["Calls since start", count(stats.totals.calls)],
  ];
  sync(at("figures"), figures, ([name]) => name, () => h("div", {}, h("dt"), h("dd")), (box, [name, value, style]) => {
    say(box.firstChild, name);
    say(box.lastChild, value);
    box.lastChild.className = style ?? "";
  });
}

function makeServer(name, tell) {
  const restart = h("button", { type: "button", class: "plain" }, "Restart all");
  restart.setAttribute("aria-label", `Restart all workers of ${name}`);
  restart.addEventListener("click", () => order(restart, `admin/servers/${encodeURIComponent(name)}/restart`, `${name}: its workers are replaced, one by one`, tell));
  const head = WORKER_COLUMNS.map((title) => h("th", { scope: "col", class: NUMBERS.has(title) ? "number" : null }, title || h("span", { class: "skip" }, "Actions")));
  const parts = {
    state: h("span", { class: "pill" }),
    reason: h("p", { class: "error" }),
    pool: h("p", { class: "quiet" }),
    rows: h("tbody"),
    events: h("pre", { tabindex: "0" }),
    stderr: h("pre", { tabindex: "0" }),
    tell,
  };
  const card = h(
    "div",
    { class: "card server", role: "group", "aria-label": `Server ${name}` },
    h("header", {}, h("h3", {}, name), parts.state, restart),
    parts.reason,
    parts.pool,
    h("div", { class: "scroll", role: "region", "aria-label": `Workers of ${name}`, tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, ...head)), parts.rows)),
    h("details", {}, h("summary", {}, "Last lines on stderr"), parts.stderr),
    h("details", {}, h("summary", {}, "How the pool has changed"), parts.events),
  );
  card.parts = parts;
  return card;
}

function changeServer(card, [, server]) {
  const { parts } = card;
  const { pool, breaker } = server;
  say(parts.state, server.status);
  parts.state.className = `pill ${server.status}`;
  say(parts.reason, breaker.state === "closed" ? (server.reason ?? "") : `The breaker is ${breaker.state.replace("_", " ")}: ${breaker.reason ?? server.reason ?? ""}`);
  const info = server.workers.find((worker) => worker.server_info);
  const words = [
    info && `${info.server_info.name} ${info.server_info.version}, MCP ${info.protocol}`,
    `${pool.min} to ${pool.max} workers`,
    `${pool.calls_per_worker} ${pool.calls_per_worker === 1 ? "call" : "calls"} at a time each`,
    `${count(pool.queued)} waiting (at most ${count(pool.queued_peak)})`,
  ];
  say(parts.pool, words.filter(Boolean).join(" · "));
  sync(parts.rows, server.workers, (worker) => worker.id, (worker) => makeWorker(worker, parts.tell), changeWorker);
  const lines = server.workers.flatMap((worker) => worker.stderr.map((line) => `${worker.id}  ${line}`));
  say(parts.stderr, [...(breaker.stderr ?? []), ...lines].join("\n") || "Nothing.");
  const events = pool.scale_events.map((event) => `${event.time}  ${event.from} → ${event.to}  ${event.reason}`);
  say(parts.events, events.toReversed().join("\n") || "It has not.");
}

function makeWorker({ id }, tell) {
  const row = h("tr", {}, ...WORKER_COLUMNS.map(() => h("td")));
  const restart = h("button", { type: "button", class: "plain", "aria-label": `Restart ${id}` }, "Restart");
  restart.addEventListener("click", () => order(restart, `admin/workers/${encodeURIComponent(id)}/restart`, `${id} is replaced`, tell));
  row.lastChild.append(restart);
  return row;
}

function changeWorker(row, worker) {
  fill(row, [
    [worker.for ? `${worker.id} (${worker.for})` : worker.id],
    [worker.state.replace("_", " "), worker.state],
    [worker.in_flight, "number"],
    [count(worker.calls_total), "number"],
    [count(worker.errors_total), "number"],
    [bytes(worker.rss_bytes), "number"],
    [worker.cpu_seconds === null ? "–" : duration(worker.cpu_seconds * 1000), "number"],
    [worker.uptime_seconds === null ? "–" : duration(Math.floor(worker.uptime_seconds) * 1000), "number"],
    [worker.restarts, "number"],
    [worker.pid, "number"],
  ]);
  row.title = worker.last_error ?? "";
}

async function order(button, path, done, tell) {
  button.disabled = true;
  try {
    await send(path, { method: "POST" });
    tell(done);
  } catch (error) {
    tell(error.message);
  }
  button.disabled = false;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

function showCalls(calls) {
  const shown = calls.filter((call) => call.outcome !== "ok" || !at("failures-only").checked);
  at("no-calls").hidden = 0 < shown.length;
  sync(at("call-rows"), shown, (call) => call.number, () => h("tr"), (row, call) => {
    fill(row, [
      [clock.format(new Date(call.time))],
      [call.tool],
      [call.outcome === "ok" ? "answered" : call.outcome, call.outcome === "ok" ? "good" : call.outcome === "cancelled" ? "warn" : "bad"],
      [duration(call.duration_ms), "number"],
      [call.worker ? `${call.way}, ${call.worker}` : call.way],
      [call.key],
      [call.request_id, "mono"],
    ]);
  });
}
