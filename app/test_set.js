// The test set in the browser: every image leaves at the first exit that is sure enough, as the slider moves. This is
// the body of a function of Gradio's (element, trigger, props, watch); nothing here asks the server for anything but
// the events "prepare" and "click".

const root = element.querySelector(".dvt-set");
const GAP = 2; // pixels between two thumbnails
const LEAST = 22; // pixels of the smallest thumbnail: with the gap, none is nearer than 24 to the next
const LEAST_COLUMN = 180; // pixels that an exit's column needs; with less, they stand below each other
const QUIET = 500; // milliseconds without a move before the summary is read out
const MARKS = ["▲", "■", "◆", "▼", "✚", "★"]; // of the models beside, after the numbered exits
const PLOT = { width: 440, height: 216, left: 48, right: 12, top: 12, bottom: 46 };

// Small helpers

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const draw = (tag, attributes = {}, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const floatsOf = (base64) => {
  const view = new DataView(bytesOf(base64).buffer);
  return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
};
const count = (number) => number.toLocaleString("en-US");
// As the page writes them: never 100% or 0% for what is not quite.
const percent = (share) =>
  share >= 0.9995 && share < 1 ? ">99.9%" : share > 0 && share < 0.0005 ? "<0.1%" : `${(share * 100).toFixed(1)}%`;
const gflops = (gmacs) => (gmacs <= 0 ? "0" : gmacs.toFixed(Math.max(0, 2 - Math.floor(Math.log10(gmacs)))));
const thresholdText = (threshold) => (threshold > 1 ? "never early" : threshold.toFixed(2));
const thresholdsText = (thresholds) => {
  const texts = thresholds.map(thresholdText);
  return new Set(texts).size === 1 ? texts[0] : texts.join(", then ");
};
const colour = (k) => `dvt-exit-${(k % 6) + 1}`;

// The library's rule (dvt_tf.exit_rule): out at the first exit whose float32 confidence is at least its float32
// threshold, where a threshold above 1 is never met; the last exit takes the rest. Returns 0-based exits.
const asFloat32 = (thresholds) =>
  thresholds.map((threshold) => (Math.fround(threshold) > 1 ? 2 : Math.fround(threshold)));
const exitOf = (confidences, start, thresholds) => {
  let k = 0;
  while (k < thresholds.length && !(confidences[start + k] >= thresholds[k])) k += 1;
  return k;
};

// The states without a test set

let leave = () => {}; // takes down what is shown
let state = "";
let asked = false;

const ask = () => {
  if (state !== "preparing" || asked) return;
  asked = true;
  trigger("prepare");
};
const inSight = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) ask();
});
inSight.observe(element);

const message = (data) => {
  if (data.state === "preparing") {
    const ghosts = Array.from({ length: 3 }, () => make("div", { class: "dvt-set-ghost" }));
    root.replaceChildren(
      make("div", { class: "dvt-set-preparing", role: "status" }, make("p", {}, "Preparing the test set…")),
      make("div", { class: "dvt-set-ghosts", "aria-hidden": "true" }, ...ghosts),
    );
  } else if (data.state === "empty") {
    const how = make("code", {}, "--data SPEC");
    root.replaceChildren(
      make(
        "section",
        { class: "dvt-message dvt-quiet" },
        `There is no test set for ${data.model} on this page. Start the page with `,
        how,
        " (digits, folder:PATH, shards:PATH or tfds:NAME) to see its test images flow into the exits.",
      ),
    );
  } else {
    const again = make("button", { type: "button", class: "dvt-button" }, "Try again");
    again.addEventListener("click", () => {
      again.disabled = true;
      trigger("prepare");
    });
    const what = make("p", {}, make("b", {}, "The test set could not be shown. "), data.message);
    root.replaceChildren(make("section", { class: "dvt-message dvt-set-failed", role: "alert" }, what, again));
  }
};

// A test set

const show = (data) => {
  const exits = data.gmacs.length;
  const full = data.gmacs[exits - 1];
  const confidences = floatsOf(data.confidences);
  const right = bytesOf(data.right);
  const sprite = URL.createObjectURL(
    new Blob([bytesOf(data.sprite.split(",")[1])], { type: data.sprite.slice(5, data.sprite.indexOf(";")) }),
  );
  const isRight = (image, k) => Boolean((right[image] >> k) & 1);
  const operate = (thresholds) => {
    const leaving = new Array(exits).fill(0);
    const correct = new Array(exits).fill(0);
    for (let image = 0; image < data.images; image += 1) {
      const k = exitOf(confidences, image * exits, thresholds);
      leaving[k] += 1;
      if (isRight(image, k)) correct[k] += 1;
    }
    const spent = leaving.reduce((sum, number, k) => sum + number * data.gmacs[k], 0) / data.images;
    return { leaving, correct, top1: correct.reduce((a, b) => a + b) / data.images, gmacs: spent };
  };

  let thresholds = []; // as they were asked for, K - 1
  let rule = []; // the same as the rule compares them
  let now = null; // what they do
  const ids = `dvt-set-${Math.random().toString(36).slice(2)}`;

  // Slider, numbers and presets

  const reading = make("b", { "data-testid": "set-reading" });
  const origin = make("small");
  const slider = make("input", {
    type: "range",
    id: `${ids}-slider`,
    min: "0",
    max: String(data.slider.end),
    step: String(data.slider.step),
    "data-testid": "set-slider",
  });
  const figure = (name, testid) => {
    const value = make("b", { "data-testid": testid });
    const more = make("span");
    return { value, more, node: make("div", { class: "dvt-set-figure" }, make("small", {}, name), value, more) };
  };
  const accuracy = figure("Top-1 accuracy", "set-top1");
  const cost = figure("Mean cost", "set-gflops");
  const share = figure("Of the full cost", "set-share");
  const bar = make("i");
  share.more.append(bar);
  share.more.className = "dvt-set-meter";
  share.more.setAttribute("aria-hidden", "true");
  accuracy.more.textContent = `last exit alone ${percent(data.alone[exits - 1][1])}`;
  cost.more.textContent = `GFLOPs, of ${gflops(full)}`;
  const buttons = data.presets.map((preset) => {
    const button = make(
      "button",
      { type: "button", title: preset.title, "aria-pressed": "false" },
      make("b", {}, preset.name),
      make("small", {}, preset.detail),
    );
    button.addEventListener("click", () => choose(preset.thresholds));
    return button;
  });
  const head = make(
    "div",
    { class: "dvt-set-head" },
    make(
      "div",
      { class: `dvt-reading${exits > 3 ? " dvt-set-several" : ""}` },
      make("label", { for: `${ids}-slider` }, "Confidence needed to stop early"),
      reading,
      origin,
    ),
    make("div", { class: "dvt-set-figures" }, accuracy.node, cost.node, share.node),
  );
  const panel = make("div", { class: "dvt-panel dvt-set-panel" }, head);
  const presets = make("div", { class: "dvt-set-presets", role: "group", "aria-label": "Calibrated settings" });
  const several = exits > 1;
  if (several) {
    const ends = make("div", { class: "dvt-ends", "aria-hidden": "true" });
    ends.append(make("span", {}, "0: always the first exit"), make("span", {}, "never early"));
    panel.append(make("div", { class: "dvt-set-slide" }, slider, ends));
    presets.append(...buttons);
  } else {
    head.firstChild.replaceChildren(make("span", {}, "One exit:"), make("b", {}, "every image runs the whole model"));
  }

  // The columns and the images in them

  const looks = (k) => {
    if (!several) return "for every image";
    if (k === exits - 1) return "ran everything";
    return k === 0 ? "sure at first glance" : "sure on a closer look";
  };
  const columns = data.gmacs.map((gmacs, k) => {
    const value = make("b", { "data-testid": `set-share-${k + 1}` });
    const rightOnes = make("span", { class: "dvt-set-right" });
    const bin = make("div", { class: "dvt-set-bin" });
    const title = make(
      "div",
      { class: "dvt-set-title" },
      make("h3", {}, `Exit ${k + 1} `, make("small", {}, looks(k))),
      make("p", {}, make("span", {}, `${data.grids[k]}×${data.grids[k]} tokens`), make("span", {}, `${gflops(gmacs)} GFLOPs`)),
    );
    const top = make(
      "div",
      { class: "dvt-set-top" },
      make("span", { class: "dvt-marker", "aria-hidden": "true" }, String(k + 1)),
      title,
      make("div", { class: "dvt-set-leaving" }, value, rightOnes),
    );
    const meter = make("i");
    const node = make(
      "section",
      { class: `dvt-set-column ${colour(k)}`, "aria-label": `Exit ${k + 1}` },
      top,
      make("div", { class: "dvt-set-meter", "aria-hidden": "true" }, meter),
      bin,
    );
    return { node, value, rightOnes, meter, bin };
  });
  const wrongMark = () => make("i", { class: "dvt-set-wrong", "aria-hidden": "true" });
  const spriteRows = Math.ceil(data.shown.length / data.spriteColumns);
  const placeInSprite = (g, side) => {
    const x = (g % data.spriteColumns) * side;
    return `-${x}px -${Math.floor(g / data.spriteColumns) * side}px`;
  };
  const thumbs = data.shown.map((image, g) => {
    const node = make("button", { type: "button", class: "dvt-set-thumb", tabindex: "-1", "data-index": String(image) });
    node.style.backgroundPosition = placeInSprite(g, data.side);
    node.append(wrongMark());
    return { node, image, g, exit: -1 };
  });
  const layer = make("div", {
    class: "dvt-set-thumbs",
    role: "group",
    "data-testid": "set-gallery",
  });
  layer.append(...thumbs.map((thumb) => thumb.node));
  const tip = make("div", { class: "dvt-set-tip", "aria-hidden": "true" });
  const gallery = make("div", { class: "dvt-set-gallery" }, ...columns.map((column) => column.node), layer, tip);
  gallery.style.setProperty("--sprite", `url("${sprite}")`);
  gallery.style.setProperty("--side", `${data.side}px`);
  const key = make("p", { class: "dvt-small dvt-set-key" });
  const keyCount = make("span");
  key.append(keyCount, wrongMark(), make("span", {}, "answered wrongly."));
  const live = make("p", { class: "dvt-set-live", "aria-live": "polite", "data-testid": "set-summary" });

  const said = (thumb) => {
    const [label, ...answers] = data.told[thumb.g].map((place) => data.names[place]);
    return { label, answers };
  };
  const inWords = (thumb) => {
    const { label, answers } = said(thumb);
    const start = thumb.image * exits;
    const parts = answers.map(
      (answer, k) => `exit ${k + 1} says ${answer}, ${percent(confidences[start + k])} confident`,
    );
    const verdict = isRight(thumb.image, thumb.exit) ? "right" : "wrong";
    return `Test image ${thumb.image}, truly ${label}. Leaves at exit ${thumb.exit + 1}, ${verdict}. ${parts.join("; ")}`;
  };

  let visible = []; // the thumbnails that there is room for
  let bins = []; // for every exit, its visible thumbnails in the order in which they stand
  let perRow = 1; // thumbnails a row
  let focusable = null;

  const placeAll = () => {
    const most = Math.max(...bins.map((bin) => bin.length));
    const width = columns[0].bin.clientWidth;
    const height = columns[0].bin.clientHeight;
    // As few a row as let the fullest exit fit: the largest size, the same for all exits, that fills the width.
    const densest = Math.max(1, Math.floor((width + GAP) / (LEAST + GAP)));
    const sizeOf = (number) => (number === densest ? LEAST : Math.min(data.side, (width + GAP) / number - GAP));
    const fits = (number) => number * Math.floor((height + GAP) / (sizeOf(number) + GAP)) >= most;
    perRow = Math.min(densest, Math.ceil((width + GAP) / (data.side + GAP)));
    while (perRow < densest && !fits(perRow)) perRow += 1;
    const size = sizeOf(perRow);
    const origin = layer.getBoundingClientRect();
    bins.forEach((bin, k) => {
      const box = columns[k].bin.getBoundingClientRect();
      bin.forEach((thumb, at) => {
        const x = box.left - origin.left + (at % perRow) * (size + GAP);
        const y = box.top - origin.top + Math.floor(at / perRow) * (size + GAP);
        thumb.x = x;
        thumb.y = y;
        thumb.size = size;
        thumb.node.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) scale(${size / data.side})`;
      });
    });
  };

  const sort = () => {
    bins = data.gmacs.map(() => []);
    for (const thumb of visible) {
      const k = exitOf(confidences, thumb.image * exits, rule);
      bins[k].push(thumb);
      if (thumb.exit === k) continue;
      thumb.exit = k;
      thumb.node.dataset.exit = String(k + 1);
      thumb.node.classList.toggle("dvt-set-is-wrong", !isRight(thumb.image, k));
      thumb.node.setAttribute("aria-label", inWords(thumb));
    }
    const sure = (thumb, k) => confidences[thumb.image * exits + k];
    bins.forEach((bin, k) => bin.sort((a, b) => sure(b, k) - sure(a, k) || a.g - b.g));
    placeAll();
    if (!visible.includes(focusable)) makeFocusable(bins.flat()[0]);
  };

  // How many exits stand beside each other, and for how many images there is room even if all stop at one of them.
  const measure = () => {
    const width = gallery.clientWidth;
    if (!width) return false;
    const most = Math.max(1, Math.min(exits, Math.floor(width / LEAST_COLUMN)));
    let beside = Math.ceil(exits / Math.ceil(exits / most));
    if (beside === 2 && exits % 2) beside = 1; // two and one under them would be harder to follow
    gallery.style.setProperty("--columns", String(beside));
    gallery.dataset.rows = String(Math.min(Math.ceil(exits / beside), 3));
    gallery.classList.toggle("dvt-set-narrow", columns[0].node.clientWidth < 310);
    gallery.classList.toggle("dvt-set-slim", columns[0].node.clientWidth < 240);
    const least = LEAST + GAP;
    const bin = columns[0].bin;
    const room = Math.floor((bin.clientWidth + GAP) / least) * Math.floor((bin.clientHeight + GAP) / least);
    const number = Math.max(1, Math.min(thumbs.length, room));
    const chosen = new Set(Array.from({ length: number }, (_, i) => Math.floor(((i + 0.5) * thumbs.length) / number)));
    visible = thumbs.filter((thumb) => chosen.has(thumb.g));
    thumbs.forEach((thumb) => (thumb.node.hidden = !chosen.has(thumb.g)));
    const part = number < data.images ? `${count(number)} of the ${count(data.images)} images` : `${count(number)} images`;
    layer.setAttribute("aria-label", `${part}, the surest of each exit first; arrow keys move among them`);
    keyCount.textContent =
      `Shown: ${part} of ${data.where}; in every exit the surest first. The numbers are of ` +
      `${number < data.images ? `all ${count(data.images)}` : "them all"}. Click an image to follow it through the exits. `;
    return true;
  };

  const makeFocusable = (thumb) => {
    if (focusable) focusable.node.tabIndex = -1;
    focusable = thumb ?? null;
    if (focusable) focusable.node.tabIndex = 0;
  };

  // The plot

  const everything = [...data.alone, ...data.curve, ...data.beside.flatMap((model) => model.points)];
  const accuracies = everything.map((point) => point[1]);
  const tickStep = (range, wanted) => {
    const power = 10 ** Math.floor(Math.log10(range / wanted));
    return [1, 2, 5, 10].map((n) => n * power).find((step) => range / step <= wanted);
  };
  const low = Math.min(...accuracies);
  const high = Math.max(...accuracies);
  const stepY = tickStep(Math.max(high - low, 0.02) * 1.2, 6);
  const bottom = Math.max(0, Math.floor((low - stepY * 0.12) / stepY) * stepY);
  const ceiling = Math.min(1 + stepY * 0.1, high + Math.max(stepY * 0.25, (high - low) * 0.1));
  const widest = Math.max(...everything.map((point) => point[0])) * 1.06;
  const stepX = tickStep(widest, 6);
  const px = (gmacs) => PLOT.left + (gmacs / widest) * (PLOT.width - PLOT.left - PLOT.right);
  const py = (top1) =>
    PLOT.height - PLOT.bottom - ((top1 - bottom) / (ceiling - bottom)) * (PLOT.height - PLOT.top - PLOT.bottom);
  const steps = (from, to, step) =>
    Array.from({ length: Math.floor((to - from) / step + 1e-9) + 1 }, (_, i) => from + i * step);
  const places = (step) => Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const plot = draw("svg", {
    viewBox: `0 0 ${PLOT.width} ${PLOT.height}`,
    role: "img",
    class: "dvt-set-plot",
    "aria-label": "Accuracy against mean cost; the same stands in the table beside it",
  });
  for (const y of steps(bottom, ceiling, stepY)) {
    plot.append(
      draw("line", { x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: py(y), y2: py(y), class: "dvt-set-line" }),
      draw("text", { x: PLOT.left - 7, y: py(y) + 4, "text-anchor": "end" }, `${(y * 100).toFixed(places(stepY * 100))}%`),
    );
  }
  for (const x of steps(0, widest, stepX)) {
    plot.append(
      draw("text", { x: px(x), y: PLOT.height - PLOT.bottom + 19, "text-anchor": "middle" }, x.toFixed(places(stepX))),
    );
  }
  plot.append(
    draw("text", { x: (px(0) + px(widest)) / 2, y: PLOT.height - 4, "text-anchor": "middle" }, "mean GFLOPs an image"),
  );
  const line = (points) => points.map((point) => `${px(point[0]).toFixed(1)},${py(point[1]).toFixed(1)}`).join(" ");
  if (data.curve.length) plot.append(draw("polyline", { points: line(data.curve), class: "dvt-set-curve" }));
  const cross = draw("path", { class: "dvt-set-cross" });
  plot.append(cross);
  data.beside.forEach((model, m) => {
    for (const [gmacs, top1] of model.points) {
      plot.append(
        draw(
          "text",
          { x: px(gmacs), y: py(top1) + 5, "text-anchor": "middle", class: "dvt-set-mark" },
          MARKS[m % MARKS.length],
          draw("title", {}, `${model.name}: ${percent(top1)} at ${gflops(gmacs)} GFLOPs`),
        ),
      );
    }
  });
  data.alone.forEach(([gmacs, top1], k) => {
    plot.append(
      draw(
        "g",
        { class: colour(k), transform: `translate(${px(gmacs)} ${py(top1)})` },
        draw("circle", { r: 8.5, class: "dvt-set-alone" }),
        draw("text", { y: 4, "text-anchor": "middle", class: "dvt-set-number" }, String(k + 1)),
        draw("title", {}, `Exit ${k + 1} for every image: ${percent(top1)} at ${gflops(gmacs)} GFLOPs`),
      ),
    );
  });
  const dot = draw("g", { class: "dvt-set-dot", "data-testid": "set-point" });
  dot.append(draw("circle", { r: 9, class: "dvt-set-halo" }), draw("circle", { r: 5.5 }));
  plot.append(dot);
  const legend = make("ul", { class: "dvt-set-legend" });
  const entry = (sign, words) => legend.append(make("li", {}, sign, words));
  entry(make("i", { class: "dvt-set-sign-dot" }), several ? "now" : "this model");
  if (several) {
    if (data.curve.length) entry(make("i", { class: "dvt-set-sign-curve" }), "best for each budget");
    entry(make("b", { class: "dvt-set-sign-alone" }, "1"), "one exit for all");
  }
  data.beside.forEach((model, m) => entry(make("span", {}, MARKS[m % MARKS.length]), model.name));
  const cells = (tag, texts) => make("tr", {}, ...texts.map((text) => make(tag, tag === "th" ? { scope: "col" } : {}, text)));
  const rows = [
    ...data.alone.map(([gmacs, top1], k) => [`Exit ${k + 1} for every image`, gflops(gmacs), percent(top1)]),
    ...data.beside.flatMap((model) => model.points.map(([gmacs, top1]) => [model.name, gflops(gmacs), percent(top1)])),
    ...data.curve.map(([gmacs, top1, values]) => [
      `Thresholds ${thresholdsText(values)}`,
      gflops(gmacs),
      percent(top1),
    ]),
  ];
  const tableNow = make("tr");
  const table = make(
    "details",
    { class: "dvt-set-table" },
    make("summary", {}, "As a table"),
    make(
      "div",
      { tabindex: "0", role: "region", "aria-label": "Accuracy against mean cost" },
      make(
        "table",
        {},
        make("thead", {}, cells("th", ["Setting", "Mean GFLOPs", "Top-1"])),
        make("tbody", {}, tableNow, ...rows.map((texts) => cells("td", texts))),
      ),
    ),
  );
  const chart = make(
    "figure",
    { class: "dvt-panel dvt-set-chart" },
    make("figcaption", {}, "Accuracy against mean cost"),
    table,
    plot,
    legend,
  );

  // What a change of the thresholds changes

  let reader = 0;
  const update = () => {
    rule = asFloat32(thresholds);
    now = operate(rule);
    const equal = (preset) => asFloat32(preset.thresholds).every((value, k) => value === rule[k]);
    const pressed = data.presets.findIndex(equal);
    if (several) {
      reading.textContent = thresholdsText(thresholds);
      origin.textContent = pressed < 0 ? "set here" : `${data.presets[pressed].name.replace(/^The/, "the")}`;
      slider.setAttribute("aria-valuetext", thresholdsText(thresholds));
      slider.style.setProperty("--at", Number(slider.value) / data.slider.end);
    }
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === pressed)));
    accuracy.value.textContent = percent(now.top1);
    cost.value.textContent = gflops(now.gmacs);
    share.value.textContent = `${((now.gmacs / full) * 100).toFixed(0)}%`;
    bar.style.width = `${(now.gmacs / full) * 100}%`;
    columns.forEach((column, k) => {
      const leaving = now.leaving[k];
      column.value.textContent = percent(leaving / data.images);
      column.rightOnes.textContent = leaving ? `${percent(now.correct[k] / leaving)} right` : "no image";
      column.meter.style.width = `${(leaving / data.images) * 100}%`;
    });
    const [x, y] = [px(now.gmacs), py(now.top1)];
    dot.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    cross.setAttribute("d", `M${PLOT.left} ${y.toFixed(1)}H${x.toFixed(1)}V${PLOT.height - PLOT.bottom}`);
    const stands = several ? `Now: ${thresholdsText(thresholds)}` : "This model";
    tableNow.replaceChildren(...[stands, gflops(now.gmacs), percent(now.top1)].map((text) => make("td", {}, text)));
    if (visible.length) sort();
    hideTip();
    clearTimeout(reader);
    reader = setTimeout(() => (live.textContent = inSummary()), QUIET);
  };
  const inSummary = () => {
    const where = now.leaving.map((number, k) => `${percent(number / data.images)} leave at exit ${k + 1}`);
    return (
      `${several ? `Confidence needed: ${thresholdsText(thresholds)}. ` : ""}Of ${count(data.images)} images ` +
      `${where.join(", ")}. Top-1 accuracy ${percent(now.top1)}, mean cost ${gflops(now.gmacs)} GFLOPs, ` +
      `${((now.gmacs / full) * 100).toFixed(0)}% of the full cost.`
    );
  };
  const choose = (values) => {
    thresholds = values;
    if (values.length) slider.value = String(values[0] > 1 ? data.slider.end : values[0]);
    update();
  };
  slider.addEventListener("input", () => {
    const value = Number(slider.value);
    thresholds = new Array(exits - 1).fill(value > 1 ? 2 : value);
    update();
  });

  // Pointing at an image, and keys among them

  const showTip = (thumb) => {
    const { label, answers } = said(thumb);
    const picture = make("div", { class: "dvt-set-picture" });
    picture.style.backgroundPosition = placeInSprite(thumb.g, 2 * data.side);
    picture.style.backgroundSize = `${2 * data.side * data.spriteColumns}px ${2 * data.side * spriteRows}px`;
    const list = make("ol");
    answers.forEach((answer, k) => {
      const sure = percent(confidences[thumb.image * exits + k]);
      const needed = k < exits - 1 && k <= thumb.exit ? `, needs ${rule[k] > 1 ? "more than can be" : percent(rule[k])}` : "";
      const word = isRight(thumb.image, k) ? "✓" : "✕";
      const how = k > thumb.exit ? "never run" : `${answer} ${word} ${sure}${needed}`;
      const state = k < thumb.exit ? "passed" : k > thumb.exit ? "skipped" : "fired";
      list.append(
        make("li", { class: `${colour(k)} dvt-set-${state}` }, make("span", { class: "dvt-set-step" }, String(k + 1)), how),
      );
    });
    tip.replaceChildren(picture, make("div", {}, make("p", {}, "truly ", make("b", {}, label)), list));
    tip.classList.add("dvt-set-tip-on");
    const box = { width: tip.offsetWidth, height: tip.offsetHeight };
    const left = Math.min(Math.max(0, thumb.x + thumb.size / 2 - box.width / 2), gallery.clientWidth - box.width);
    const above = thumb.y - box.height - 8;
    tip.style.transform = `translate(${left}px, ${above > -40 ? above : thumb.y + thumb.size + 8}px)`;
  };
  const hideTip = () => tip.classList.remove("dvt-set-tip-on");
  const thumbOf = (event) => {
    const node = event.target.closest(".dvt-set-thumb");
    return node ? thumbs.find((thumb) => thumb.node === node) : undefined;
  };
  layer.addEventListener("pointerover", (event) => {
    const thumb = thumbOf(event);
    if (thumb && event.pointerType === "mouse") showTip(thumb);
  });
  layer.addEventListener("pointerleave", hideTip);
  layer.addEventListener("focusin", (event) => {
    const thumb = thumbOf(event);
    if (!thumb) return;
    makeFocusable(thumb);
    if (thumb.node.matches(":focus-visible")) showTip(thumb);
  });
  layer.addEventListener("focusout", hideTip);
  layer.addEventListener("click", (event) => {
    const thumb = thumbOf(event);
    if (thumb) trigger("click", { index: thumb.image, thresholds: [...thresholds] });
  });
  layer.addEventListener("keydown", (event) => {
    const thumb = thumbOf(event);
    if (!thumb) return;
    if (event.key === "Escape") hideTip();
    const order = bins.flat();
    const at = order.indexOf(thumb);
    const bin = bins[thumb.exit];
    const inBin = bin.indexOf(thumb);
    const below = (step) => {
      if (bin[inBin + step]) return bin[inBin + step];
      const others = step > 0 ? bins.slice(thumb.exit + 1) : bins.slice(0, thumb.exit).reverse();
      const next = others.find((other) => other.length);
      if (!next) return thumb;
      return step > 0 ? next[Math.min(inBin % perRow, next.length - 1)] : next[next.length - 1];
    };
    const targets = {
      ArrowRight: () => order[at + 1],
      ArrowLeft: () => order[at - 1],
      ArrowDown: () => below(perRow),
      ArrowUp: () => below(-perRow),
      Home: () => order[0],
      End: () => order[order.length - 1],
    };
    if (!targets[event.key]) return;
    event.preventDefault();
    targets[event.key]()?.node.focus();
  });

  const intro = make("p", { class: "dvt-set-intro" });
  intro.append(
    several ? "Every test image stops at the first exit that is sure enough. " : "",
    make("b", {}, several ? "Move the slider: easy images stop early, hard ones go on." : "All test images."),
  );
  root.replaceChildren(make("div", { class: "dvt-set-layout" }, intro, panel, presets, gallery, key, chart, live));
  const resized = new ResizeObserver(() => {
    if (!root.isConnected || !measure()) return;
    gallery.classList.add("dvt-set-still"); // a new size is no move
    sort();
    gallery.getBoundingClientRect();
    requestAnimationFrame(() => gallery.classList.remove("dvt-set-still"));
  });
  resized.observe(gallery);
  choose(data.presets.length ? data.presets[0].thresholds : new Array(exits - 1).fill(2));
  return () => {
    resized.disconnect();
    clearTimeout(reader);
    URL.revokeObjectURL(sprite);
  };
};

const render = () => {
  const data = JSON.parse(props.value || '{"state": "preparing"}');
  leave();
  leave = () => {};
  state = data.state;
  asked = false;
  root.dataset.state = state;
  if (state === "ready") leave = show(data);
  else message(data);
  if (state === "preparing") {
    inSight.unobserve(element); // so that it is told at once whether this is in sight
    inSight.observe(element);
  }
};

watch("value", render);
render();
