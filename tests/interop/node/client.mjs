// Clients made of what Node.js brings: `node client.mjs http|http2|websocket URL`. Prints what it saw as one line of JSON.

import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import http from "node:http";
import http2 from "node:http2";

const digest = (data) => createHash("sha256").update(data).digest("hex");

async function gather(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

// Requests one after the other on a kept connection; then a large body that comes back, asked for with 100-continue.
async function overHttp(url) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const seen = { bodies: [], ports: [] };
  for (const size of [0, 1, 100_000, 5]) {
    const request = http.get(`${url}/bytes/${size}`, { agent });
    const [response] = await once(request, "response");
    seen.bodies.push([response.statusCode, digest(await gather(response))]);
    seen.ports.push(request.socket.localPort);
  }
  const body = randomBytes(2_000_000);
  const request = http.request(`${url}/echo`, { method: "PUT", agent, headers: { Expect: "100-continue" } });
  const answered = once(request, "response");
  request.flushHeaders();
  await once(request, "continue");
  seen.continued = true;
  request.end(body);
  const [response] = await answered;
  seen.echoed = digest(await gather(response)) === digest(body);
  agent.destroy();
  return seen;
}

// Fifty streams at once on one connection, each with a body of its own.
async function overHttp2(url) {
  const session = http2.connect(url);
  const one = async (number) => {
    const body = randomBytes(number * 2_000);
    const stream = session.request({ ":method": "POST", ":path": `/echo?${number}`, "x-number": String(number) });
    stream.end(body);
    const [headers] = await once(stream, "response");
    const received = await gather(stream);
    return [headers[":status"], headers["x-target"], digest(received) === digest(body)];
  };
  const streams = await Promise.all(Array.from({ length: 50 }, (_, number) => one(number)));
  session.close();
  return { streams };
}

// A conversation with the WebSocket of the platform, or of the package "ws" where Node.js has none.
async function overWebSocket(url) {
  const Socket = globalThis.WebSocket ?? (await import("ws")).WebSocket;
  const socket = new Socket(url.replace("http:", "ws:") + "/websocket", ["echo", "other"]);
  socket.binaryType = "arraybuffer";
  const received = [];
  let wake = () => {};
  socket.onmessage = ({ data }) => { received.push(data); wake(); };
  const message = async () => {
    if (!received.length) await new Promise((resolve) => { wake = resolve; });
    return received.shift();
  };
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
  const seen = { made: globalThis.WebSocket ? "platform" : "ws", protocol: socket.protocol, extensions: socket.extensions };
  socket.send("hello, gr\u00fc\u00dfe");
  seen.text = await message();
  const body = randomBytes(1_000_000);
  socket.send(body);
  seen.binary = digest(Buffer.from(await message()).reverse()) === digest(body);
  const closed = new Promise((resolve) => { socket.onclose = resolve; });
  socket.send("close");
  const { code, reason, wasClean } = await closed;
  return { ...seen, code, reason, wasClean };
}

const clients = { http: overHttp, http2: overHttp2, websocket: overWebSocket };
const [kind, url] = process.argv.slice(2);
console.log(JSON.stringify(await clients[kind](url)));
