// The built book as a reader's browser meets it: `make test-browser`. Pages come from _build/html over loopback.
import { execFileSync } from "node:child_process";
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { serious as findings, sideways, weight } from "./look.mjs";
import { serve } from "./serve.mjs";

const ROOT = path.resolve(import.meta.dirname, "../..");
const HTML = process.env.BOOK || path.join(ROOT, "_build/html");
const PYTHON = process.env.PYTHON || path.join(ROOT, ".venv/bin/python");
const CHROMIUM = process.env.CHROMIUM ||
  ["chromium", "chromium-browser", "google-chrome"].map(name => `/usr/bin/${name}`).find(existsSync);

const pages = readdirSync(HTML, { recursive: true }).map(String)
  .filter(name => name.endsWith(".html") && !name.startsWith("_static") && name !== "index.html").sort();
const chapter = number => pages.find(name => path.basename(name).startsWith(`0${number}_`));
let browser, site;

before(async () => {
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  site = await serve(HTML);
});
after(async () => { await browser?.close(); site?.close(); });

// A page with its troubles noted: requests to elsewhere, requests that failed, errors of scripts.
async function open(name, options = {}, base = site.url) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const troubles = [];
  page.on("request", request => {
    const url = request.url();
    if (!url.startsWith(base) && !/^(data|blob|about):/.test(url)) troubles.push(`asks ${url}`);
  });
  page.on("response", response => { if (response.status() >= 400) troubles.push(`${response.status()} ${response.url()}`); });
  page.on("pageerror", error => troubles.push(`error ${error.message}`));
  page.on("console", message => { if (message.type() === "error") troubles.push(`console ${message.text()}`); });
  page.on("dialog", dialog => { troubles.push(`dialog ${dialog.message()}`); dialog.dismiss(); });
  await page.goto(`${base}/${name}`, { waitUntil: "load" });
  return { page, troubles, close: () => context.close() };
}
// Every frame is judged as well: the rating form lives in one.
async function serious(page) {
  const found = [];
  for (const frame of page.frames()) {
    for (const one of await findings(frame))
      found.push(`${one.id}: ${one.nodes.slice(0, 3).map(node => node.html.slice(0, 160)).join(" | ")}`);
  }
  return found;
}

test("there is a book to look at", () => assert.ok(pages.length >= 15, `${HTML} holds ${pages.length} pages`));

for (const name of pages) {
  test(`${name}: nothing from outside, nothing missing, at most 1 MB without images`, async () => {
    const { page, troubles, close } = await open(name);
    await page.evaluate(() => window.scrollTo(0, document.body.scrollHeight));
    await page.waitForLoadState("networkidle");
    const bytes = await weight(page);
    assert.ok(bytes <= 1e6, `${Math.round(bytes / 1000)} kB without images`);
    assert.deepEqual(troubles, []);
    await close();
  });

  test(`${name}: axe finds nothing serious, light, dark and on a phone; no sideways scroll on a phone`, async () => {
    const views = [{ colorScheme: "light" }, { colorScheme: "dark" }, { viewport: { width: 390, height: 844 } }];
    for (const view of views) {
      const { page, close } = await open(name, { ...view, reducedMotion: "reduce" });
      assert.deepEqual(await serious(page), [], JSON.stringify(view));
      for (const width of view.viewport ? [390, 320] : []) {
        await page.setViewportSize({ width, height: 844 });
        assert.ok((await sideways(page)) <= 0, `${await sideways(page)} px too wide at ${width}`);
      }
      await close();
    }
  });
}

test("search finds every distortion by its Chinese name, and what else people look for", async () => {
  const rows = readFileSync(path.join(ROOT, "data/taxonomy.csv"), "utf8").trim().split("\n").slice(1);
  const names = rows.map(row => row.split(",")[1]); // no comma stands before it
  assert.equal(names.length, 11);
  for (const word of [...names, "认知扭曲", "低秩适配", "LoRA低秩适配", "distortion"]) {
    const { page, troubles, close } = await open(`search.html?q=${encodeURIComponent(word)}`);
    await page.waitForSelector("#search-results ul.search li", { timeout: 10_000 }).catch(() => assert.fail(`nothing for ${word}`));
    assert.deepEqual(troubles, []);
    await close();
  }
});

test("the keyboard reaches the text at once, and the search", async () => {
  const { page, close } = await open(chapter(1));
  await page.keyboard.press("Tab");
  assert.match(await page.evaluate(() => document.activeElement.textContent), /skip to main content/i);
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.ok(await page.evaluate(() => Boolean(document.activeElement.closest("main"))), "the next stop is in the text");
  await page.keyboard.press("Control+k");
  await page.waitForTimeout(200);
  assert.equal(await page.evaluate(() => document.activeElement.type), "search");
  await close();
});

test("dark mode: the page is dark, figures stay as they were printed", async () => {
  const { page, close } = await open(chapter(3), { colorScheme: "dark" });
  const [body, image] = await page.evaluate(() => [getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector("figure img"))].map(one => one.backgroundColor ? [one.backgroundColor, one.filter] : one));
  assert.match(body, /rgb\((\d|[1-4]\d), /);
  assert.deepEqual(image, ["rgb(255, 255, 255)", "none"]);
  await close();
});

test("dark mode: dark from the first paint, before any script file has run, and as the reader chose", async () => {
  const ground = page => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  for (const [colorScheme, mode, dark] of [["dark", null, true], ["dark", "light", false], ["light", "dark", true], ["light", "auto", false]]) {
    const context = await browser.newContext({ colorScheme });
    const page = await context.newPage();
    await page.goto(`${site.url}/${chapter(4)}`);
    if (mode) await page.evaluate(mode => { // as the theme's button leaves it, on a day when the system was the other way
      localStorage.setItem("mode", mode);
      localStorage.setItem("theme", mode === "auto" ? "dark" : mode);
    }, mode);
    else await page.evaluate(() => localStorage.clear());
    await page.route(/\.js\b/, route => route.abort());
    await page.reload();
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), dark ? "dark" : "light", `${colorScheme}, ${mode}`);
    const early = await ground(page);
    assert.equal(early === "rgb(18, 18, 18)", dark, `${colorScheme}, ${mode}: ${early}`);
    assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), dark ? early : "rgb(255, 255, 255)");
    await context.close();
  }
});

test("a table or formula that scrolls on a phone fades where there is more, and the keyboard reaches it", async () => {
  const { page, close } = await open(chapter(4), { viewport: { width: 390, height: 844 } });
  await page.waitForSelector(".more-after");
  const hints = () => page.evaluate(() => [...document.querySelectorAll("article *")]
    .filter(one => getComputedStyle(one).overflowX === "auto" && one.clientWidth && one.scrollWidth > one.clientWidth + 1)
    .map(one => [one.tabIndex, one.className, getComputedStyle(one).maskImage !== "none"]));
  const found = await hints();
  assert.ok(found.length > 1);
  for (const [stop, name, fades] of found) assert.ok(stop === 0 && name.includes("more-after") && fades, name);
  const box = page.locator(".more-after").first();
  await box.evaluate(one => { one.id = "watched"; one.scrollLeft = one.scrollWidth; });
  await page.waitForSelector("#watched.more-before:not(.more-after)");
  await close();
});

test("the caption of a table that scrolls is read whole on a phone", async () => {
  const { page, close } = await open(chapter(5), { viewport: { width: 390, height: 844 } });
  const [wider, cut] = await page.evaluate(() => {
    const wide = [...document.querySelectorAll("table.dataframe")].filter(one => one.offsetWidth > innerWidth && one.caption);
    return [wide.length, wide.filter(one => one.caption.getBoundingClientRect().right > innerWidth).length];
  });
  assert.ok(wider > 0);
  assert.equal(cut, 0);
  await close();
});

test("print shows the article alone", async () => {
  const { page, close } = await open(chapter(3));
  await page.emulateMedia({ media: "print" });
  for (const name of [".bd-sidebar-primary", ".bd-sidebar-secondary", ".header-article"])
    assert.equal(await page.locator(name).first().isVisible(), false, name);
  assert.equal(await page.locator("h1:visible").count(), 1); // the theme prints the title from a copy of its own
  assert.ok(await page.locator("article p").first().isVisible());
  assert.ok(await page.locator("article figure img").first().isVisible());
  await close();
});

test("paper has no folds: folded tables are opened to print, code and solutions stay closed and say so", async () => {
  const { page, close } = await open(chapter(5));
  const folds = () => page.evaluate(() => ["details.below-input", "details.above-input, details.sd-dropdown"]
    .map(kind => [...document.querySelectorAll(`article :is(${kind})`)].map(details => details.open)));
  await page.emulateMedia({ media: "print" });
  await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
  const [tables, code] = await folds();
  assert.ok(tables.length >= 2 && tables.every(Boolean));
  assert.ok(code.length > 10 && !code.some(Boolean));
  const said = await page.evaluate(() =>
    getComputedStyle(document.querySelector("details.above-input summary p"), "::after").content);
  assert.match(said, /folded/);
  await page.evaluate(() => dispatchEvent(new Event("afterprint")));
  assert.ok(!(await folds()).flat().some(Boolean));
  await close();
});

test("the download button gives the executed notebook", async () => {
  const { page, close } = await open(chapter(3));
  const link = await page.locator("a.btn-download-source-button").first().getAttribute("href");
  const answer = await page.request.get(new URL(link, page.url()).href);
  const notebook = await answer.json();
  assert.equal(notebook.nbformat, 4);
  assert.ok(notebook.cells.some(cell => (cell.outputs || []).some(output => output.data?.["image/png"])));
  await close();
});

test("the annotated answer: pointer, tap and arrows show part and evidence", async () => {
  const { page, close } = await open(chapter(1));
  const widget = page.locator("[data-widget=parts]").first();
  const panel = widget.locator("[role=status]");
  const sentences = widget.locator(".parts-letter [role=button]");
  assert.match(await panel.textContent(), /Validation and empathy.*Words that show it/);
  await sentences.first().focus();
  await page.keyboard.press("End");
  assert.match(await panel.textContent(), /Encouragement and foresight/);
  const thought = widget.locator(".parts-letter .parts-2");
  for (const sentence of await thought.all()) {
    await sentence.click();
    assert.match(await panel.textContent(), /Key thought.*The part in English: \w/, "each sentence of a part has its gloss");
  }
  assert.ok(await thought.count() > 1);
  await widget.getByRole("button", { name: /Challenge/ }).click();
  assert.match(await panel.textContent(), /Challenge or reflection/);
  assert.equal(await widget.locator(".parts-letter [tabindex='0']").count(), 1);
  await close();
});

test("the token view: what carries loss, by keyboard", async () => {
  const { page, close } = await open(chapter(4));
  const widget = page.locator("[data-widget=tokens]").first();
  const panel = widget.locator("[role=status]");
  await widget.locator(".tokens > *").first().focus();
  assert.match(await panel.textContent(), /read only/);
  await page.keyboard.press("End");
  assert.match(await panel.textContent(), /carries loss/);
  await widget.getByRole("button", { name: "Dim what is only read" }).press("Space");
  assert.equal(await widget.locator(".tokens.only-loss").count(), 1);
  await close();
});

test("the sliders compute what cbtlib.prevalence computes, and say when it is undefined", async () => {
  const { page, close } = await open(chapter(3));
  const cases = [[0.24, 0.8, 0.9, 2000, 100, 100], [0.05, 0.8, 0.9, 2000, 100, 100], [0.97, 0.6, 0.99, 500, 200, 100],
    [0.5, 0.9, 0.6, 22350, 10, 20], [0.3, 0.5, 0.5, 1000, 100, 100], [0, 0.7, 0.8, 50, 50, 50], [1, 1, 1, 50, 5, 5]];
  const code = "import json, sys\nfrom cbtlib import CbtError, widgets\nout = []\n" +
    "for case in json.load(sys.stdin):\n    try:\n        e = widgets.from_rates(*case); out.append([e.value, e.low, e.high])\n" +
    "    except CbtError:\n        out.append(None)\nprint(json.dumps(out))";
  const expected = JSON.parse(execFileSync(PYTHON, ["-c", code], { cwd: ROOT, input: JSON.stringify(cases) }));
  const got = await page.evaluate(rows => rows.map(([share, sensitivity, specificity, n, positives, negatives]) => {
    const found = globalThis.cbtPrevalence({ share, sensitivity, specificity, n, positives, negatives });
    return found && [found.value, found.low, found.high];
  }), cases);
  got.forEach((row, at) => row === null || expected[at] === null ? assert.equal(row, expected[at])
    : row.forEach((value, place) => assert.ok(Math.abs(value - expected[at][place]) < 1e-9, `case ${cases[at]}: ${row} and ${expected[at]}`)));
  assert.equal(expected.filter(row => row === null).length, 3);

  const widget = page.locator("[data-widget=prevalence]").first();
  const slider = widget.locator("input[name=share]");
  await slider.focus();
  const start = await widget.locator("[role=status]").textContent();
  await page.keyboard.press("ArrowRight");
  assert.notEqual(await widget.locator("[role=status]").textContent(), start);
  for (const [name, to] of [["sensitivity", "0.7"], ["specificity", "0.8"], ["share", "0"]]) await widget.locator(`input[name=${name}]`).fill(to);
  assert.match(await widget.locator("[role=status]").textContent(), /such a report does not fit such a detector/);
  for (const name of ["sensitivity", "specificity"]) await widget.locator(`input[name=${name}]`).fill("0.5");
  assert.match(await widget.locator("[role=status]").textContent(), /Undefined: sensitivity/);
  await close();
});

test("the rating form: keys score, the saved file holds the scores", async () => {
  const { page, close } = await open(chapter(6));
  const frame = page.frameLocator("iframe[title='Rating form']");
  await page.locator("iframe[title='Rating form']").scrollIntoViewIfNeeded();
  await frame.locator("fieldset").first().waitFor();
  const shown = await frame.locator("body").evaluate(async () => (await document.fonts.load('17px "Form Chinese"', "信")).length);
  assert.equal(shown, 1, "the form brings its Chinese glyphs");
  await frame.locator("input[type=radio]").first().focus();
  for (const key of ["2", "1", "0"]) await page.keyboard.press(key);
  assert.match(await frame.locator("#count").textContent(), /1 rated/);
  const [download] = await Promise.all([page.waitForEvent("download"), frame.locator("#json").click()]);
  const rows = JSON.parse(readFileSync(await download.path(), "utf8"));
  assert.deepEqual([rows[0].relevance, rows[0].structure, rows[0].helpfulness], [2, 1, 0]);
  assert.equal(rows[1].relevance, null);
  await close();
});

test("without script every widget is still there, as a table or a text", async () => {
  for (const [number, marker] of [[1, "tbody tr"], [3, "tbody tr"], [4, "mark"]]) {
    const { page, close } = await open(chapter(number), { javaScriptEnabled: false });
    assert.ok(await page.locator(`[data-widget] ${marker}`).first().isVisible(), chapter(number));
    await close();
  }
  const { page, close } = await open(chapter(6), { javaScriptEnabled: false });
  assert.ok(await page.locator("noscript p").filter({ hasText: "The form needs JavaScript" }).isVisible());
  await close();
});

test("a hostile record is text on every path: nothing runs, nothing is asked for, nothing breaks", async () => {
  const folder = path.join(mkdtempSync(path.join(tmpdir(), "hostile-")), "site");
  execFileSync(PYTHON, [path.join(ROOT, "tests/hostile.py"), folder],
    { cwd: ROOT, env: { ...process.env, PYTHONPATH: ROOT }, stdio: ["ignore", "pipe", "ignore"] });
  const hostile = await serve(path.join(folder, "_build/html"));
  for (const viewport of [{ width: 390, height: 844 }, { width: 1280, height: 900 }]) {
    const { page, troubles, close } = await open("index.html", { viewport }, hostile.url);
    await page.locator("iframe").scrollIntoViewIfNeeded();
    for (const box of await page.locator("[data-widget] [role=button]").all()) await box.hover({ force: true });
    const frame = page.frames().find(one => one !== page.mainFrame());
    await frame.locator("fieldset").first().waitFor();
    for (const one of page.frames()) assert.equal(await one.evaluate(() => globalThis.hacked), undefined);
    assert.match(await frame.locator("#answer").textContent(), /<script>globalThis\.hacked|长长长/);
    assert.equal(await page.locator("article iframe").count(), 1);
    assert.equal(await page.locator("article img").count(), 1);
    assert.equal(await page.locator("article a[href^='javascript'], article [onerror]").count(), 0);
    assert.ok(await page.locator("footer.bd-footer-content").isVisible(), "the page goes on after it");
    assert.ok((await sideways(page)) <= 0, `${await sideways(page)} px too wide at ${viewport.width}`);
    assert.deepEqual(troubles, []);
    await close();
  }
  hostile.close();
});
