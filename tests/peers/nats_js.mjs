// The conversation of tests/e2e/test_peers.py in NATS's client for JavaScript.
import { connect, createInbox, headers, RequestError } from "@nats-io/transport-node";
import services from "@nats-io/services";

const [url, owner, cwd] = process.argv.slice(2);
const intake = `agents.pi-exec.${owner}`;
const connection = await connect({ servers: url });
const say = (step, answer) => console.log(JSON.stringify({ step, answer }));

/** The text of a stream, which an empty message ends. */
async function stream(subject, payload, more) {
  const inbox = createInbox();
  const subscription = connection.subscribe(inbox);
  connection.publish(subject, payload, { reply: inbox, headers: more });
  let text = "";
  for await (const message of subscription) {
    if (message.data.length === 0) break;
    text += message.string();
  }
  return text;
}

const list = await connection.request(intake, JSON.stringify({ sessionMode: "list" }), { timeout: 20_000 });
say("list", list.json().sessions.length);

const create = { sessionMode: "session", sessionId: "peer", body: "hi", cwd };
say("stream", await stream(intake, JSON.stringify(create)));

const once = headers();
once.set("Nats-Msg-Id", "once");
say("headers", await stream(`${intake}.peer`, "again", once));

const refused = await connection.request(intake, JSON.stringify({ sessionMode: "stop", sessionId: "nobody" }), {
  timeout: 20_000,
});
say("error", refused.headers.get("Nats-Service-Error-Code"));

try {
  await connection.request("nobody.there", "", { timeout: 20_000 });
  say("no responders", "answered");
} catch (error) {
  say("no responders", error instanceof RequestError && error.isNoResponders() ? "none" : String(error));
}

const client = new services.Svcm(connection).client({ strategy: "sentinel" });
const found = new Map();
for await (const info of await client.info("pi-exec")) found.set(info.id, info.endpoints.map((one) => one.name));
say("services", found.size);
let requests = 0;
for await (const stats of await client.stats("pi-exec")) {
  for (const endpoint of stats.endpoints) requests += endpoint.num_requests;
}
say("counted", requests > 0);

let shared = 0;
const members = [1, 2].map(() => connection.subscribe("peer.*", { queue: "q", callback: () => shared++ }));
for (let number = 0; number < 10; number++) connection.publish(`peer.${number}`);
await connection.flush();
say("queue group", shared);
members.forEach((member) => member.unsubscribe());
await connection.drain();
