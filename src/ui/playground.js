// A tool, a form for its arguments, and what comes of a call: by plain HTTP, as an event stream, or on a WebSocket.

import { duration, h, number, say } from "./dom.js";
import { WrongInput, objectForm, parse } from "./form.js";
import { Failure, address, events, get, key, post, toolPath } from "./gateway.js";

/** Longest result that is shown without being asked for. */
const RESULT_LETTERS_MAX = 100_000;
/** Most chunks and log lines that are kept on the page. */
const TOLD_MAX = 1_000;

const WAYS = [
  ["call", "Call", "One request, one answer."],
  ["stream", "Stream", "Server-Sent Events: progress and chunks as they come."],
  ["socket", "WebSocket", "The same on a WebSocket; the server may ask you something."],
];

/** Fills `place` with the playground. */
export function playground(place) {
  const picker = h("select", { id: "tool" });
  const panel = h("div");
  const none = h("p", { class: "quiet" }, "There are no tools yet.");
  let tools = [];
  let shown = "";

  const show = () => {
    const tool = tools.find((it) => it.name === picker.value);
    if (!tool) return;
    shown = JSON.stringify(tool);
    panel.replaceChildren(toolPanel(tool));
  };
  picker.addEventListener("change", show);
  place.replaceChildren(h("div", { class: "card" }, h("label", { for: "tool" }, "Tool"), picker, none, panel));

  /** Asks for the tools again; a form is left alone while its tool stays the same. */
  const refresh = async () => {
    ({ tools } = await get("tools"));
    const chosen = picker.value;
    const names = tools.map((it) => it.name);
    const isSame = names.length === picker.options.length && names.every((name, index) => picker.options[index].value === name);
    if (!isSame) {
      picker.replaceChildren(...tools.map((tool) => h("option", { value: tool.name }, tool.title ? `${tool.title} (${tool.name})` : tool.name)));
      if (names.includes(chosen)) picker.value = chosen;
    }
    picker.hidden = tools.length === 0;
    none.hidden = 0 < tools.length;
    if (tools.length === 0) panel.replaceChildren();
    else if (JSON.stringify(tools.find((it) => it.name === picker.value)) !== shown) show();
  };
  return { refresh };
}

function toolPanel(tool) {
  const form = objectForm(tool.inputSchema ?? {});
  const raw = h("textarea", { rows: 8, id: "raw-arguments", spellcheck: "false", "aria-label": "Arguments as JSON" });
  const rawBox = h("div", { hidden: true }, raw);
  const asJson = h("input", { type: "checkbox", id: "as-json" });
  const timeout = h("input", { type: "number", id: "timeout", min: 0.001, step: "any", inputmode: "decimal" });
  const ways = WAYS.map(([value, name, about], index) =>
    h("label", { title: about }, h("input", { type: "radio", name: "way", value, checked: index === 0 }), ` ${name}`));
  const run = h("button", { type: "submit" }, "Run");
  const cancel = h("button", { type: "button", class: "plain", disabled: true }, "Cancel");
  const wrong = h("p", { class: "error", role: "alert" });
  const command = h("pre", { id: "command", tabindex: "0", "aria-label": "The same call from a shell" });
  const output = new Output();

  const readArguments = () => (asJson.checked ? parse(raw) : form.read());
  const way = () => element.querySelector("input[name=way]:checked").value;
  const body = () => {
    const body = { arguments: readArguments() };
    if (timeout.value) body.timeout = Number(timeout.value);
    return body;
  };
  const describe = () => {
    try {
      say(command, shellCommand(tool.name, way(), body()));
    } catch {
      // What is being entered is not complete yet; the command stays as it was.
    }
  };

  asJson.addEventListener("change", () => {
    if (asJson.checked) {
      try {
        raw.value = JSON.stringify(form.read(), null, 2);
      } catch {
        raw.value = "{}";
      }
    }
    rawBox.hidden = !asJson.checked;
    form.element.hidden = asJson.checked;
    // Fields that are not shown must not hold up the call.
    form.element.querySelectorAll("input, select, textarea").forEach((it) => (it.disabled = asJson.checked));
    describe();
  });

  const element = h(
    "form",
    {},
    h("p", { class: "hint spaced" }, tool.description ?? ""),
    h("p", { class: "row spaced" }, ...badges(tool)),
    h("div", { class: "split" },
      h("div", {},
        form.element,
        rawBox,
        h("p", {}, h("label", { class: "hint" }, asJson, " Enter the arguments as JSON")),
        h("div", { class: "fields" }, h("div", {}, h("label", { for: "timeout" }, "Time limit ", h("small", {}, "seconds")), timeout)),
        h("div", { class: "row spaced", role: "radiogroup", "aria-label": "How to call it" }, ...ways),
        wrong,
        h("p", { class: "row spaced" }, run, cancel),
        h("details", {}, h("summary", {}, "The same from a shell"), h("p", { class: "hint" }, "With the key in ", h("code", {}, "MCPGATE_KEY"), "."), command, copyButton(command))),
      output.element),
  );
  element.addEventListener("input", describe);
  element.addEventListener("change", describe);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    say(wrong, "");
    let call;
    try {
      call = body();
    } catch (error) {
      if (!(error instanceof WrongInput)) throw error;
      say(wrong, error.message);
      return error.field.focus();
    }
    describe();
    const stop = new AbortController();
    const onCancel = () => stop.abort();
    cancel.addEventListener("click", onCancel);
    [run.disabled, cancel.disabled] = [true, false];
    output.begin();
    try {
      await { call: runPlain, stream: runStream, socket: runSocket }[way()](tool.name, call, output, stop.signal);
    } catch (error) {
      if (stop.signal.aborted) output.cancelled();
      else if (error instanceof Failure) output.failed(error.error);
      else output.failed({ code: "connection", message: `the connection broke off: ${error.message}` });
    }
    cancel.removeEventListener("click", onCancel);
    [run.disabled, cancel.disabled] = [false, true];
  });
  describe();
  return element;
}

function badges(tool) {
  const { readOnlyHint, destructiveHint, idempotentHint, openWorldHint } = tool.annotations ?? {};
  const words = [
    tool.server && `server ${tool.server}`,
    readOnlyHint === true && "only reads",
    readOnlyHint !== true && destructiveHint === true && "may destroy",
    idempotentHint === true && "may be repeated",
    openWorldHint === true && "reaches outside",
  ];
  return words.filter(Boolean).map((word) => h("span", { class: "badge" }, word));
}

function copyButton(source) {
  const button = h("button", { type: "button", class: "plain" }, "Copy");
  button.addEventListener("click", async () => {
    // Browsers give pages without TLS no clipboard, except on this machine.
    try {
      await navigator.clipboard.writeText(source.textContent);
      say(button, "Copied");
    } catch {
      getSelection().selectAllChildren(source);
      say(button, "Selected");
    }
    setTimeout(() => say(button, "Copy"), 2000);
  });
  return button;
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function shellCommand(name, way, body) {
  const path = way === "socket" ? `ws/${toolPath(name)}` : way === "stream" ? `${toolPath(name)}/stream` : toolPath(name);
  const url = quoted(address(path));
  const sent = quoted(JSON.stringify(body));
  const withKey = key.get() ? ` -H "X-API-Key: $MCPGATE_KEY"` : "";
  if (way === "socket") return `npx -y wscat${withKey} -c ${quoted(address(path).replace(/^http/, "ws"))} -w 60 -x ${sent}`;
  return `curl ${way === "stream" ? "-N " : ""}-X POST ${url}${withKey} \\\n  -H 'Content-Type: application/json' -d ${sent}`;
}

async function runPlain(name, body, output, signal) {
  const answer = await (await post(toolPath(name), body, signal)).json();
  output.complete(answer);
}

async function runStream(name, body, output, signal) {
  const response = await post(`${toolPath(name)}/stream`, body, signal);
  for await (const event of events(response)) output.tell(event);
  output.ended();
}

function runSocket(name, body, output, signal) {
  return new Promise((resolve, reject) => {
    const url = new URL(address(`ws/${toolPath(name)}`).replace(/^http/, "ws"));
    if (key.get()) url.searchParams.set("api_key", key.get());
    const socket = new WebSocket(url);
    const id = "page-1";
    const say = (message) => socket.send(JSON.stringify(message));
    signal.addEventListener("abort", () => (socket.readyState === WebSocket.OPEN ? say({ event: "cancel", id }) : socket.close()));
    socket.onopen = () => say({ ...body, id });
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.event === "input_required") {
        return output.ask(event, (answer) => say({ event: "input", id, input_id: event.input_id, ...answer }));
      }
      output.tell(event);
      if (["complete", "error", "cancelled"].includes(event.event)) socket.close(1000);
    };
    socket.onclose = ({ code, reason }) => {
      if (output.isOver || signal.aborted) {
        if (!output.isOver) output.cancelled();
        return resolve();
      }
      reject(new Error(`the WebSocket was closed (${code}${reason ? `, ${reason}` : ""})`));
    };
  });
}

/** What a call tells, as it comes. */
class Output {
  constructor() {
    this.outcome = h("p", { role: "status" }, "Nothing has been called yet.");
    this.progress = h("progress", { "aria-label": "Progress", hidden: true });
    this.message = h("p", { class: "quiet" });
    this.questions = h("div");
    this.told = h("ol", { class: "told", hidden: true, tabindex: "0", "aria-label": "Chunks and log lines" });
    this.result = h("div", { class: "result" });
    this.element = h("div", { id: "output" }, h("h3", {}, "Result"), this.outcome, this.progress, this.message, this.questions, this.told, this.result);
    this.isOver = false;
  }

  begin() {
    this.isOver = false;
    this.startedAt = performance.now();
    this.n_told = 0;
    say(this.outcome, "Running");
    this.outcome.className = "busy";
    say(this.message, "");
    this.progress.hidden = false;
    this.progress.removeAttribute("value");
    this.told.hidden = true;
    for (const it of [this.told, this.result, this.questions]) it.replaceChildren();
  }

  tell(event) {
    switch (event.event) {
      case "progress": return this.moved(event);
      case "chunk": return this.line(`${event.index}: ${JSON.stringify(event.data)}`);
      case "log": return this.line(`${event.level}: ${typeof event.data === "string" ? event.data : JSON.stringify(event.data)}`);
      case "result":
      case "complete": return this.complete(event);
      case "error": return this.failed(event.error ?? event, event.content);
      case "cancelled": return this.cancelled();
    }
  }

  moved({ progress, total, message }) {
    const hasTotal = typeof total === "number" && 0 < total;
    if (hasTotal) {
      this.progress.max = total;
      this.progress.value = Math.min(progress, total);
    }
    say(this.message, [message, hasTotal ? `${number(progress)} of ${number(total)}` : ""].filter(Boolean).join(" · "));
  }

  line(text) {
    this.n_told += 1;
    this.told.hidden = false;
    if (TOLD_MAX < this.n_told) {
      return say(this.told.lastChild, `${number(this.n_told - TOLD_MAX + 1)} more are not shown`);
    }
    this.told.append(h("li", { class: "mono" }, text));
    this.told.scrollTop = this.told.scrollHeight;
  }

  ask(event, answer) {
    const over = (reply) => {
      card.remove();
      answer(reply);
    };
    const card = questionCard(event, over);
    this.questions.append(card);
    card.querySelector("input, select, textarea, button")?.focus();
  }

  complete({ data, content, duration_ms, worker }) {
    this.over("complete", `Answered in ${duration(duration_ms)}${worker ? ` by ${worker}` : ""}`);
    const media = (content ?? []).map(mediaOf).filter(Boolean);
    this.result.replaceChildren(...media, pretty(data));
  }

  failed(error, content) {
    const took = performance.now() - this.startedAt;
    this.over("failed", `Failed after ${duration(took)}: ${error.message} (${error.code})`);
    const parts = [error.hint && h("p", { class: "hint" }, error.hint), error.stderr?.length && pretty(error.stderr.join("\n")), error.data && pretty(error.data)];
    this.result.replaceChildren(...parts.filter(Boolean), ...(content ? [pretty(content)] : []));
  }

  cancelled() {
    this.over("cancelled", "Cancelled");
  }

  /** The stream is at its end. */
  ended() {
    if (!this.isOver) this.failed({ code: "connection", message: "the stream ended without a result" });
  }

  over(style, text) {
    this.isOver = true;
    this.questions.replaceChildren();
    this.progress.hidden = true;
    this.outcome.className = style;
    say(this.outcome, text);
  }
}

function pretty(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  const box = h("pre", { tabindex: "0", "aria-label": "Result" }, text.slice(0, RESULT_LETTERS_MAX));
  if (text.length <= RESULT_LETTERS_MAX) return box;
  const all = h("button", { type: "button", class: "plain" }, `Show all ${number(text.length)} characters`);
  all.addEventListener("click", () => {
    say(box, text);
    all.remove();
  });
  return h("div", {}, box, all);
}

function mediaOf(block) {
  const source = `data:${block.mimeType};base64,${block.data}`;
  if (block.type === "image") return h("img", { src: source, alt: "An image in the result" });
  return block.type === "audio" ? h("audio", { src: source, controls: true }) : null;
}

/** A question of the server: a form for elicitation, JSON for everything else (MCP `elicitation/create`, `sampling/createMessage`, `roots/list`). */
function questionCard({ method, params }, answer) {
  const isForm = method === "elicitation/create" && params?.requestedSchema;
  const form = isForm ? objectForm(params.requestedSchema) : null;
  const raw = h("textarea", { rows: 4, "aria-label": "Result as JSON", value: method === "roots/list" ? '{"roots": []}' : "{}" });
  const wrong = h("p", { class: "error", role: "alert" });
  const card = h(
    "form",
    { class: "card", "aria-label": "The server asks" },
    h("h3", {}, "The server asks"),
    h("p", {}, params?.message ?? method),
    form?.element ?? raw,
    form ? null : h("details", {}, h("summary", {}, method), pretty(params ?? {})),
    wrong,
    h("p", { class: "row" }, h("button", { type: "submit" }, "Answer"),
      h("button", { type: "button", class: "plain", onclick: () => answer(isForm ? { result: { action: "decline" } } : { error: { code: -1, message: "declined by the user" } }) }, "Decline")),
  );
  card.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      answer({ result: form ? { action: "accept", content: form.read() } : parse(raw) });
    } catch (error) {
      if (!(error instanceof WrongInput)) throw error;
      say(wrong, error.message);
    }
  });
  return card;
}
