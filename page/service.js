// The service: requests with the right key, errors in its own words, answers line by line.
import { ask, key } from "./key.js";

export const BROKEN = "The answer broke off before it was complete: Ollama, MiniVault or the network failed.";
const UNREACHABLE = "MiniVault cannot be reached. Does it run, and is the network there?";

async function words(response) {
  const text = await response.text();
  try {
    const { detail, error } = JSON.parse(text); // its own, or that of one of Ollama's interfaces
    if (error) return error.message ?? error;
    if (typeof detail === "string") return detail;
    return detail.map(({ loc, msg }) => `${loc.slice(1).join(".")}: ${msg}`).join("\n");
  } catch {
    return `The service answered ${response.status}\n${text.slice(0, 500)}`;
  }
}

// Fetch a path with the key of its kind; where it is refused, ask for one, unless to be quiet.
export async function request(path, { kind, quiet, headers, ...options }) {
  const given = key(kind);
  const bytes = String.fromCharCode(...new TextEncoder().encode(given ?? "")); // as a header is
  const authorization = given ? { Authorization: `Bearer ${bytes}` } : {};
  const response = await fetch(path, { ...options, headers: { ...headers, ...authorization } })
    .catch((error) => { throw options.signal?.aborted ? error : new Error(UNREACHABLE); });
  if (response.ok) return response;
  const again = response.status === 401 && !quiet && await ask(kind, given);
  const refused = response.status === 401 && given ? "The key was not accepted." : await words(response);
  if (!again) throw Object.assign(new Error(refused), { status: response.status });
  return request(path, { kind, headers, ...options });
}

// What answers here, in the service's words.
export const answering = () => request("./", { kind: "api", quiet: true, headers: { Accept: "text/plain" } })
  .then((response) => response.text(), () => "Ollama is away");

// Yield the objects of JSON lines or of server-sent events as they come, an event's name with it;
// who leaves the loop cancels the request.
export async function* objects(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, event] = ["", ""];
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const [first, ...others] = read.value.split("\n");
      rest += first;
      for (const other of others) {
        const [, name, json] = /^(?::.*|event: (.*)|(?:data: )?(.*))$/.exec(rest);
        if (json) yield Object.assign(JSON.parse(json), event && { event });
        [rest, event] = [other, name ?? ""];
      }
    }
  } catch (error) {
    throw error instanceof TypeError || error instanceof SyntaxError ? new Error(BROKEN) : error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

// A request as a curl command. What a shell or a terminal could take for its own is escaped.
export function curl(path, body) {
  const escape = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  const json = JSON.stringify(body).replace(/['\u007f-\u009f]|\p{Cf}|\p{Zl}|\p{Zp}/gu,
    (character) => character.split("").map(escape).join(""));
  const given = key("api") ? ' -H "Authorization: Bearer $MINIVAULT_API_KEY"' : "";
  const url = new URL(".", location).href + encodeURI(path.replace(/^\/+/, ""));
  return `curl -N '${url.replaceAll("'", "%27")}' -H 'Content-Type: application/json'${given} -d '${json}'`;
}
