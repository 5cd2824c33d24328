// What an entry asked, as Ollama's `/api/chat` takes it, whatever the protocol was.
import { messages } from "./conversation.js";
import { written } from "./element.js";

const OPTIONS = { max_tokens: "num_predict", max_completion_tokens: "num_predict", // in other protocols
  max_output_tokens: "num_predict", stop_sequences: "stop" };
const SAME = /^(temperature|top_p|top_k|seed|stop|presence_penalty|frequency_penalty)$/;
const asMap = (pairs) => (pairs.length ? Object.fromEntries(pairs) : null);

function parsed(text) {
  try {
    return typeof text === "string" ? JSON.parse(text) : text;
  } catch {
    return { text };
  }
}
function toolCall(it) {
  const { name, arguments: given, input } = it?.function ?? it ?? {};
  return { id: it?.call_id ?? it?.id, function: { name, arguments: parsed(given ?? input ?? {}) } };
}
const text = (content) => (typeof content === "object" && content
  ? [content].flat().map((part) => part?.text ?? written(part)).join("\n") : written(content));
function picture({ image_url: url, source }) {
  return source?.data ?? /^data:[^,]*;base64,(.*)$/s.exec(url?.url ?? url ?? "")?.[1];
}

function message(it) {
  if (typeof it !== "object" || !it) return [{ role: "user", content: written(it) }];
  const { type, role = "user", content, output, tool_name: tool, tool_call_id: of } = it;
  if (type === "reasoning") return [];
  if (type === "function_call") return [{ role: "assistant", content: "", tool_calls: [toolCall(it)] }];
  if (output != null) return [{ role: "tool", content: text(output), tool_call_id: it.call_id }];
  const parts = [content ?? []].flat();
  const of_type = (name) => parts.filter((part) => part?.type === name);
  const results = of_type("tool_result").map((part) =>
    ({ role: "tool", content: text(part.content), tool_call_id: part.tool_use_id }));
  const said = parts.map((part) => (typeof part === "string" ? part : part?.text)).filter(Boolean);
  const images = [...it.images ?? [], ...parts.map((part) => picture(part ?? {})).filter(Boolean)];
  const calls = [...it.tool_calls ?? [], ...of_type("tool_use")].map(toolCall);
  if (results.length && !said.length && !images.length) return results;
  return [...results, { role: role === "developer" ? "system" : role, content: said.join("\n"),
    thinking: it.thinking, tool_name: tool, tool_call_id: of,
    images: images.length ? images : undefined, tool_calls: calls.length ? calls : undefined }];
}

function tool(it) {
  if (it?.function) return it;
  const { name, description, parameters, input_schema: schema } = it ?? {};
  return { type: "function", function: { name, description, parameters: parameters ?? schema } };
}
function format(it) {
  if (/^(json_object|text)$/.test(it?.type)) return it.type === "text" ? null : "json";
  return it?.json_schema?.schema ?? (it?.type === "json_schema" ? it.schema : it);
}
const think = (it) => (it?.type ? it.type === "enabled" : it?.effort ?? it);

export function conversation(entry) {
  const { endpoint, options, request } = entry;
  const isOwn = endpoint?.startsWith("/api/") || !request;
  const pairs = Object.entries(options ?? {}).filter(([name]) => SAME.test(name) || OPTIONS[name]);
  return {
    messages: endpoint === "/api/chat" ? messages(entry) : messages(entry).flatMap(message),
    options: isOwn ? options : asMap(pairs.map(([name, value]) => [OPTIONS[name] ?? name, value])),
    format: format(entry.format), think: think(entry.think),
    tools: Array.isArray(request?.tools) ? request.tools.map(tool).filter((it) => it.function.name) : undefined,
  };
}
