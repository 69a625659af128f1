// Opens a page of the gateway in a browser that is running, and has it call over https and wss: prints what the page
// saw as JSON. Arguments: file in which the browser says where it is driven, the page, key.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';

const [portFile, url, key] = process.argv.slice(2);
const deadline = Date.now() + 60_000;

async function until(look) {
  for (;;) {
    const found = await look();
    if (found) return found;
    if (deadline < Date.now()) throw new Error(`waited for ${look}`);
    await sleep(50);
  }
}

const [port, path] = await until(() => {
  try {
    const lines = readFileSync(portFile, 'utf8').split('\n');
    return lines[1] ? lines : null;
  } catch {
    return null;
  }
});
const browser = new WebSocket(`ws://127.0.0.1:${port}${path}`);
await new Promise((resolve, reject) => browser.on('open', resolve).on('error', reject));
const waiting = new Map();
browser.on('message', (text) => {
  const message = JSON.parse(text);
  waiting.get(message.id)?.(message);
});
let lastId = 0;
function ask(method, params, sessionId) {
  const id = (lastId += 1);
  browser.send(JSON.stringify({ id, method, params, sessionId }));
  return new Promise((resolve, reject) =>
    waiting.set(id, ({ result, error }) => (error ? reject(new Error(error.message)) : resolve(result))));
}

async function seenByPage(key) {
  const tools = await fetch('/tools', { headers: { 'X-API-Key': key } });
  const events = await new Promise((resolve) => {
    const names = [];
    const query = new URLSearchParams({ api_key: key, arguments: '{"n":2}' });
    const source = new EventSource(`/tools/progress/stream?${query}`);
    for (const name of ['progress', 'result', 'done'])
      source.addEventListener(name, () => {
        names.push(name);
        if (name === 'done') source.close(), resolve(names);
      });
    source.addEventListener('error', () => resolve([...names, 'failed']));
  });
  const socket = await new Promise((resolve) => {
    const names = [];
    const web = new WebSocket(`wss://${location.host}/ws/tools/progress?api_key=${key}`);
    web.onopen = () => web.send('{"id":1,"arguments":{"n":2}}');
    web.onmessage = ({ data }) => {
      names.push(JSON.parse(data).event);
      if (names.at(-1) === 'complete') web.close(1000);
    };
    web.onclose = ({ code }) => resolve([...names, code]);
  });
  const protocol = performance.getEntriesByType('navigation')[0].nextHopProtocol;
  return { origin: location.origin, status: tools.status, events, socket, protocol };
}

const { targetId } = await ask('Target.createTarget', { url });
const { sessionId } = await ask('Target.attachToTarget', { targetId, flatten: true });
const evaluate = async (expression) => {
  const { result } = await ask('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true }, sessionId);
  return result.value;
};
// Between two pages there is nothing to evaluate in.
const isThere = () => evaluate(`location.href === ${JSON.stringify(url)} && document.readyState === 'complete'`).catch(() => false);
await until(isThere);
console.log(JSON.stringify(await evaluate(`(${seenByPage})(${JSON.stringify(key)})`)));
browser.close();
