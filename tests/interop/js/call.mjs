// What a JavaScript program needs to use the mesh: the official NATS packages, nothing of ours.
// Arguments: broker URL, seed file of a tenant's client, seed file of the operator. Prints one JSON object.
import { readFileSync } from "node:fs";
import { Kvm } from "@nats-io/kv";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";
import { Svcm } from "@nats-io/services";

const [servers, clientSeed, operatorSeed] = process.argv.slice(2);
const as = (file) => nkeyAuthenticator(new TextEncoder().encode(readFileSync(file, "utf8").trim()));

async function all(nc, subject) {
  const found = [];
  for await (const reply of await nc.requestMany(subject, "", { strategy: "stall", maxWait: 2000, stall: 300 })) {
    found.push(reply.json());
  }
  return found;
}

async function call(nc, server, tool, args) {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: tool, arguments: args } });
  return (await nc.request(`mesh.v1.demo-tenant.call.${server}.${tool}`, body, { timeout: 5000 })).json();
}

const nc = await connect({ servers, authenticator: as(clientSeed) });
const out = {
  set: await call(nc, "kv", "kv_set", { key: "js", value: { from: "javascript" } }),
  get: await call(nc, "kv", "kv_get", { key: "js" }),
  time: await call(nc, "time", "get_current_time", { timezone: "UTC" }),
  ping: await all(nc, "$SRV.PING"),
  info: await all(nc, "$SRV.INFO"),
  stats: await all(nc, "$SRV.STATS"),
  typed: [],
};
for await (const one of await new Svcm(nc).client({ maxWait: 2000 }).ping()) out.typed.push(one.name);
await nc.close();

const operator = await connect({ servers, authenticator: as(operatorSeed) });
const catalog = await new Kvm(operator).open("mesh_catalog");
out.catalog = [];
for await (const key of await catalog.keys()) out.catalog.push(key);
const entry = await catalog.get(out.catalog[0]);
out.entry = entry.json();
await operator.close();
console.log(JSON.stringify(out));
