// A backend that says what it has understood: `node server.mjs HEAD_BYTES`. Each line it prints is one JSON object: its
// port, a head ("begun"), a whole request ("seen"), or what it could not read ("garbage"). Answers repeat what was seen.

import http from "node:http";

const say = (what) => console.log(JSON.stringify(what));

const server = http.createServer({ maxHeaderSize: Number(process.argv[2]), keepAliveTimeout: 0, requestTimeout: 0 });

server.on("request", async (request, response) => {
  const { method, url: target, rawHeaders } = request;
  say({ begun: `${method} ${target}` });
  const parts = [];
  try {
    for await (const part of request) parts.push(part);
  } catch {
    return; // broken off
  }
  const fields = [];
  for (let i = 0; i < rawHeaders.length; i += 2) fields.push([rawHeaders[i], rawHeaders[i + 1]]);
  const seen = { method, target, body: Buffer.concat(parts).toString("latin1"), fields };
  say({ seen });
  const content = JSON.stringify(seen);
  response.setHeader("Content-Length", Buffer.byteLength(content));
  response.end(content);
});

server.on("clientError", (error, socket) => {
  // A request that was broken off is none that was not understood.
  if (!["ECONNRESET", "EPIPE", "HPE_INVALID_EOF_STATE"].includes(error.code)) {
    say({ garbage: `${error.code} ${error.reason ?? error.message}: ${JSON.stringify(error.rawPacket?.toString("latin1"))}` });
  }
  socket.destroy(error);
});

server.listen(0, "127.0.0.1", () => say({ port: server.address().port }));
