// The book's widgets: what cbtlib/widgets.py wrote as a table or a text becomes something to try. No library, no request.
// Text is moved with textContent only, so nothing that a corpus or a model wrote can become markup.
"use strict";

(() => {
  const make = (name, properties = {}, ...children) => {
    const { data = {}, aria = {}, ...rest } = properties;
    const node = Object.assign(document.createElement(name), rest);
    Object.assign(node.dataset, data);
    for (const [key, value] of Object.entries(aria)) node.setAttribute(key === "role" ? key : `aria-${key}`, value);
    node.append(...children);
    return node;
  };
  const status = () => make("div", { aria: { role: "status" } });

  // One item of many can be chosen: by pointer, by tap, by focus, and with arrow keys, Home and End. One tab stop.
  function roving(items, choose) {
    let current = 0;
    const go = (index, focus) => {
      items[current].tabIndex = -1;
      items[current].classList.remove("chosen");
      current = Math.max(0, Math.min(items.length - 1, index));
      items[current].tabIndex = 0;
      items[current].classList.add("chosen");
      if (focus) items[current].focus();
      choose(items[current], current);
    };
    items.forEach((item, index) => {
      item.tabIndex = index === 0 ? 0 : -1;
      item.addEventListener("mouseenter", () => go(index, false));
      item.addEventListener("click", () => go(index, true));
      item.addEventListener("focus", () => { if (index !== current) go(index, false); });
      item.addEventListener("keydown", event => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const target = step ? index + step : event.key === "Home" ? 0 : event.key === "End" ? items.length - 1 : null;
        if (target === null) return;
        event.preventDefault();
        go(target, true);
      });
    });
    go(0, false);
    return go;
  }

  // ---- the five parts: a letter whose sentences show their part and the words that speak for it
  function parts(widget, fallback) {
    const rows = [...fallback.querySelectorAll("tbody tr")];
    const panel = status();
    const text = make("p", { className: "parts-letter", lang: "zh", aria: { role: "group", label: "The answer's sentences" } });
    const sentences = rows.map(row => make("span", { className: row.className, textContent: row.cells[1].textContent,
      aria: { role: "button" } }));
    text.append(...sentences);
    const choose = (_, index) => {
      const [part, , words] = rows[index].cells;
      const english = rows.find(row => row.className === rows[index].className).cells[3]; // once, where its part begins
      const chinese = part.querySelector("[lang=zh]");
      panel.replaceChildren(
        make("strong", { textContent: part.firstChild.textContent }), " ",
        make("span", { lang: "zh", textContent: chinese ? chinese.textContent : "" }), `: ${rows[index].dataset.purpose}. `,
        make("br"), "Words that show it: ", make("span", { lang: "zh", textContent: words.textContent }),
        ...(english.textContent ? [make("br"), "The part in English: ", make("em", { textContent: english.textContent })] : []));
    };
    widget.append(make("p", { className: "hint", textContent: "Point at a sentence, tap it, or use the arrow keys." }), text, panel);
    const go = roving(sentences, choose);
    const key = make("div", { className: "parts-key", aria: { role: "group", label: "The five parts" } });
    for (const row of rows) {
      if ([...key.children].some(one => one.dataset.part === row.className)) continue;
      const button = make("button", { type: "button", className: row.className, data: { part: row.className } });
      button.textContent = row.cells[0].firstChild.textContent.trim();
      button.addEventListener("click", () => go(rows.indexOf(row), true));
      key.append(button);
    }
    widget.insertBefore(key, text);
  }

  // ---- tokens: which carry loss, and which piece and number each one is
  function tokens(widget, fallback) {
    const text = fallback.querySelector(".tokens");
    const boxes = [...text.children];
    const panel = status();
    const only = make("button", { type: "button", textContent: "Dim what is only read", aria: { pressed: "false" } });
    only.addEventListener("click", () => {
      only.setAttribute("aria-pressed", String(text.classList.toggle("only-loss")));
    });
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", "Tokens of one training record");
    boxes.forEach(box => box.setAttribute("role", "button"));
    widget.insertBefore(make("p", { className: "hint", textContent: "Point at a token, tap it, or use the arrow keys." }), fallback);
    widget.append(only, panel);
    roving(boxes, (box, index) => {
      const learned = box.tagName === "MARK";
      panel.replaceChildren(`Token ${index + 1} of ${boxes.length}: `, make("bdi", { lang: "zh", textContent: `“${box.textContent}”` }),
        `, number ${box.dataset.id} of the vocabulary. `, make("strong", { textContent: learned ? "It carries loss." : "It is read only." }),
        learned ? " The model is trained to predict it from what stands before it." : " Nothing is learned from predicting it.");
    });
    return { keep: true };
  }

  // ---- Rogan and Gladen's correction with Lang and Reiczigel's interval: cbtlib.prevalence.rogan_gladen, from rates
  const Z = 1.959963984540054;
  function corrected({ share, sensitivity, specificity, n, positives, negatives }) {
    if (sensitivity + specificity <= 1) return null;
    const clip = x => Math.max(0, Math.min(1, x));
    const value = (share + specificity - 1) / (sensitivity + specificity - 1);
    const p = (n * share + Z * Z / 2) / (n + Z * Z);
    const se = (positives * sensitivity + 1) / (positives + 2), sp = (negatives * specificity + 1) / (negatives + 2);
    const youden = se + sp - 1;
    if (youden <= 0) return null;
    const middle = (p + sp - 1) / youden;
    const seVar = se * (1 - se) / (positives + 2), spVar = sp * (1 - sp) / (negatives + 2);
    const shift = 2 * Z * Z * (middle * seVar - (1 - middle) * spVar);
    const half = Z / youden * Math.sqrt(p * (1 - p) / (n + Z * Z) + middle ** 2 * seVar + (1 - middle) ** 2 * spVar);
    const found = { value: clip(value), low: clip(middle + shift - half), high: clip(middle + shift + half), cut: value < 0 || value > 1 };
    return found.low <= found.value && found.value <= found.high && found.low < found.high ? found : null;
  }
  globalThis.cbtPrevalence = corrected;

  function prevalence(widget) {
    const percent = x => `${(100 * x).toFixed(1)}%`;
    const state = Object.fromEntries(Object.entries(widget.dataset).filter(([key]) => key !== "widget").map(([key, value]) => [key, +value]));
    const panel = status();
    const grid = make("div", { className: "sliders" });
    const picture = make("div");
    const scale = x => 40 + 520 * x; // its ends carry labels, and a phone's letters are large
    const draw = (tag, attributes, text) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      if (text) node.textContent = text;
      return node;
    };
    const show = () => {
      const found = corrected(state);
      const svg = draw("svg", { viewBox: "0 -8 600 100", "aria-hidden": "true" });
      svg.append(draw("line", { x1: scale(0), x2: scale(1), y1: 66, y2: 66, stroke: "currentColor" }));
      for (const tick of [0, 0.25, 0.5, 0.75, 1]) svg.append(
        draw("line", { x1: scale(tick), x2: scale(tick), y1: 62, y2: 70, stroke: "currentColor" }),
        draw("text", { x: scale(tick), y: 86, "text-anchor": "middle" }, `${100 * tick}%`));
      svg.append(draw("path", { d: `M${scale(state.share)} 62l-6 -10h12z`, fill: "var(--part-2)", stroke: "currentColor" }));
      if (found) svg.append(
        draw("line", { x1: scale(found.low), x2: scale(found.high), y1: 30, y2: 30, stroke: "var(--part-1)", "stroke-width": 4 }),
        draw("circle", { cx: scale(found.value), cy: 30, r: 7, fill: "var(--part-1)", stroke: "currentColor" }),
        draw("text", { x: Math.min(490, Math.max(110, scale(found.value))), y: 14, "text-anchor": "middle" }, `corrected ${percent(found.value)}`));
      picture.replaceChildren(svg);
      panel.textContent = found
        ? `Reported ${percent(state.share)}, corrected ${percent(found.value)}, 95% interval ${percent(found.low)} to ${percent(found.high)}.`
          + (found.cut ? " The formula left the range from 0 to 1 and was cut: such a report does not fit such a detector." : "")
        : state.sensitivity + state.specificity <= 1
          ? "Undefined: sensitivity plus specificity is not above 1, so the detector tells nothing, and no share can be had from it."
          : "Undefined: such a report does not fit such a detector, or the gold rows are too few to say.";
    };
    const slider = (key, label, min, max, step, said) => {
      const output = make("output", { textContent: said(state[key]) });
      const input = make("input", { type: "range", min, max, step, name: key });
      input.value = state[key];
      input.addEventListener("input", () => { state[key] = +input.value; output.textContent = said(state[key]); show(); });
      grid.append(make("label", {}, label, output, input));
    };
    slider("share", "Reported share", 0, 1, 0.01, percent);
    slider("sensitivity", "Sensitivity", 0, 1, 0.01, percent);
    slider("specificity", "Specificity", 0, 1, 0.01, percent);
    slider("n", "Answers counted", 50, 22350, 50, String);
    slider("positives", "Gold rows with the label", 5, 500, 5, String);
    slider("negatives", "Gold rows without it", 5, 500, 5, String);
    widget.append(make("p", { className: "hint", textContent: "Triangle: what the detector reports. Dot and line: the corrected share and its interval." }),
      grid, picture, panel);
    show();
  }

  const kinds = { parts, tokens, prevalence };
  for (const widget of document.querySelectorAll("[data-widget]")) {
    const fallback = widget.querySelector(".widget-fallback");
    if (!fallback || !(widget.dataset.widget in kinds)) continue;
    const done = kinds[widget.dataset.widget](widget, fallback);
    if (done && done.keep) continue;
    // The table stays one click away: it is what a printer and a screen reader may prefer.
    const details = make("details", { className: "as-table" }, make("summary", { textContent: "The same as a table" }));
    details.append(fallback);
    widget.append(details);
  }

  // Paper has no folds: tables that are folded away are opened to print, code and solutions stay closed.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:is(.below-input, .as-table):not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
})();
