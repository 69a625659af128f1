// A page of the gateway in a real browser, watched while it is used: what it asks of others, and what goes wrong in it.

import { createRequire } from "node:module";
import { join } from "node:path";

/** Opens a browser with one empty page. `seen.foreign` and `seen.errors` fill up while it is used. */
export async function openBrowser(packages, chromium, url) {
  const require = createRequire(join(packages, "package.json"));
  const { origin } = new URL(url);
  const seen = { foreign: [], errors: [] };
  const browser = await require("puppeteer-core").launch({
    executablePath: chromium,
    headless: true,
    // The shell alone: no name is looked up and nobody is asked for updates.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-proxy-server", "--disable-background-networking", "--disable-dev-shm-usage",
      "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(30_000);
  page.on("request", (request) => {
    const asked = new URL(request.url());
    if (["http:", "https:"].includes(asked.protocol) && asked.origin !== origin) seen.foreign.push(request.url());
  });
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => {
    // A refused key and a refused call are told as failed resources, which is as it should be.
    if (message.type() === "error" && !message.text().includes("Failed to load resource")) seen.errors.push(message.text());
  });
  return { browser, page, seen, require };
}
