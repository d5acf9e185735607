// A program on the TypeScript SDK v1, as people have it. Arguments: URL of the mesh, name of
// server-everything there. Prints what it saw as one JSON object; judging is for the test.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import * as types from "@modelcontextprotocol/sdk/types.js";

const [url, server] = process.argv.slice(2);
const within = (ms, what, promise) =>
  Promise.race([promise, new Promise((_, no) => setTimeout(() => no(new Error(`${what}: nothing in ${ms} ms`)), ms).unref())]);
const named = (tool) => `${server}__${tool}`;
const text = (result) => result.content.map((part) => part.text ?? part.type).join("\n");

const client = new Client(
  { name: "typescript-v1", version: "1" },
  { capabilities: { elicitation: { form: {}, url: {} }, sampling: {}, roots: {} } },
);
const out = { asked: [], progress: [] };
client.setRequestHandler(types.ElicitRequestSchema, (request) => {
  out.asked.push(["elicitation", request.params.mode ?? "form", request.params.message]);
  return request.params.mode === "url"
    ? { action: "accept" }
    : { action: "accept", content: { name: "Ada", check: true } };
});
client.setRequestHandler(types.CreateMessageRequestSchema, (request) => {
  out.asked.push(["sampling", request.params.messages[0].content.text, request.params.maxTokens]);
  return { role: "assistant", model: "parrot", content: { type: "text", text: "polly" } };
});
client.setRequestHandler(types.ListRootsRequestSchema, () => ({ roots: [{ uri: "file:///v1", name: "v1" }] }));
let updated;
const update = new Promise((resolve) => (updated = resolve));
client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, (note) => updated(note.params.uri));

const transport = new StreamableHTTPClientTransport(new URL(url));
await within(10_000, "connect", client.connect(transport));
out.session = transport.sessionId;
out.revision = transport.protocolVersion;
out.server = client.getServerVersion();
out.tools = (await client.listTools()).tools.map((tool) => tool.name);

const call = (tool, args = {}, options = {}) =>
  client.callTool({ name: named(tool), arguments: args }, undefined, { timeout: 15_000, ...options });
out.sum = text(await call("get-sum", { a: 20, b: 22 }));
out.structured = (await call("get-structured-content", { location: "Chicago" })).structuredContent;
out.image = (await call("get-tiny-image")).content.map((part) => part.mimeType ?? part.type);
out.wrong = (await call("get-sum", { a: "x" })).isError;
out.long = text(
  await call("trigger-long-running-operation", { duration: 0.3, steps: 3 }, { onprogress: (at) => out.progress.push([at.progress, at.total]) }),
);
out.elicited = text(await call("trigger-elicitation-request"));
out.linked = text(await call("trigger-url-elicitation", { url: "https://example.com/consent" }));
out.sampled = text(await call("trigger-sampling-request", { prompt: "speak", maxTokens: 7 }));
out.roots = text(await call("get-roots-list"));

const abort = new AbortController();
const long = call("trigger-long-running-operation", { duration: 30, steps: 30 }, { signal: abort.signal, onprogress: () => abort.abort("enough") });
out.aborted = await long.then(() => "finished", (error) => String(error.message ?? error));

const listed = (await client.listResources()).resources;
out.resources = listed.map((one) => one.uri);
out.templates = (await client.listResourceTemplates()).resourceTemplates.map((one) => one.uriTemplate);
out.read = (await client.readResource({ uri: "demo://resource/dynamic/text/7" })).contents[0];
const watched = listed[0].uri;
await client.subscribeResource({ uri: watched });
for (let tries = 0; tries < 2 && !text(await call("toggle-subscriber-updates")).startsWith("Started"); tries += 1);
out.updated = await within(12_000, "resources/updated", update);
out.watched = watched;
await client.unsubscribeResource({ uri: watched });
await call("toggle-subscriber-updates");

out.prompts = (await client.listPrompts()).prompts.map((one) => one.name);
out.prompt = (await client.getPrompt({ name: named("args-prompt"), arguments: { city: "Oslo" } })).messages[0].content.text;
out.completed = (
  await client.complete({ ref: { type: "ref/prompt", name: named("completable-prompt") }, argument: { name: "department", value: "S" } })
).completion.values;
await client.setLoggingLevel("warning");

out.task = [];
for await (const message of client.experimental.tasks.callToolStream(
  { name: named("simulate-research-query"), arguments: { topic: "moss" } },
  types.CallToolResultSchema,
  { timeout: 20_000 },
)) {
  out.task.push(message.type === "result" ? text(message.result).split("\n")[0] : message.type === "taskStatus" ? message.task.status : message.type === "error" ? String(message.error) : message.type);
}

await transport.terminateSession();
const late = await fetch(url, {
  method: "POST",
  headers: {
    "content-type": "application/json",
    accept: "application/json, text/event-stream",
    "mcp-session-id": out.session,
    "mcp-protocol-version": out.revision,
  },
  body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list" }),
});
out.afterwards = late.status;
await client.close();
console.log(JSON.stringify(out));
