// The page `/ui`: the key, and a look at the gateway every second while somebody looks at the page.

import { duration, say } from "./dom.js";
import { Failure, get, key } from "./gateway.js";
import { update } from "./overview.js";
import { playground } from "./playground.js";

const LOOK_EVERY_MS = 1000;
/** The list of tools changes seldom, and may be long. */
const TOOLS_EVERY_LOOKS = 10;

const at = (id) => document.getElementById(id);
const tryOut = playground(at("playground"));
let n_looks = 0;
let timer = 0;
let newsTimer = 0;

function tell(text) {
  clearTimeout(newsTimer);
  say(at("news"), text);
  at("news").hidden = false;
  newsTimer = setTimeout(() => (at("news").hidden = true), 8000);
}

function askForKey(reason) {
  at("panels").hidden = at("sections").hidden = at("forget-key").hidden = true;
  const isNew = at("key-form").hidden;
  at("key-form").hidden = false;
  say(at("key-error"), reason);
  if (isNew) at("key").focus();
}

function showPanels() {
  const wasHidden = at("panels").hidden;
  at("key-form").hidden = at("trouble").hidden = true;
  at("panels").hidden = at("sections").hidden = false;
  at("forget-key").hidden = !key.get();
  if (wasHidden && location.hash.length > 1) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

async function look() {
  // 503 is an answer here, too. Neither of the two needs a key.
  const [info, health] = await Promise.all([get("./"), fetch("health", { cache: "no-store" }).then((response) => response.json())]);
  say(at("status"), health.status);
  at("status").className = `pill ${health.status}`;
  say(at("about"), `${info.version}, up for ${duration(info.uptime_seconds * 1000)}`);
  document.title = health.status === "healthy" ? "mcpgate" : `mcpgate: ${health.status}`;
  // One after the other: a wrong key is tried once.
  const stats = await get("stats");
  const history = await get("stats/history");
  update(stats, history, tell);
  if (n_looks % TOOLS_EVERY_LOOKS === 0) await tryOut.refresh();
  n_looks += 1;
  showPanels();
}

async function keepLooking() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    await look();
  } catch (error) {
    if (error instanceof Failure && error.status === 401) return askForKey(key.get() ? `${error.message}` : "");
    at("trouble").hidden = false;
    say(at("trouble"), error instanceof Failure ? `The gateway says: ${error.message}` : "The gateway does not answer. What is shown may be old; it is asked again every second.");
    say(at("status"), "unreachable");
    at("status").className = "pill unhealthy";
  }
  timer = setTimeout(keepLooking, LOOK_EVERY_MS);
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(at("key").value.trim());
  n_looks = 0;
  keepLooking();
});
at("forget-key").addEventListener("click", () => {
  key.forget();
  at("key").value = "";
  clearTimeout(timer);
  askForKey("");
});
document.addEventListener("visibilitychange", keepLooking);
keepLooking();
