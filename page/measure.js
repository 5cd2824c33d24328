// Measures as they are written: moments, durations, counts, sizes, rates.
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const DATE = { weekday: "short", day: "numeric", month: "short" };
const [whole, brief, rounded] = [{}, { notation: "compact" }, { maximumSignificantDigits: 3 }]
  .map((how) => new Intl.NumberFormat("en", how));

const has = (date) => !Number.isNaN(date.getTime());
export const year = (date) => (date.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" });
export function moment(text) {
  const date = new Date(text);
  const isToday = date.toDateString() === new Date().toDateString();
  return has(date) ? date.toLocaleString("en-GB", isToday ? CLOCK : { ...DATE, ...year(date), ...CLOCK }) : "";
}
export function utc(text) {
  const date = new Date(text);
  return !has(date) ? null : `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function duration(ms) {
  if (typeof ms !== "number") return "";
  if (ms < 999.5) return `${short(ms)} ms`;
  if (ms < 99_950) return `${(ms / 1000).toFixed(ms < 9_995 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s` : `${short(seconds / 3600)} h`;
}
export const number = (n) => whole.format(n);
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
export const compact = (n) => brief.format(n);
export const short = (value) => (typeof value === "number" ? rounded.format(value) : "");
export const size = (n) => (n < 1e6 ? `${short(n / 1e3)} kB` : `${short(n / 1e6)} MB`);
// Tokens a second by the rule of `log/speed.py`; undefined where unknown.
export function rate({ response_tokens: tokens, response_ms: measured, ttft_ms: first, ...entry }) {
  if (typeof tokens !== "number" || measured > 0) return tokens / measured * 1000 || undefined;
  const ms = typeof first === "number" ? entry.duration_ms - first : 0;
  const pieces = entry.streamed !== false && ms > 20 && tokens > 1;
  return pieces ? ((tokens - 1) / ms) * 1000 : undefined;
}
