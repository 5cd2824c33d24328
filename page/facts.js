// The facts about an entry, in the words of the page and in one order.
import { write } from "./address.js";
import { element, time, visible, written } from "./element.js";
import { duration, number, rate, short } from "./measure.js";

const lines = (value) => (typeof value !== "object" || Array.isArray(value) ? written(value)
  : Object.entries(value).map(([name, each]) => `${name}: ${JSON.stringify(each)}`).join("\n"));
const all = (conversation) =>
  element("a", { href: `./${write("log", { conversation })}` }, "All its requests"); // no skip link
const tokens = ({ prompt_tokens: asked, response_tokens: answered }) => [[asked, "in"], [answered, "out"]]
  .filter(([n]) => typeof n === "number").map(([n, way]) => `${number(n)} ${way}`).join(", ");
const speed = (entry) => (rate(entry) ? `${short(rate(entry))} tokens/s` : "");

const FACTS = [
  ["status", "Status"], ["model", "Model"], ["options", "Parameters", lines],
  ["format", "Format", lines], ["think", "Think", lines],
  ["tools", "Tools offered", (tools) => [tools].flat().join(", ")],
  ["response_tokens", "Tokens", (_, entry) => tokens(entry)],
  ["response_ms", "Speed", (_, entry) => speed(entry)],
  ["ttft_ms", "First token after", duration], ["duration_ms", "Duration", duration],
  ["load_ms", "Loading the model", duration], ["prompt_ms", "Reading the prompt", duration],
  ["finish_reason", "Ended by"], ["started_at", "Started", time], ["finished_at", "Finished", time],
  ["user_agent", "Client"], ["client", "Address"], ["endpoint", "Endpoint"],
  ["conversation", "Conversation", all], ["id", "Request id"],
  ["client_request_id", "Client's request id"], ["trace_id", "Trace id"],
];

export function facts(entry) {
  const shown = FACTS.map(([key, label, show = written]) => {
    const known = entry[key] != null || /^response_(tokens|ms)$/.test(key);
    const value = known ? show(entry[key], entry) : "";
    return [key, label, typeof value === "string" ? visible(value, 2000) : value];
  });
  return shown.filter(([, , value]) => value !== "");
}

export const list = (entry) => facts(entry).map(([key, label, value]) =>
  element("div", {}, element("dt", {}, label), element("dd", { class: key, dir: "auto" }, value)));
