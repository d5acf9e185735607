// A program on the TypeScript SDK v2. Arguments: URL of the mesh, name of server-everything there,
// mode (auto, legacy or a revision to pin), name of a server of the new era whose tools "choose",
// "praise" and "roots" ask, name of one whose list and resources change ("touch", "grow").
// Prints what it saw as one JSON object; judging is for the test.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, server, mode, asking, watched] = process.argv.slice(2);
const within = (ms, what, promise) =>
  Promise.race([promise, new Promise((_, no) => setTimeout(() => no(new Error(`${what}: nothing in ${ms} ms`)), ms).unref())]);
const text = (result) => result.content.map((part) => part.text ?? part.type).join("\n");
const heard = () => {
  let tell;
  const promise = new Promise((resolve) => (tell = resolve));
  return [promise, tell];
};

const client = new Client(
  { name: "typescript-v2", version: "1" },
  {
    capabilities: { elicitation: { form: {}, url: {} }, sampling: {}, roots: {} },
    versionNegotiation: { mode: ["auto", "legacy"].includes(mode) ? mode : { pin: mode } },
  },
);
const out = { asked: [], progress: [] };
client.setRequestHandler("elicitation/create", (request) => {
  out.asked.push(["elicitation", request.params.mode ?? "form", request.params.message]);
  return { action: "accept", content: { name: "Ada", check: true, colour: "blue" } };
});
client.setRequestHandler("sampling/createMessage", (request) => {
  out.asked.push(["sampling", [request.params.messages[0].content].flat()[0].text]);
  return { role: "assistant", model: "parrot", content: { type: "text", text: "polly" } };
});
client.setRequestHandler("roots/list", () => ({ roots: [{ uri: "file:///v2", name: "v2" }] }));
const [update, updated] = heard();
const [change, changed] = heard();
client.setNotificationHandler("notifications/resources/updated", (note) => updated(note.params.uri));
client.setNotificationHandler("notifications/tools/list_changed", () => changed(true));

const transport = new StreamableHTTPClientTransport(new URL(url));
await within(10_000, "connect", client.connect(transport));
out.session = transport.sessionId ?? null;
out.revision = client.getNegotiatedProtocolVersion();
out.era = client.getProtocolEra();
out.tools = (await client.listTools()).tools.map((tool) => tool.name);

const call = (name, args = {}, options = {}) => client.callTool({ name, arguments: args }, { timeout: 15_000, ...options });
out.sum = text(await call(`${server}__get-sum`, { a: 20, b: 22 }));
out.structured = (await call(`${server}__get-structured-content`, { location: "Chicago" })).structuredContent;
out.wrong = (await call(`${server}__get-sum`, { a: "x" })).isError;
out.long = text(
  await call(`${server}__trigger-long-running-operation`, { duration: 0.3, steps: 3 }, { onprogress: (at) => out.progress.push([at.progress, at.total]) }),
);
// Asked by a server of the old era, which sends requests …
out.elicited = text(await call(`${server}__trigger-elicitation-request`));
out.sampled = text(await call(`${server}__trigger-sampling-request`, { prompt: "speak", maxTokens: 7 }));
// … and by one of the new era, which answers input_required.
out.chosen = text(await call(`${asking}__choose`));
out.praised = text(await call(`${asking}__praise`));
out.rooted = text(await call(`${asking}__roots`));

const abort = new AbortController();
const long = call(`${server}__trigger-long-running-operation`, { duration: 30, steps: 30 }, { signal: abort.signal, onprogress: () => abort.abort("enough") });
out.aborted = await long.then(() => "finished", (error) => String(error.message ?? error));

out.read = (await client.readResource({ uri: "demo://resource/dynamic/text/7" })).contents[0];
const uri = (await client.listResources()).resources.map((one) => one.uri).find((one) => one.startsWith("watched:"));
out.watched = uri;
let subscription;
if (out.era === "modern") {
  subscription = await within(10_000, "listen", client.listen({ toolsListChanged: true, resourceSubscriptions: [uri] }));
  out.honoured = subscription.honoredFilter;
} else {
  await client.subscribeResource({ uri });
}
await call(`${watched}__touch`, { text: uri });
out.updated = await within(10_000, "resources/updated", update);
await call(`${watched}__grow`, { text: `grown_${mode}` });
out.changed = await within(10_000, "tools/list_changed", change);
out.grown = (await client.listTools(undefined, { cacheMode: "refresh" })).tools.map((tool) => tool.name).filter((name) => name.includes("grown"));
if (subscription) {
  await subscription.close();
  out.closed = await within(5_000, "the end of the listen", subscription.closed);
} else {
  await client.unsubscribeResource({ uri });
}

out.prompt = (await client.getPrompt({ name: `${server}__args-prompt`, arguments: { city: "Oslo" } })).messages[0].content.text;
out.completed = (
  await client.complete({ ref: { type: "ref/prompt", name: `${server}__completable-prompt` }, argument: { name: "department", value: "S" } })
).completion.values;
await transport.terminateSession();
await client.close();
console.log(JSON.stringify(out));
