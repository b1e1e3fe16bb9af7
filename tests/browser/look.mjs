// What the tests and the benchmark of the site ask of a page.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

// Pixels by which a page can be moved sideways.
export const sideways = page => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);

// Bytes, unpacked, that a page has loaded so far, without its pictures.
export const weight = page => page.evaluate(() => [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")]
  .filter(one => one.initiatorType !== "img").reduce((sum, one) => sum + one.decodedBodySize, 0));

// axe's serious and critical findings in one frame, without the frames in it.
export async function serious(frame) {
  await frame.evaluate(AXE);
  const result = await frame.evaluate(() => globalThis.axe.run(document, { iframes: false }));
  return result.violations.filter(one => ["serious", "critical"].includes(one.impact));
}
