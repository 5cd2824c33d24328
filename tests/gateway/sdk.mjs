// Calls of the official JavaScript SDKs: `node sdk.mjs FOLDER URL CASE...`. FOLDER is where npm has
// put them. Prints a JSON line for each case: its name and the objects that the SDK yielded.

import { createRequire } from "node:module";

const [folder, url, ...wanted] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { Ollama } = require("ollama");
const { OpenAI } = require("openai");

const native = new Ollama({ host: url });
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "k", maxRetries: 0 });

const model = "tinyllama";
const prompt = "Why is the sky “blue”?";
const system = "Be brief.";
const messages = [
  { role: "system", content: system },
  { role: "user", content: prompt },
];
const parameters = { type: "object", properties: { city: { type: "string" } } };
const weather = { name: "get_weather", description: "weather", parameters };
const tools = [{ type: "function", function: weather }];
const stream = true;
const stream_options = { include_usage: true };
const format = "json";
const completions = openai.chat.completions;
const input = { model, input: prompt, instructions: system };

const cases = {
  "generate": () => native.generate({ model, prompt, system }),
  "generate, streamed": () => native.generate({ model, prompt, system, stream }),
  "generate, JSON": () => native.generate({ model, prompt, system, format }),
  "chat": () => native.chat({ model, messages }),
  "chat, streamed": () => native.chat({ model, messages, stream }),
  "chat, thinking": () => native.chat({ model, messages, stream, think: "high" }),
  "chat, tools": () => native.chat({ model, messages, stream, tools }),
  "chat, unknown model": () => native.chat({ model: "nope", messages, stream }),
  "chat completion": () => completions.create({ model, messages }),
  "chat completion, streamed": () => completions.create({ model, messages, stream, stream_options }),
  "chat completion, tools": () => completions.create({ model, messages, stream, tools }),
  "chat completion, put together": () => completions.stream({ model, messages }),
  "chat completion, unknown model": () => completions.create({ model: "nope", messages }),
  "completion": () => openai.completions.create({ model, prompt }),
  "completion, streamed": () => openai.completions.create({ model, prompt, stream }),
  "response": () => openai.responses.create(input),
  "response, streamed": () => openai.responses.create({ ...input, stream }),
  "response, put together": () => openai.responses.stream(input),
};

// Yields the parts of an answer, then the SDK's own exception where it throws one. A `break` stops
// a stream of OpenAI's SDK by itself; Ollama's reads on in the background unless it is aborted.
async function* outcome(call) {
  let answer;
  try {
    answer = await call();
    if (!answer[Symbol.asyncIterator]) return yield answer;
    yield* answer;
  } catch (error) {
    const status = error.status_code ?? error.status;
    yield { error: error.constructor.name, message: error.message, status };
  } finally {
    if (answer?.itr) answer.abort();
  }
}

for (const name of wanted.length ? wanted : Object.keys(cases)) {
  const got = [];
  for await (const part of outcome(cases[name])) {
    got.push(part);
    if (wanted.length) break; // a client that breaks out of its loop
  }
  console.log(JSON.stringify([name, got]));
}
if (wanted.length) setInterval(() => {}, 1000); // it stays, so that only the break can have closed
