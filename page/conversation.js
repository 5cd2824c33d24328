// A conversation: the messages of a request in any of the protocols, as elements to read. What is
// not known here is shown as the JSON that it is.
import { element, visible, written } from "./element.js";
import { count, size } from "./measure.js";
import { passage } from "./passage.js";

const PICTURE = /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*$/;
const TYPES = { iVBOR: "png", "/9j/": "jpeg", R0lG: "gif", UklG: "webp" };
const REMINDER = /^\s*<system-reminder>/; // which a coding agent sends as the user's
const UNFOLDED = 3; // earlier messages that are shown without being asked for
const SHORT = 1500; // characters of what a tool said, and of few earlier messages
function source(base64) {
  const [, type] = Object.entries(TYPES).find(([begin]) => String(base64).startsWith(begin)) ?? [];
  return `data:image/${type};base64,${base64}`;
}

// A picture; one that is elsewhere is named, not fetched.
function picture(src, alt = "A picture in the request") {
  return PICTURE.test(src) ? element("img", { src, alt, loading: "lazy" }) : passage(src, "code");
}

function folded(label, make) {
  const details = element("details", { class: "folded" }, element("summary", {}, label));
  details.addEventListener("toggle", () => details.append(...make()), { once: true });
  return details;
}

export function toolCall(call) {
  const { name, arguments: given, input } = call?.function ?? call ?? {};
  const title = element("h4", {}, "Tool call ", element("bdi", {}, visible(name, 100)));
  return element("div", { class: "call" }, title, passage(given ?? input ?? call, "code"));
}
const thinking = (text) =>
  element("details", { class: "thinking" }, element("summary", {}, "Thinking"), passage(text));

function toolResult(output) {
  const { length } = written(output);
  return length <= SHORT ? part(output, "code") : [folded(`Show ${size(length)}`, () => part(output, "code"))];
}

function part(content, kind = "") {
  if (content == null || content === "") return [];
  if (REMINDER.test(content)) return [folded("Reminder", () => [passage(content)])];
  if (typeof content !== "object") return [passage(content, kind)];
  if (Array.isArray(content)) return content.flatMap((each) => part(each, kind));
  const { type, text, thinking: thought, image_url: image, source: data } = content;
  if (image) return [picture(String(image.url ?? image))];
  if (data?.data) return [picture(`data:${data.media_type};base64,${data.data}`)];
  if (thought) return [thinking(thought)];
  if (type === "tool_use" || type === "function_call") return [toolCall(content)];
  if (type === "tool_result") return toolResult(content.content);
  return text == null ? [passage(content, "code")] : part(text, kind);
}

const bubble = (role, nodes) => element("section", { class: "message", "data-role": role },
  element("h3", {}, visible(role, 100)), ...nodes);

function message(it) {
  if (typeof it !== "object" || !it) return bubble("user", part(it));
  const { role, content, images, tool_calls: calls, tool_name: tool, type, output } = it;
  const said = role ? content : output ?? it;
  const isResult = Array.isArray(content) && content.every((each) => each?.type === "tool_result");
  return bubble([isResult ? "tool" : role ?? type ?? "user", tool].filter(Boolean).join(" "), [
    it.thinking ? thinking(it.thinking) : "",
    ...(role === "tool" || output != null ? toolResult(said) : part(said)),
    ...[images ?? []].flat().map((data) => picture(source(data))),
    ...[calls ?? []].flat().map(toolCall)]);
}

// Whether the user wrote it: results of tools and what an agent reminds of come as the user's too.
function isQuestion(it) {
  const own = (content) => (typeof content === "string" ? content.trim() && !REMINDER.test(content)
    : [content ?? []].flat().some((each) => (each?.text == null ? each?.type !== "tool_result"
      : own(each.text))));
  return typeof it === "string" || (it?.role === "user" && own(it.content));
}

// Messages up to the last question, which is `.question`, and what came after it; folded where
// there are many.
export function thread(messages) {
  const last = messages.findLastIndex(isQuestion);
  const at = last < 0 ? messages.length - 1 : last;
  const fold = (some, label) => (some.length > UNFOLDED || written(some).length > SHORT
    ? [folded(label(some.length), () => some.map(message))] : some.map(message));
  const [before, after] = [messages.slice(0, at), messages.slice(at + 1)];
  const question = message(messages[at]);
  question.classList.add("question");
  const earlier = before.length ? fold(before, (n) => count(n, "earlier message")) : [];
  const between = fold(after.slice(0, -2), (n) => `${count(n, "message")} in between`);
  return [...earlier, question, ...between, ...after.slice(-2).map(message)];
}

// Whether the service was told to keep no texts, and what then stands for one.
export const lengthOnly = (entry) => entry.prompt == null && entry.prompt_chars != null;
const left = (length) => `(${count(length, "character")}; the text was not kept)`;
export const prompted = (entry) => (lengthOnly(entry) ? left(entry.prompt_chars) : entry.prompt);

export function messages({ system, request, ...entry }) {
  const { messages: all, input, images } = request ?? {};
  const asked = [all ?? input ?? { role: "user", content: prompted(entry), images }].flat();
  const known = asked.some((each) => /^(system|developer)$/.test(each?.role));
  return known || !system ? asked : [{ role: "system", content: system }, ...asked];
}
const generated = (data) => (typeof data === "string" ? picture(source(data), "A generated picture")
  : passage(`(a picture of ${count(data, "character")}, which was not kept)`));

export const answer = (entry) => bubble("assistant", [
  entry.thinking ? thinking(entry.thinking) : "", entry.response ? passage(entry.response) : "",
  lengthOnly(entry) ? passage(left(entry.response_chars)) : "",
  ...[entry.images ?? []].flat().map(generated),
  ...[entry.tool_calls ?? []].flat().map(toolCall),
  entry.error ? element("p", { class: entry.status === "cancelled" ? "note" : "problem" },
    visible(entry.error)) : ""]);
