// Everything the pages ask of the gateway. Addresses are relative, so that a proxy may put the gateway below a path.

const PLACE = "mcpgate.key";

/** An answer that is a failure, with what the gateway says about it. */
export class Failure extends Error {
  constructor(status, error) {
    super(error.message);
    Object.assign(this, { status, code: error.code, hint: error.hint, error });
  }
}

export const key = {
  get: () => sessionStorage.getItem(PLACE) ?? "",
  set: (value) => sessionStorage.setItem(PLACE, value),
  forget: () => sessionStorage.removeItem(PLACE),
};

export const headers = () => (key.get() ? { "X-API-Key": key.get() } : {});

export const toolPath = (name) => `tools/${encodeURIComponent(name)}`;

/** The address of `path`, absolute, as other programs need it. */
export const address = (path) => new URL(path, document.baseURI).href;

/** Sends a request; a failure is thrown as `Failure`, a gateway that is not there as `TypeError`. */
export async function send(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers }, cache: "no-store" });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Failure(response.status, body.error ?? { code: "unknown", message: `the gateway answered ${response.status}` });
}

export const get = async (path) => (await send(path)).json();

export const post = (path, body, signal) =>
  send(path, { method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** The events of a stream that `response` brings, one by one (HTML standard, 9.2.6). */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) event.event = line.slice(7);
        if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      if (event.data) yield { event: event.event, ...JSON.parse(event.data) };
    }
  }
}
