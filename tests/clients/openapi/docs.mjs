// Drives `/docs` in a real browser, as a person would: node docs.mjs FOLDER_OF_PACKAGES CHROMIUM URL KEY SHOTS
//
// Prints one JSON object of what was seen. `tests/it/openapi/docs.rs` says what that has to be.

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { openBrowser } from "../pages.mjs";

const [packages, chromium, url, key, shots] = process.argv.slice(2);
const { browser, page, seen, require } = await openBrowser(packages, chromium, url);
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
seen.axe = [];

const text = (selector) => page.$eval(selector, (element) => element.textContent);
const texts = (selector) => page.$$eval(selector, (elements) => elements.map((element) => element.textContent));
const until = (test, ...values) => page.waitForFunction(test, {}, ...values);
const heading = (wanted) => until((wanted) => document.querySelector("main h2")?.textContent.includes(wanted), wanted);

async function look(name, width = 1280, scheme = "light") {
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  for (const { id, nodes } of serious) seen.axe.push(`${name}: ${id}: ${nodes.map((node) => node.html).join(" ").slice(0, 300)}`);
}

async function enter(value) {
  await page.$eval("#key", (element) => (element.value = ""));
  await page.type("#key", value);
  await page.keyboard.press("Enter");
}

async function fill(selector, value) {
  await page.$eval(selector, (element) => (element.value = ""));
  await page.type(selector, value);
}

async function send() {
  await page.click("form.try button[type=submit]");
  await until(() => !document.querySelector("form.try button[type=submit]").disabled);
  return (await text("form.try .status")).split(",")[0];
}

await page.goto(url);
await heading("wants a key");
seen.without_key = await text("main h2");
await look("key");
await enter("wrong");
await heading("not known");
seen.wrong_key = await text("main h2");
await enter(key);
await heading("mcpgate");
await look("overview");
await fill("#search", "journeys");
seen.found = await texts("#groups a span:last-child");
// By keyboard from the search to the tool.
await page.keyboard.press("Tab");
seen.keyboard = await page.evaluate(() => document.activeElement.textContent.replace("POST", ""));
await page.keyboard.press("Enter");
await heading("journeys_tool");
seen.arguments = await texts("main section .fields > li > b");
seen.example = JSON.parse(await page.$eval("#body", (element) => element.value));
seen.curl = await text('form.try pre[aria-label="The same with curl"]');
seen.status = await send();
seen.result = JSON.parse(await text('form.try pre[aria-label="Answer"]'));
await look("tool");
await look("tool-dark", 1280, "dark");
await look("tool-phone", 390);
seen.phone_width = await page.evaluate(() => document.documentElement.scrollWidth);
await page.click("#menu");
await look("menu-phone", 390, "dark");
await page.setViewport({ width: 1280, height: 900 });
await fill("#body", '{"action":"get"}');
seen.failure = await send();
await fill("#search", "stream");
await page.click('#groups a[data-id="post /tools/{name}/stream"]');
await heading("Server-Sent Events");
await page.type("#parameter-0", "journeys_tool");
await fill("#body", '{"arguments":{"action":"list"}}');
await send();
seen.stream = await text('form.try pre[aria-label="Answer"]');
await look("stream-phone", 390);
seen.phone_width = Math.max(seen.phone_width, await page.evaluate(() => document.documentElement.scrollWidth));
await browser.close();
console.log(JSON.stringify(seen));
