// Node's own HTTPS, and a WebSocket with ws: prints what it saw as JSON.
// Arguments: host:port, file with the trusted certificate, key.
import { readFileSync } from 'node:fs';
import https from 'node:https';
import WebSocket from 'ws';

const [address, trusted, key] = process.argv.slice(2);
const ca = readFileSync(trusted);
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca });
const ports = new Set();

function call(path, args) {
  return new Promise((resolve, reject) => {
    const options = { method: 'POST', agent, headers: { 'X-API-Key': key } };
    const request = https.request(`https://${address}${path}`, options, (response) => {
      ports.add(response.socket.localPort);
      const pieces = [];
      response.on('data', (piece) => pieces.push(piece)).on('end', () => resolve(Buffer.concat(pieces).toString()));
    });
    request.on('error', reject).end(JSON.stringify({ arguments: args }));
  });
}

function overWebSocket(args) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${address}/ws/tools/progress`, { ca, headers: { 'X-API-Key': key } });
    const events = [];
    socket.on('open', () => socket.send(JSON.stringify({ id: 1, arguments: args })));
    socket.on('message', (text) => {
      events.push(JSON.parse(text).event);
      if (events.at(-1) === 'complete') socket.close(1000);
    });
    socket.on('close', (code) => resolve([...events, code])).on('error', reject);
  });
}

const text = 'x'.repeat(4 * 1024 * 1024 - 1024);
const data = [JSON.parse(await call('/tools/echo', { n: 0 })).data, JSON.parse(await call('/tools/echo', { n: 1 })).data];
const big = JSON.parse(await call('/tools/echo', { text })).data.text === text;
const stream = await call('/tools/progress/stream', { n: 2 });
const events = [...stream.matchAll(/^event: (.*)$/gm)].map((found) => found[1]);
const socket = await overWebSocket({ n: 2 });
agent.destroy();
console.log(JSON.stringify({ data, big, events, socket, connections: ports.size }));
