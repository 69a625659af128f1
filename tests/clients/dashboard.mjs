// Drives the dashboard in a real browser, as a person would: node dashboard.mjs FOLDER_OF_PACKAGES CHROMIUM URL KEY STEP SHOTS
//
// Prints one JSON object of what was seen. `tests/it/dashboard.rs` says what that has to be.

import { join } from "node:path";

import { openBrowser } from "./pages.mjs";

const [packages, chromium, url, key, step, shots] = process.argv.slice(2);
const { browser, page, seen, require } = await openBrowser(packages, chromium, url);

const text = (selector) => page.$eval(selector, (element) => element.textContent);
const until = (test, ...values) => page.waitForFunction(test, {}, ...values);
const shot = (name) => (shots ? page.screenshot({ path: join(shots, `${name}.png`), fullPage: true }) : null);

async function open(width = 1200, scheme = "light") {
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(url);
}

async function enter(value) {
  await page.waitForSelector("#key-form:not([hidden])");
  await page.$eval("#key", (element) => (element.value = ""));
  await page.type("#key", value);
  await page.click("#key-form button");
}

async function begin(width, scheme) {
  await open(width, scheme);
  await enter(key);
  await page.waitForSelector("#panels:not([hidden])");
  await page.waitForSelector("#tool option");
}

async function choose(tool) {
  await page.select("#tool", tool);
}

/** The control with this label in the playground. */
const field = (label) => page.waitForSelector(`::-p-xpath(//*[@id="playground"]//*[@id=//label[starts-with(normalize-space(.), "${label}")]/@for])`);

/** By keyboard, which hits also while the page moves because something new is shown. */
async function push(control, by = "Enter") {
  await control.focus();
  await page.keyboard.press(by);
}

async function run(way, { waits = true } = {}) {
  await push(await page.waitForSelector(`input[name=way][value=${way}]`), "Space");
  await push(await page.waitForSelector("#playground form:not(.card) button[type=submit]"));
  if (waits) await over();
}

async function over() {
  await until(() => !document.querySelector("#playground form:not(.card) button[type=submit]").disabled);
}

const outcome = async () => ({
  outcome: await text("#output [role=status]"),
  told: await page.$$eval("#output .told li", (lines) => lines.map((line) => line.textContent)),
  result: await page.$$eval("#output .result pre", (boxes) => boxes.map((box) => box.textContent)),
});

const press = async (name) => {
  const button = await page.waitForSelector(`::-p-aria([name="${name}"][role="button"])`);
  await push(button);
};

const steps = {
  async key() {
    await open();
    await page.waitForSelector("#key-form:not([hidden])");
    await until(() => document.querySelector("#status").textContent === "healthy");
    seen.focus = await page.evaluate(() => document.activeElement.id);
    await enter("wrong");
    await until(() => document.querySelector("#key-error").textContent !== "");
    seen.refused = await text("#key-error");
    await shot("key-refused");
    await enter(key);
    await page.waitForSelector("#panels:not([hidden])");
    await page.reload();
    await page.waitForSelector("#panels:not([hidden])");
    seen.kept = true;
    await press("Forget the key");
    await page.waitForSelector("#key-form:not([hidden])");
    seen.stored = await page.evaluate(() => sessionStorage.length);
  },

  async calls() {
    await begin();
    await choose("echo");
    await push(await page.$("#as-json"), "Space");
    await page.$eval("#raw-arguments", (element) => (element.value = ""));
    await page.type("#raw-arguments", '{"text": "it\'s <b>here</b>"}');
    seen.command = await text("#command");
    for (const way of ["call", "stream", "socket"]) {
      await run(way);
      seen[way] = await outcome();
    }
    await choose("error");
    await (await field("text")).type("it went wrong");
    await run("call");
    seen.failed = await outcome();
    await shot("failed");
    await choose("chunks");
    await run("stream", { waits: false });
    seen.missing = await page.$eval("#playground input:invalid", (element) => element.validationMessage !== "");
    await (await field("n")).type("3");
    await run("stream");
    seen.streamed = await outcome();
    await shot("streamed");
    await choose("silent");
    await run("socket", { waits: false });
    await until(() => document.querySelector("#output [role=status]").textContent === "Running");
    await press("Cancel");
    await over();
    seen.cancelled = await outcome();
    await until(() => document.querySelectorAll("#call-rows tr").length >= 6);
    seen.rows = await page.$$eval("#call-rows tr", (rows) => rows.map((row) => [...row.children].slice(1, 3).map((cell) => cell.textContent)));
    await push(await page.$("#failures-only"), "Space");
    await until(() => [...document.querySelectorAll("#call-rows tr")].every((row) => row.children[2].textContent !== "answered"));
    seen.failures = await page.$$eval("#call-rows tr", (rows) => rows.map((row) => row.children[2].textContent));
  },

  async asked() {
    await begin();
    await choose("ask");
    await (await field("method")).type("elicitation/create");
    const schema = { type: "object", properties: { answer: { type: "string" } }, required: ["answer"] };
    await (await field("params")).type(JSON.stringify({ message: "What is the answer?", requestedSchema: schema }));
    await run("socket", { waits: false });
    await page.waitForSelector('#output form[aria-label="The server asks"]');
    await shot("asked");
    seen.question = await text('#output form[aria-label="The server asks"] p');
    const control = await page.$('#output form[aria-label="The server asks"] input');
    await control.type("forty-two");
    await press("Answer");
    await over();
    seen.answered = await outcome();
  },

  async workers() {
    await begin();
    const pid = () => page.$eval("#servers tbody tr td:nth-child(10)", (cell) => Number(cell.textContent.replace(/\D/g, "")));
    await until(() => document.querySelector("#servers tbody tr .ready"));
    const first = await pid();
    process.kill(first, "SIGKILL");
    await until((first) => {
      const row = document.querySelector("#servers tbody tr");
      return row.children[9].textContent !== String(first) && row.querySelector(".ready") && row.children[8].textContent === "1";
    }, first);
    const second = await pid();
    seen.restarts = await text("#servers tbody tr td:nth-child(9)");
    await press("Restart helper-1");
    await until(() => !document.querySelector("#news").hidden);
    seen.news = await text("#news");
    await until((second) => document.querySelector("#servers tbody tr").children[9].textContent !== String(second), second);
    seen.changed = second !== first;
    await shot("workers");
  },

  async looks() {
    const axe = require.resolve("axe-core/axe.min.js");
    seen.serious = [];
    for (const [name, width, scheme] of [["wide-light", 1200, "light"], ["wide-dark", 1200, "dark"], ["phone-light", 390, "light"], ["phone-dark", 390, "dark"]]) {
      await page.evaluateOnNewDocument(() => sessionStorage.clear());
      await begin(width, scheme);
      await page.$$eval("details", (all) => all.forEach((it) => (it.open = true)));
      await until(() => document.querySelectorAll("#servers tbody tr").length > 0);
      await shot(name);
      seen[name] = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
      // The page's own policy lets no script in from outside, so the checker is run beside it.
      await page.setBypassCSP(true);
      await page.reload();
      await enter(key);
      await page.waitForSelector("#tool option");
      await page.$$eval("details", (all) => all.forEach((it) => (it.open = true)));
      await page.addScriptTag({ path: axe });
      const { violations } = await page.evaluate(() => window.axe.run());
      await page.setBypassCSP(false);
      for (const { id, impact, nodes } of violations) seen.serious.push(`${name}: ${impact} ${id} ${nodes.map((node) => node.html.slice(0, 120)).join(" | ")}`);
    }
  },

  async gone() {
    await begin();
    // The test stops the gateway now, and starts it again on the same port.
    console.error("ready");
    await until(() => document.querySelector("#status").textContent === "unreachable");
    seen.trouble = await text("#trouble");
    console.error("seen");
    await until(() => document.querySelector("#status").textContent === "healthy" && document.querySelector("#trouble").hidden);
    seen.back = true;
  },
};

try {
  await steps[step]();
  console.log(JSON.stringify(seen));
} catch (error) {
  await shot(`${step}-broken`);
  console.error(error, JSON.stringify(seen), await page.$eval("body", (body) => body.innerText).catch(() => ""));
  process.exitCode = 1;
} finally {
  await browser.close();
}
