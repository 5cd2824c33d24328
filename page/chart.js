// A chart over time, drawn as SVG: bars that stand on each other, or lines.
import { element } from "./element.js";

const HEIGHT = 170;
const [LEFT, RIGHT, TOP, BOTTOM] = [56, 8, 8, 22];
const STEPS = Array.from({ length: 30 }, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3));

const bars = (series, x, y) => {
  const sums = [];
  return series.flatMap(({ values }, n) => values.map((value, i) => {
    const [bottom, top] = [y(sums[i] ?? 0), y(sums[i] = (sums[i] ?? 0) + value)];
    const place = { x: x(i + 0.1), width: x(0.8) - x(0), y: top, height: bottom - top };
    return element("rect", { class: `bar s${n}`, ...place });
  }));
};

const lines = (series, x, y) => series.map(({ values }, n) => {
  const points = values.map((value, i) => (value == null ? ""
    : `${values[i - 1] == null ? "M" : "L"}${x(i + 0.5)},${y(value)}h.01`));
  return element("path", { class: `line s${n}`, d: points.join("") });
});

// What a moment belongs to, in ever longer periods of the reader's calendar.
const day = (at) => Math.floor((at - at.getTimezoneOffset() * 60_000) / 86_400_000);
const PERIODS = [Number, ...[1, 5, 15, 30].map((n) => (at) => Math.floor(at / (n * 60_000))),
  ...[1, 3, 6, 12].map((n) => (at) => day(at) * 24 + Math.floor(at.getHours() / n)), day,
  (at) => Math.floor((day(at) + 3) / 7), // from Monday to Sunday
  ...[1, 3, 12, 60, 120, 1200].map((n) => (at) => Math.floor((at.getFullYear() * 12 + at.getMonth()) / n))];
const LABELS = [{ hour: "2-digit", minute: "2-digit" }, { day: "numeric", month: "short" },
  { month: "short", year: "numeric" }].map((it) => new Intl.DateTimeFormat("en-GB", it));

function ticksAt(starts, room) {
  const places = PERIODS.map((period) => starts.map((_, i) => i)
    .filter((i) => i && period(starts[i]) !== period(starts[i - 1])));
  const fits = places.findIndex((all) => all.every((i, n) => !n || i - all[n - 1] >= room));
  const chosen = places[fits]?.length ? places[fits] : [0];
  const label = (at) => LABELS[fits > 10 ? 2 : Number(fits > 8 || !(at.getHours() || at.getMinutes()))];
  return new Map(chosen.map((i) => [i, label(starts[i]).format(starts[i])]));
}

// Draw series of `{ name, values }`, a value for each label, into an SVG; `unit` writes one.
export function draw(svg, { labels, starts, series, stacked, unit }) {
  const all = series.map(({ values }) => values);
  const sums = labels.map((_, i) => all.reduce((sum, values) => sum + values[i], 0));
  const high = Math.max(1, ...(stacked ? sums : all.flat().filter((value) => value != null)));
  const step = STEPS.find((each) => high / each <= 4);
  const ticks = Array.from({ length: Math.floor(high / step) + 1 }, (_, i) => i * step);
  const width = svg.parentNode.clientWidth;
  const x = (i) => LEFT + (i * (width - LEFT - RIGHT)) / labels.length;
  const y = (value) => TOP + (1 - value / high) * (HEIGHT - TOP - BOTTOM);
  const band = { y: TOP, width: x(1) - x(0), height: HEIGHT - TOP - BOTTOM };
  const marks = ticksAt(starts, 70 / band.width);
  const scale = (tick) => [
    element("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
    element("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, unit(tick))];
  const label = ([i, text]) => [
    element("line", { class: "grid", x1: x(i), x2: x(i), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 5 }),
    x(i) > width - 60 ? "" : element("text", { x: x(i), y: HEIGHT - 4 }, text)];
  const tip = (text, i) => element("rect", { class: "over", x: x(i), ...band }, element("title", {},
    [text, ...series.map(({ name, values }) => `${name}: ${unit(values[i])}`)].join("\n")));
  svg.setAttribute("width", width);
  svg.replaceChildren(...ticks.flatMap(scale), ...[...marks].flatMap(label),
    ...(stacked ? bars : lines)(series, x, y), ...labels.map(tip));
}
