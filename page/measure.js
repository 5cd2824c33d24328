// Measures as they are written: moments, durations, counts, sizes, rates.
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const DATE = { weekday: "short", day: "numeric", month: "short" };
const whole = new Intl.NumberFormat("en-GB");
const rounded = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3 });

export function moment(text) {
  const date = new Date(text);
  const day = date.toDateString() === new Date().toDateString() ? CLOCK : { ...DATE, ...CLOCK };
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleString("en-GB", day);
}

export function utc(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? null : `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function duration(ms) {
  if (typeof ms !== "number") return "";
  if (ms < 999.5) return `${short(ms)} ms`;
  if (ms < 99_950) return `${(ms / 1000).toFixed(ms < 9_995 ? 2 : 1)} s`;
  const [minutes, seconds] = [Math.floor(ms / 60_000), Math.round((ms % 60_000) / 1000)];
  return minutes < 60 ? `${minutes} min ${seconds} s` : `${short(minutes / 60)} h`;
}

export const number = (n) => whole.format(n);
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
export const short = (value) => (typeof value === "number" ? rounded.format(value) : "");
export const size = (n) => (n < 1e6 ? `${short(n / 1e3)} kB` : `${short(n / 1e6)} MB`);
// Tokens a second by the rule of `log/speed.py`; undefined where unknown.
export function rate({ response_tokens: tokens, response_ms: measured, ttft_ms: first, ...entry }) {
  if (typeof tokens !== "number" || measured > 0) return tokens / measured * 1000 || undefined;
  const ms = typeof first === "number" ? entry.duration_ms - first : 0;
  const pieces = entry.streamed !== false && ms > 20 && tokens > 1;
  return pieces ? ((tokens - 1) / ms) * 1000 : undefined;
}
