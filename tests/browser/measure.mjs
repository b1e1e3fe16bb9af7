// What some pages of a built book ask of a browser: node measure.mjs FOLDER PAGE…  Writes a JSON line a page.
// Each page is opened in a browser that has seen nothing, with the world outside out of reach.
import { chromium } from "playwright-core";
import { serious, sideways, weight } from "./look.mjs";
import { serve } from "./serve.mjs";

const [folder, ...pages] = process.argv.slice(2);
const site = await serve(folder);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
for (const name of pages) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  const outside = new Set();
  page.on("request", request => {
    if (!request.url().startsWith(site.url) && /^https?:/.test(request.url())) outside.add(request.url());
  });
  await page.route(url => !url.href.startsWith(site.url), route => route.abort());
  await page.goto(`${site.url}/${name}`, { waitUntil: "load" });
  const painted = await page.evaluate(() => new Promise(resolve => new PerformanceObserver(list => resolve(list.getEntries()[0].startTime))
    .observe({ type: "paint", buffered: true })));
  const loaded = await page.evaluate(() => performance.getEntriesByType("navigation")[0].loadEventStart);
  await page.waitForTimeout(500); // scripts that start after the page is there
  const bytes = await weight(page);
  const found = await serious(page);
  const cell = await page.evaluate(() => Math.max(0, ...[...document.querySelectorAll("div.cell_input pre")]
    .map(one => one.textContent.trimEnd().split("\n").length)));
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForTimeout(300);
  const wide = Math.max(0, await sideways(page));
  console.log(JSON.stringify({ page: name, first_paint_s: painted / 1000, loaded_s: loaded / 1000, kilobytes: bytes / 1000,
    outside: outside.size, serious: found.map(one => one.id), longest_cell: cell, too_wide_px: wide }));
  await context.close();
}
await browser.close();
site.close();
