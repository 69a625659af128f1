// Reads what a run of the conformance suite has left (`-o FOLDER`), and says how it went, for scripts/conformance.sh.
//
//     conformance.mjs FOLDER [SCENARIO...]
//
// Prints the counts on one line, and below it each check that failed or warns. Fails when a check failed, when there is
// none at all, or when one of the SCENARIOs has not passed any. The Tasks extension is not served, and no revision
// requires it: its scenarios are counted by themselves, and never a failure.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const DETAIL_CHARS_MAX = 1000;

const [folder, ...required] = process.argv.slice(2);
const counts = { SUCCESS: 0, FAILURE: 0, WARNING: 0, SKIPPED: 0, INFO: 0 };
const passed = new Set();
const lines = [];
let scenarios = 0;
let extension = 0;

for (const name of readdirSync(folder).sort()) {
  // `server-tools-list-2026-07-28T10-00-00-000Z`
  const scenario = name.replace(/^server-/, "").replace(/-\d{4}-\d\d-\d\dT[\d-]+Z$/, "");
  if (scenario.startsWith("tasks-")) {
    extension += 1;
    continue;
  }
  scenarios += 1;
  for (const check of JSON.parse(readFileSync(join(folder, name, "checks.json"), "utf8"))) {
    counts[check.status] += 1;
    if (check.status === "SUCCESS") passed.add(scenario);
    if (check.status !== "FAILURE" && check.status !== "WARNING") continue;
    lines.push(`  ${check.status} ${scenario} ${check.id}: ${check.errorMessage ?? check.description}`);
    if (check.details) lines.push(`    ${JSON.stringify(check.details).slice(0, DETAIL_CHARS_MAX)}`);
  }
}

const missing = required.filter((scenario) => !passed.has(scenario));
for (const scenario of missing) lines.push(`  FAILURE ${scenario}: none of its checks passed`);
const aside = extension === 0 ? "" : `; left aside: ${extension} scenarios of the Tasks extension`;
console.log(
  `${scenarios} scenarios: ${counts.SUCCESS} passed, ${counts.FAILURE} failed, ${counts.WARNING} warnings, ` +
    `${counts.SKIPPED} skipped${aside}`,
);
for (const line of lines) console.log(line);
process.exit(counts.SUCCESS === 0 || counts.FAILURE !== 0 || missing.length !== 0 ? 1 : 0);
