// A conversation: the messages of a request in any of the protocols, as elements to read. What is
// not known here is shown as the JSON that it is.
import { element, passage, visible } from "./element.js";
import { count } from "./measure.js";

const PICTURE = /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*$/;
// A picture that the request carried; one that is elsewhere is named, not fetched.
function picture(source) {
  if (!PICTURE.test(source)) return passage(source, "code");
  return element("img", { src: source, alt: "A picture in the request", loading: "lazy" });
}

export function toolCall(call) {
  const { name, arguments: given, input } = call?.function ?? call ?? {};
  return element("div", { class: "call" },
    element("h4", {}, "Tool call ", element("bdi", {}, visible(name, 100))),
    passage(given ?? input ?? call, "code"));
}
export const thinking = (text) => element("details", { class: "thinking" },
  element("summary", {}, "Thinking"), passage(text));

// A part of a message: a text, a list of parts, or an object of some protocol.
function part(content) {
  if (content == null || content === "") return [];
  if (typeof content !== "object") return [passage(content)];
  if (Array.isArray(content)) return content.flatMap(part);
  const { type, text, thinking: thought, image_url: image, source } = content;
  if (image) return [picture(String(image.url ?? image))];
  if (source?.data) return [picture(`data:${source.media_type};base64,${source.data}`)];
  if (thought) return [thinking(thought)];
  if (type === "tool_use" || type === "function_call") return [toolCall(content)];
  if (type === "tool_result") return part(content.content);
  return text == null ? [passage(content, "code")] : part(text);
}

function message(it) {
  if (typeof it !== "object" || !it) return bubble("user", part(it));
  const { role, content, images, tool_calls: calls, tool_name: tool, type, output } = it;
  return bubble([role ?? type ?? "user", tool].filter(Boolean).join(" "), [
    it.thinking ? thinking(it.thinking) : "", ...part(role ? content : output ?? it),
    ...[images ?? []].flat().map((data) => picture(`data:image/png;base64,${data}`)),
    ...[calls ?? []].flat().map(toolCall)]);
}

export const bubble = (role, nodes) => element("section", { class: "message", "data-role": role },
  element("h4", {}, visible(role, 100)), ...nodes);

// Whether the service was told to keep no texts, and what then stands for one.
export const lengthOnly = (entry) => entry.prompt == null && entry.prompt_chars != null;
export const left = (length) => `(${count(length, "character")}; the text was not kept)`;
export const prompted = (entry) => (lengthOnly(entry) ? left(entry.prompt_chars) : entry.prompt);

// What an entry asked: the whole conversation where its request carries one.
export function conversation({ system, request, ...entry }) {
  const { messages, input, images } = request ?? {};
  const asked = [messages ?? input ?? { role: "user", content: prompted(entry), images }].flat();
  const known = asked.some((each) => /^(system|developer)$/.test(each?.role));
  return [known || !system ? "" : bubble("system", part(system)), ...asked.map(message)];
}
