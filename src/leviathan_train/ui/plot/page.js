"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b"];
const LEFT = 64, RIGHT = 12, TOP = 22, BOTTOM = 22;
const several = data.runs.length > 1;
const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const short = (value) => String(Number(value.toPrecision(6)));
const colour = (run, name) => COLOURS[(several ? run : name === "eval_loss" ? 1 : 0) % COLOURS.length];
const branches = (curve) => (curve ? [...curve.superseded, curve.points] : []);

function element(kind, text, parent) {
  const made = document.createElement(kind);
  made.textContent = text;  // names are text, never markup
  parent.append(made);
  return made;
}

const everything = data.runs.flatMap((run) => Object.values(run.curves)).flatMap(branches);
for (const { s } of everything)  // steps come as differences, which are shorter
  for (let at = 1; at < s.length; at++) s[at] += s[at - 1];
const ends = everything.filter(({ s }) => s.length).flatMap(({ s }) => [s[0], s.at(-1)]);
const whole = [Math.min(...ends), Math.max(...ends)];
if (whole[0] === whole[1]) { whole[0] -= 1; whole[1] += 1; }
let view = whole, drag = null;

const width = () => $("figure").clientWidth;
const across = (step) => LEFT + (step - view[0]) / (view[1] - view[0]) * (width() - LEFT - RIGHT);
const stepAt = (px) => view[0] + (px - LEFT) / (width() - LEFT - RIGHT) * (view[1] - view[0]);
const pixel = (event) => event.clientX - $("figure").getBoundingClientRect().left;

function after(steps, step) {  // the first place whose step is not below `step`
  let low = 0, high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low;
}

function nearest({ s, v }, step) {
  const at = after(s, step), before = Math.max(0, at - 1);
  const place = at < s.length && s[at] - step <= step - s[before] ? at : before;
  return s.length ? [s[place], v[place]] : null;
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough)), found = [];
  const unit = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  for (let at = Math.ceil(low / unit); at * unit <= high; at++) found.push(at * unit);
  return found;
}

function range(names) {  // of the values in view
  let low = Infinity, high = -Infinity;
  for (const { s, v } of data.runs.flatMap((run) => names.flatMap((n) => branches(run.curves[n]))))
    for (let at = after(s, view[0]); at < s.length && s[at] <= view[1]; at++) {
      if (v[at] < low) low = v[at];
      if (v[at] > high) high = v[at];
    }
  const room = (high - low) * 0.05 || Math.abs(high) * 0.05 || 0.5;
  return low > high ? [0, 1] : [low - room, high + room];
}

// Several points in one pixel column become one stroke from the smallest to the largest.
function stroke(ctx, { s, v }, y, dots) {
  const first = Math.max(0, after(s, view[0]) - 1), end = Math.min(s.length, after(s, view[1]) + 1);
  let column = null, low, high, left;
  const flush = () => [low, high, left].forEach((py) => ctx.lineTo(column, py));
  ctx.beginPath();
  for (let at = first; at < end; at++) {
    const px = Math.round(across(s[at]) * 2) / 2, py = y(v[at]);
    if (px === column) { low = Math.min(low, py); high = Math.max(high, py); } else {
      if (column !== null) flush();
      ctx.lineTo(px, py);
      column = px; low = high = py;
    }
    left = py;
  }
  if (column !== null) flush();
  ctx.stroke();
  for (let at = first; at < end && (dots || end - first < 60); at++) {
    ctx.beginPath(); ctx.arc(across(s[at]), y(v[at]), 2.2, 0, 7); ctx.fill();
  }
}

function marks(ctx, high, labelled) {
  const visible = (step) => step >= view[0] && step <= view[1];
  data.runs.forEach((run, number) => {
    ctx.strokeStyle = ctx.fillStyle = several ? colour(number) : css("--faint");
    let free = LEFT;  // a label that would lie over another one is left out
    for (const one of run.sessions.filter((one) => one.resumed && visible(one.first_step))) {
      const px = across(one.first_step);
      ctx.setLineDash([3, 3]);
      ctx.beginPath(); ctx.moveTo(px, TOP); ctx.lineTo(px, high - BOTTOM); ctx.stroke();
      ctx.setLineDash([]);
      if (!labelled || number || px < free || px > width() - 90) continue;
      const told = `resume ${one.first_step}${one.verdict === "broken" ? ": broken" : ""}`;
      ctx.fillText(told, px + 3, TOP + 10);
      free = px + ctx.measureText(told).width + 8;
    }
    for (const { step, best, state } of labelled ? run.checkpoints : []) {
      if (!visible(step)) continue;
      const px = across(step), py = high - BOTTOM;
      ctx.beginPath(); ctx.moveTo(px - 4, py); ctx.lineTo(px + 4, py); ctx.lineTo(px, py - 7);
      ctx.closePath();
      if (state === "damaged") ctx.stroke(); else ctx.fill();
      if (best) ctx.fillText("★", px - 5, py - 9);
    }
  });
}

function panel({ title, names, canvas }, number) {
  const wide = width(), high = number ? 170 : 320, scale = devicePixelRatio || 1;
  canvas.style.height = `${high}px`;
  canvas.width = wide * scale; canvas.height = high * scale;
  const ctx = canvas.getContext("2d"), [low, top] = range(names);
  const y = (value) => high - BOTTOM - (value - low) / (top - low) * (high - TOP - BOTTOM);
  ctx.scale(scale, scale);
  ctx.font = "11px system-ui, sans-serif";
  ctx.fillStyle = css("--ink"); ctx.fillText(title, LEFT, 13);
  ctx.strokeStyle = css("--grid"); ctx.fillStyle = css("--faint");
  ctx.beginPath();
  ctx.textAlign = "right";
  for (const tick of ticks(low, top, high / 45)) {
    ctx.moveTo(LEFT, y(tick)); ctx.lineTo(wide - RIGHT, y(tick));
    ctx.fillText(short(tick), LEFT - 6, y(tick) + 4);
  }
  ctx.textAlign = "center";
  for (const tick of ticks(...view, wide / 110)) {
    ctx.moveTo(across(tick), TOP); ctx.lineTo(across(tick), high - BOTTOM);
    ctx.fillText(short(tick), across(tick), high - 7);
  }
  ctx.stroke();
  ctx.textAlign = "left";
  marks(ctx, high, number === 0);
  ctx.beginPath(); ctx.rect(LEFT, TOP - 2, wide - LEFT - RIGHT, high - TOP - BOTTOM + 4); ctx.clip();
  data.runs.forEach((run, index) => names.filter((name) => run.curves[name]).forEach((name) => {
    ctx.strokeStyle = ctx.fillStyle = colour(index, name);
    ctx.lineWidth = name === "eval_loss" ? 2 : 1.2;
    ctx.globalAlpha = 0.35;
    for (const branch of run.curves[name].superseded) stroke(ctx, branch, y, false);
    ctx.globalAlpha = 1;
    stroke(ctx, run.curves[name].points, y, name === "eval_loss");
  }));
}

function hover(event) {
  const px = pixel(event), curves = data.runs.flatMap((run) => Object.values(run.curves));
  const near = Math.min(Math.max(stepAt(px), view[0]), view[1]);
  const [step] = curves.map(({ points }) => nearest(points, near)?.[0] ?? Infinity)
    .sort((one, other) => Math.abs(one - near) - Math.abs(other - near));
  const lines = [`Step ${step}`];
  for (const run of data.runs) {
    if (several) lines.push(run.name);
    for (const [name, { points }] of Object.entries(run.curves)) {
      const found = nearest(points, step), at = found?.[0] === step ? "" : ` (step ${found?.[0]})`;
      if (found) lines.push(`  ${name.replaceAll("_", " ")} ${short(found[1])}${at}`);
    }
  }
  const tip = $("tip"), cursor = $("cursor"), zoom = $("zoom");
  tip.textContent = lines.join("\n");
  tip.style.display = cursor.style.display = "block";
  cursor.style.left = `${across(step)}px`;
  const room = across(step) + 14 + tip.offsetWidth < width();
  tip.style.left = `${across(step) + (room ? 14 : -14 - tip.offsetWidth)}px`;
  zoom.style.display = drag === null ? "none" : "block";
  zoom.style.left = `${Math.min(drag, px)}px`;
  zoom.style.width = `${Math.abs(px - drag)}px`;
}

function release(event) {
  const [from, to] = [drag, pixel(event)].sort((one, other) => one - other);
  const found = [Math.max(stepAt(from), whole[0]), Math.min(stepAt(to), whole[1])];
  if (drag !== null && to - from > 5 && found[1] > found[0]) { view = found; draw(); }
  drag = null;
  $("zoom").style.display = $("tip").style.display = $("cursor").style.display = "none";
}

const panels = Object.entries(data.panels)
  .filter(([, names]) => names.some((name) => data.runs.some((run) => run.curves[name])))
  .map(([title, names]) => ({ title, names, canvas: element("canvas", "", $("figure")) }));
for (const { title, canvas } of panels) canvas.setAttribute("aria-label", `${title} over steps`);
const draw = () => panels.forEach(panel);

$("figure").addEventListener("pointermove", hover);
$("figure").addEventListener("pointerdown", (event) => { drag = pixel(event); });
$("figure").addEventListener("dblclick", () => { view = whole; draw(); });
$("figure").addEventListener("pointerleave", () => {
  $("tip").style.display = $("cursor").style.display = "none";
});
addEventListener("pointerup", release);
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

document.querySelector("h1").textContent = data.runs.map((run) => run.name).join(", ");
const legend = several ? data.runs.map((run) => run.name) : ["loss", "eval loss"];
legend.forEach((text, number) => {
  const entry = element("span", "", $("legend"));
  element("i", "", entry).style.borderColor = COLOURS[number % COLOURS.length];
  entry.append(text);
});
for (const text of ["thick: eval loss", "faint: superseded", "▲ checkpoint", "★ best", "┆ resume"])
  element("span", text, $("legend"));
for (const note of data.notes) element("p", note, $("notes"));
draw();
document.body.dataset.drawn = Math.round(performance.now());
