"use strict";
// Draws the figures of a report from its numbers, with Observable Plot (Plot) and D3 (d3).

const view = JSON.parse(document.getElementById("numbers").textContent);
const element = (id) => document.getElementById(id);
const state = { plan: 0, op: "", sorted: false, map: 0, clustered: true };

// ---- the numbers -----------------------------------------------------------------------------------------------

const optionOf = new Map(view.options.map((option) => [option.name, option]));
const plans = view.plans.map((plan, index) => ({ ...plan, index }));
// A file without a measured loss, and a front without a file, are shown all the same.
if (view.chosen.length && !plans.some((plan) => plan.kind === "chosen"))
  plans.push({ name: "the file", kind: "file", file_bytes: view.summary.file_bytes, size_is_exact: true, loss: null,
               options: view.chosen, index: plans.length });
state.plan = Math.max(0, plans.findIndex((plan) => plan.kind === "chosen" || plan.kind === "file"));
const measured = plans.filter((plan) => plan.loss);
const aloneOf = d3.group(view.alone, (one) => one.unit);
const guesses = [...view.alone.map((one) => ({ name: `${one.unit} at ${one.option}`, kind: "alone",
  predicted: one.predicted, measured: one.loss })), ...view.guesses];
const placeOf = new Map(view.units.map((unit, place) => [unit.name, place]));

const bits = (name) => {
  const option = optionOf.get(name);
  return option ? option.weight_bits || option.activation_bits : 0;
};
const taken = (place) => plans[state.plan]?.options[place] ?? "float";
const storedBytes = (unit, option) => unit.costs.find((cost) => cost.option === option)?.stored_bytes ?? 0;
const shownUnits = () => view.units
  .map((unit, place) => ({ ...unit, place }))
  .filter((unit) => !state.op || unit.op === state.op);

// ---- text ------------------------------------------------------------------------------------------------------

const figure = (value) => value === 0 ? "0" : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5
  ? d3.format(".3~e")(value) : d3.format(".4~r")(value);
const spread = ({ value, error }) => `${figure(value)} ± ${d3.format(error && error < 1e-3 ? ".1~e" : ".2~g")(error)}`;
const bytes = (count) => {
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (count >= factor) return `${d3.format(".4~r")(count / factor)} ${unit}`;
  return `${count} B`;
};
const share = (count) => view.summary.float_file_bytes
  ? ` (${d3.format(".1%")(count / view.summary.float_file_bytes)} of float)` : "";
const planText = (plan) => [
  plan.name,
  `${plan.size_is_exact ? "" : "about "}${bytes(plan.file_bytes)}${share(plan.file_bytes)}`,
  plan.loss ? `loss ${spread(plan.loss)}` : "",
  plan.predicted == null ? "" : `predicted ${figure(plan.predicted)}`,
  plan.gap == null ? "" : `gap of the proof ${d3.format(".2~%")(plan.gap)}`,
].filter(Boolean).join("\n");
const short = (name, most = 26) => name.length <= most ? name
  : `${name.slice(0, Math.ceil(most / 2) - 1)}…${name.slice(-Math.floor(most / 2))}`;

// ---- colours and scales ------------------------------------------------------------------------------------------

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const ramp = d3.piecewise(d3.interpolateRgb, ["#3b6fb6", "#2a9d8f", "#dcb23c", "#e07b39", "#c23b5a"]);
// Options of as many bits share a hue: each further one is paler.
const optionColor = new Map();
const alike = new Map();
for (const option of d3.sort(view.options, (option) => !option.activation_bits)) {
  const width = option.weight_bits || option.activation_bits;
  const hue = !width ? "#8b939c" : option.weight_bits ? ramp(Math.min(1, Math.max(0, (8 - width) / 6))) : "#8a63c9";
  const before = alike.get(hue) ?? 0;
  alike.set(hue, before + 1);
  optionColor.set(option.name, d3.interpolateRgb(hue, "#f4f4f4")((0.8 * before) / (before + 1.5)));
}
const optionScale = (names) => {
  const domain = view.options.map((option) => option.name).filter((name) => names.has(name));
  return { domain, range: domain.map((name) => optionColor.get(name)), legend: true };
};
// Lines at powers of ten only where there are several, and no more than fit.
const power = (value) => d3.format(value < 1e-3 || value >= 1e5 ? "~e" : "~g")(value);
const logScale = (values, room = 8) => {
  const [first, last] = d3.extent(values, Math.log10);
  const powers = d3.range(Math.floor(first), Math.ceil(last) + 1);
  const step = Math.ceil(powers.length / room);
  const scale = { type: "log", grid: true, nice: true };
  return powers.length < 3 ? { ...scale, tickFormat: "~g" }
    : { ...scale, tickFormat: power, ticks: powers.filter((_, index) => index % step === 0).map((at) => 10 ** at) };
};
const lossScale = (values) => {
  const positive = values.filter((value) => value > 0);
  return positive.length === values.length ? logScale(values)
    : { type: "symlog", constant: d3.min(positive) ?? 1, tickFormat: "~g", grid: true };
};
// On a logarithmic axis a bar that reaches 0 ends a decade below its point.
const low = ({ value, error }) => value > 0 ? Math.max(value - error, value / 10) : value - error;
const TIP = { lineHeight: 1.3 };
const KINDS = [["chosen", "star", "the plan in the file"], ["searched", "circle", "searched"],
               ["uniform", "square", "uniform"], ["other", "triangle", "other"]];

// ---- figures -----------------------------------------------------------------------------------------------------

function drawFront(width) {
  const kinds = KINDS.filter(([kind]) => measured.some((plan) => plan.kind === kind));
  const named = new Map(kinds.map(([kind, , name]) => [kind, name]));
  const kindOf = (plan) => named.get(plan.kind);
  const picked = measured.filter((plan) => plan.index === state.plan);
  const shown = { x: "file_bytes", y: (plan) => plan.loss.value };
  const file = view.summary.file_bytes;
  const plot = Plot.plot({
    width, height: 340, marginLeft: 58, marginRight: 24, ariaLabel: "Loss over file size of every plan measured",
    x: { label: "file size", tickFormat: bytes, grid: true, nice: true, ticks: Math.max(3, width / 140) },
    y: { label: "loss", ...lossScale(measured.map((plan) => plan.loss.value)) },
    symbol: { domain: kinds.map(([, , name]) => name), range: kinds.map(([, symbol]) => symbol), legend: true },
    color: { domain: kinds.map(([, , name]) => name), range: kinds.map(([kind]) => `var(--${kind})`) },
    marks: [
      file == null ? null : Plot.ruleX([file], { stroke: "var(--chosen)", strokeDasharray: "3,4", strokeOpacity: 0.6 }),
      Plot.line(measured.filter((plan) => plan.kind === "searched" || plan.kind === "chosen"),
        { ...shown, sort: "file_bytes", stroke: "var(--searched)", strokeOpacity: 0.35 }),
      Plot.ruleX(measured, { x: "file_bytes", y1: (plan) => low(plan.loss), y2: (plan) => plan.loss.value + plan.loss.error,
        stroke: kindOf, strokeWidth: 1.5 }),
      Plot.dot(picked, { ...shown, r: 11, stroke: "currentColor", strokeWidth: 1.5 }),
      Plot.dot(measured, { ...shown, symbol: kindOf, fill: kindOf, r: 5.5, className: "plan", sort: null }),
      Plot.tip(measured, Plot.pointer({ ...shown, title: planText, ...TIP })),
    ],
  });
  for (const mark of plot.querySelectorAll(".plan > *")) {
    const plan = measured[mark.__data__];
    mark.setAttribute("role", "button");
    mark.setAttribute("tabindex", "0");
    mark.setAttribute("aria-label", planText(plan));
    mark.dataset.plan = plan.index;
    mark.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") pick(plan.index); });
  }
  plot.addEventListener("click", () => { if (plot.value) pick(plot.value.index); });
  return plot;
}

// About how many pixels the longest of some names takes beside an axis.
const nameWidth = (names) => 10 + 6.3 * d3.max(names, (name) => short(name).length);

// The axis along units: their names where there is room, else their numbers.
function unitAxis(units, width) {
  const room = units.length <= 40 && (width - 78) / units.length >= 13;
  return {
    scale: { domain: [0, units.length], label: null, axis: null },
    marginBottom: room ? 16 + 0.87 * nameWidth(units.map((unit) => unit.name)) : 34,
    mark: room
      ? Plot.axisX(d3.range(units.length).map((place) => place + 0.5),
          { tickFormat: (place) => short(units[Math.floor(place)].name), tickRotate: -60, tickSize: 3, tickPadding: 4 })
      : Plot.axisX({ tickFormat: (place) => units[place] ? String(units[place].place + 1) : "", ticks: width / 80,
          label: "unit, in the order of the graph" }),
  };
}

// Many units scroll sideways on a narrow screen rather than vanish.
const unitWidth = (width, units) => Math.max(width, Math.min(units.length * 3, 6000));

function drawBits(width) {
  const units = shownUnits().map((unit, at) => ({ ...unit, at, option: taken(unit.place) }));
  const top = Math.max(8, ...units.map((unit) => bits(unit.option)));
  const height = (unit) => bits(unit.option) || top * 1.12;
  const across = { x1: "at", x2: (unit) => unit.at + 1, insetLeft: 0.5, insetRight: units.length > 120 ? 0 : 0.5 };
  const wide = unitWidth(width, units);
  const axis = unitAxis(units, wide);
  const told = (unit) => [`${unit.place + 1}  ${unit.name}`, unit.op,
    unit.costs.length ? `${unit.option}: ${bytes(storedBytes(unit, unit.option))}, ` +
      `${bytes(storedBytes(unit, "float"))} in float` : unit.option].filter(Boolean).join("\n");
  const color = optionScale(new Set(units.map((unit) => unit.option)));
  const common = { width: wide, marginLeft: 58, marginRight: 20, color, x: axis.scale };
  const nodes = [Plot.plot({
    ...common, height: 190, marginBottom: 8, ariaLabel: "Bits of every unit",
    y: { label: "bits of weights", domain: [0, top * 1.12], grid: true, ticks: d3.range(0, top + 1, top > 8 ? 4 : 2),
         tickFormat: "d" },
    marks: [
      Plot.rectY(units, { ...across, y: height, fill: "option", className: "unit" }),
      Plot.ruleY([0]),
      Plot.tip(units, Plot.pointerX({ x: (unit) => unit.at + 0.5, y: height, title: told, ...TIP })),
    ],
  })];
  if (units.some((unit) => unit.costs.length)) nodes.push(Plot.plot({
    ...common, color: { ...color, legend: false }, height: 150 + axis.marginBottom, marginBottom: axis.marginBottom,
    ariaLabel: "Bytes of every unit, and in float",
    y: { label: "bytes stored (behind: in float)", tickFormat: bytes, grid: true, ticks: 4 },
    marks: [
      Plot.rectY(units, { ...across, y: (unit) => storedBytes(unit, "float"), fill: "var(--pale)" }),
      Plot.rectY(units, { ...across, y: (unit) => storedBytes(unit, unit.option), fill: "option", className: "unit" }),
      Plot.ruleY([0]), axis.mark,
      Plot.tip(units, Plot.pointerX({ x: (unit) => unit.at + 0.5, y: (unit) => storedBytes(unit, unit.option), title: told, ...TIP })),
    ],
  }));
  return nodes;
}

function drawAlone(width) {
  let units = shownUnits().filter((unit) => aloneOf.has(unit.name));
  const worst = (unit) => d3.max(aloneOf.get(unit.name), (one) => one.loss.value);
  if (state.sorted) units = d3.sort(units, (unit) => -worst(unit));
  const at = new Map(units.map((unit, number) => [unit.name, number + 0.5]));
  const shown = view.alone.filter((one) => at.has(one.unit));
  const wide = unitWidth(width, units);
  const axis = unitAxis(units, wide);
  const position = { x: (one) => at.get(one.unit), stroke: "option" };
  const told = (one) => `${placeOf.get(one.unit) + 1}  ${one.unit}\n${one.option} alone: loss ${spread(one.loss)}\n` +
    `predicted ${figure(one.predicted)}\nerror of its own output ${figure(one.local)}\n` +
    `signal to noise ${typeof one.sqnr_db === "number" ? `${d3.format(".1f")(one.sqnr_db)} dB` : one.sqnr_db}`;
  return Plot.plot({
    width: wide, height: 260 + axis.marginBottom, marginBottom: axis.marginBottom, marginLeft: 58, marginRight: 20,
    ariaLabel: "Loss of every unit alone at every option",
    x: axis.scale, color: optionScale(new Set(shown.map((one) => one.option))),
    y: { label: "loss with this unit alone", ...lossScale(shown.map((one) => one.loss.value)) },
    marks: [
      axis.mark,
      Plot.ruleX(shown, { ...position, y1: (one) => low(one.loss), y2: (one) => one.loss.value + one.loss.error }),
      Plot.dot(shown, { x: position.x, y: (one) => one.loss.value, fill: "option",
        r: units.length > 120 ? 2 : 3.5, className: "alone" }),
      Plot.tip(shown, Plot.pointer({ x: position.x, y: (one) => one.loss.value, title: told, ...TIP })),
    ],
  });
}

// The correlation of rows a and b of a map, whose upper triangle is stored.
function correlation(map, a, b) {
  if (a === b) return 1;
  const [first, second] = a < b ? [a, b] : [b, a];
  return map.thousandths[first * map.units.length - (first * (first + 1)) / 2 + second - first - 1] / 1000;
}

function drawMap(width) {
  const map = view.maps[state.map];
  const allowed = new Set(shownUnits().map((unit) => unit.name));
  const order = (state.clustered ? map.clustered : d3.range(map.units.length)).filter((row) => allowed.has(map.units[row]));
  const count = order.length;
  const values = new Float64Array(count * count);
  for (let row = 0; row < count; row++)
    for (let column = 0; column < count; column++) values[row * count + column] = correlation(map, order[row], order[column]);
  const names = count > 0 && count <= 40 && width >= 560;
  const room = names ? nameWidth(order.map((row) => map.units[row])) : 40;
  const side = Math.min(width - room - 20, 640);
  const plot = Plot.plot({
    width: side + room + 20, height: side + room + 8, ariaLabel: "Correlation of the responses of units",
    marginLeft: room, marginRight: 20, marginTop: 8, marginBottom: room,
    x: { domain: [0, count], axis: null }, y: { domain: [count, 0], axis: null },
    color: { type: "linear", domain: [-1, 0, 1], range: ["#2f6fc4", css("--middle"), "#cc3d3d"], legend: true,
             label: "correlation of responses", width: Math.min(260, width - 20), marginLeft: 14, marginRight: 14 },
    marks: [
      Plot.raster(values, { width: count, height: count, x1: 0, y1: 0, x2: count, y2: count, imageRendering: "pixelated", className: "cells" }),
      names ? [
        Plot.axisX(d3.range(count).map((at) => at + 0.5), { tickRotate: -60, tickSize: 0, label: null,
          tickFormat: (at) => short(map.units[order[Math.floor(at)]]) }),
        Plot.axisY(d3.range(count).map((at) => at + 0.5), { tickSize: 0, label: null,
          tickFormat: (at) => short(map.units[order[Math.floor(at)]]) }),
      ] : null,
      Plot.frame({ strokeOpacity: 0.2 }),
    ],
  });
  const image = plot.querySelector(".cells").ownerSVGElement;
  const read = (event) => {
    const [x, y] = d3.pointer(event, image);
    const column = Math.floor(plot.scale("x").invert(x)), row = Math.floor(plot.scale("y").invert(y));
    if (row < 0 || column < 0 || row >= count || column >= count) return;
    const [a, b] = [order[row], order[column]];
    element("map-cell").textContent = `${map.units[a]} at ${map.options[a]}, ${map.units[b]} at ${map.options[b]}: ` +
      d3.format("+.3f")(correlation(map, a, b));
  };
  image.addEventListener("pointermove", read);
  image.addEventListener("pointerdown", read);
  return plot;
}

function drawGuesses(width) {
  const shown = guesses.filter((guess) => guess.predicted > 0 && guess.measured.value > 0);
  const ends = d3.extent(shown.flatMap((guess) => [guess.predicted, guess.measured.value]));
  const colors = { alone: "var(--quiet)", pair: "var(--other)", plan: "var(--chosen)" };
  const told = { alone: "a unit alone", pair: "a pair", plan: "a whole plan" };
  const kinds = Object.keys(colors).filter((kind) => shown.some((guess) => guess.kind === kind));
  const place = { x: "predicted", y: (guess) => guess.measured.value };
  const side = Math.min(width, 640);
  return Plot.plot({
    width: side, height: Math.min(side, 440), marginLeft: 58, marginRight: 24, marginBottom: 36,
    ariaLabel: "Measured over predicted loss",
    x: { label: "predicted loss", domain: ends, ...logScale(ends, side / 60) },
    y: { label: "measured loss", domain: ends, ...logScale(ends) },
    color: { domain: kinds.map((kind) => told[kind]), range: kinds.map((kind) => colors[kind]), legend: true },
    marks: [
      Plot.line([[ends[0], ends[0]], [ends[1], ends[1]]], { stroke: "currentColor", strokeOpacity: 0.4, strokeDasharray: "4,4" }),
      Plot.ruleX(shown, { x: "predicted", y1: (guess) => Math.max(low(guess.measured), ends[0]),
        y2: (guess) => guess.measured.value + guess.measured.error, stroke: (guess) => told[guess.kind],
        strokeOpacity: 0.5, clip: true }),
      Plot.dot(shown, { ...place, fill: (guess) => told[guess.kind], r: (guess) => guess.kind === "plan" ? 4.5 : 2.2,
        fillOpacity: (guess) => guess.kind === "plan" ? 1 : 0.7, className: "guess" }),
      Plot.tip(shown, Plot.pointer({ ...place, title: (guess) =>
        `${guess.name}\npredicted ${figure(guess.predicted)}\nmeasured ${spread(guess.measured)}`, ...TIP })),
    ],
  });
}

// ---- the table of units --------------------------------------------------------------------------------------------

function fillUnits() {
  const body = element("unit-rows");
  if (!body) return;
  body.replaceChildren(...shownUnits().map((unit) => {
    const option = taken(unit.place);
    const alone = aloneOf.get(unit.name)?.find((one) => one.option === option);
    const row = document.createElement("tr");
    const cells = [unit.place + 1, unit.name, unit.op, d3.format(",")(unit.parameters), option,
      unit.costs.length ? d3.format(",")(storedBytes(unit, option)) : "", alone ? spread(alone.loss) : "", unit.reason];
    for (const [place, text] of cells.entries()) {
      const cell = row.insertCell();
      cell.textContent = text;
      cell.className = place === 1 ? "name" : [0, 3, 5, 6].includes(place) ? "number" : "";
    }
    return row;
  }));
}

// ---- drawing and controls --------------------------------------------------------------------------------------------

const FIGURES = { front: drawFront, bits: drawBits, alone: drawAlone, map: drawMap, guesses: drawGuesses };
const widths = new Map();

function draw(...names) {
  for (const name of names) {
    const box = element(`figure-${name}`);
    if (!box) continue;
    const left = box.scrollLeft;
    box.replaceChildren(...[FIGURES[name](box.clientWidth)].flat());
    box.scrollLeft = left;
  }
}

function tellPlan() {
  for (const select of document.querySelectorAll("select.plans")) select.value = String(state.plan);
  for (const told of document.querySelectorAll(".picked"))
    told.textContent = planText(plans[state.plan]).replaceAll("\n", ", ");
  fillUnits();
}

function pick(plan) {
  if (!plans[plan].options.length) return; // nothing is known of it but its size and loss
  state.plan = plan;
  tellPlan();
  draw("front", "bits");
}

function choose(select, entries, act) {
  if (!select) return;
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  select.addEventListener("change", () => act(select.value));
}

function setTheme(theme) {
  const root = document.documentElement;
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  element("theme").textContent = `theme: ${theme || "as the system"}`;
  draw("map");
}

function start() {
  const byName = plans.map((plan) => [String(plan.index), `${plan.name}, ${bytes(plan.file_bytes)}` +
    (plan.loss ? `, loss ${figure(plan.loss.value)}` : "") + (plan.kind === "chosen" ? " (in the file)" : "")]);
  for (const select of document.querySelectorAll("select.plans"))
    choose(select, byName.filter((_, index) => plans[index].options.length), (value) => pick(Number(value)));
  const ops = d3.rollups(view.units, (units) => units.length, (unit) => unit.op);
  choose(element("op"), [["", `all ${view.units.length} units`], ...ops.map(([op, count]) => [op, `${op} (${count})`])],
    (value) => { state.op = value; draw("bits", "alone", "map"); fillUnits(); });
  choose(element("alone-order"), [["", "as in the graph"], ["sorted", "most sensitive first"]],
    (value) => { state.sorted = Boolean(value); draw("alone"); });
  choose(element("map-of"), view.maps.map((map, index) => [String(index), map.name === "plan" ? "the plan's options" : map.name]),
    (value) => { state.map = Number(value); draw("map"); });
  choose(element("map-order"), [["clustered", "alike together"], ["", "as in the graph"]],
    (value) => { state.clustered = Boolean(value); draw("map"); });
  const themes = ["", "dark", "light"];
  element("theme").hidden = false;
  element("theme").addEventListener("click", () =>
    setTheme(themes[(themes.indexOf(document.documentElement.dataset.theme ?? "") + 1) % themes.length]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw("map"));
  let before = "";
  addEventListener("beforeprint", () => { before = document.documentElement.dataset.theme ?? ""; setTheme("light"); });
  addEventListener("afterprint", () => setTheme(before));
  if (plans.length) tellPlan();
  else fillUnits();
  const resized = new Set();
  let waiting = 0;
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const name = target.id.replace("figure-", "");
      if (widths.get(name) !== target.clientWidth) resized.add(name);
      widths.set(name, target.clientWidth);
    }
    clearTimeout(waiting); // a window is resized in many steps: draw after the last
    waiting = setTimeout(() => { draw(...resized); resized.clear(); }, 100);
  });
  for (const name of Object.keys(FIGURES)) {
    const box = element(`figure-${name}`);
    if (!box) continue;
    widths.set(name, box.clientWidth);
    draw(name);
    observer.observe(box);
  }
}

start();
