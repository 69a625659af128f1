// The TypeScript SDK 2 as a client: `typescript_v2.mjs ERA stdio COMMAND...` or `... ERA http URL`, with `legacy` or
// `auto` as ERA and a plan on standard input. Prints one JSON document of everything it saw.

import { Client, LOG_LEVEL_META_KEY, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

import { Seen, capabilities, era, headers, kind, plan, target } from './seen.mjs';

const seen = new Seen();
const client = new Client(
  { name: 'typescript-v2', version: '1.0.0' },
  { capabilities, versionNegotiation: { mode: era } },
);
for (const method of Object.keys(plan.answers)) client.setRequestHandler(method, (request) => seen.answer(request));
client.fallbackNotificationHandler = async (notification) => seen.hear(notification);

const transport =
  kind === 'stdio'
    ? new StdioClientTransport({ command: target[0], args: target.slice(1), env: process.env, stderr: 'ignore' })
    : new StreamableHTTPClientTransport(new URL(target[0]), { requestInit: { headers } });
await client.connect(transport);
const isModern = client.getProtocolEra() === 'modern';
if (plan.logLevel && !isModern) await client.setLoggingLevel(plan.logLevel);
// Where there is no `logging/setLevel`, each request says what it wants to hear.
const _meta = plan.logLevel && isModern ? { [LOG_LEVEL_META_KEY]: plan.logLevel } : undefined;

const requests = {
  ping: (_params, options) => (isModern ? {} : client.ping(options)),
  'tools/list': (params, options) => client.listTools(params, options),
  'tools/call': (params, options) => client.callTool({ ...params, _meta }, options),
  'resources/list': (params, options) => client.listResources(params, options),
  'resources/templates/list': (params, options) => client.listResourceTemplates(params, options),
  'resources/read': (params, options) => client.readResource(params, options),
  'prompts/list': (params, options) => client.listPrompts(params, options),
  'prompts/get': (params, options) => client.getPrompt(params, options),
  'completion/complete': (params, options) => client.complete(params, options),
};
const subscriptions = {};
const filter = { toolsListChanged: true, promptsListChanged: true, resourcesListChanged: true };
const steps = await seen.take(requests, {
  watch: async (uri) => {
    if (!isModern) return client.subscribeResource({ uri });
    subscriptions[uri] = await client.listen({ ...filter, resourceSubscriptions: [uri] });
  },
  unwatch: (uri) => (isModern ? subscriptions[uri].close() : client.unsubscribeResource({ uri })),
});

const connected = {
  protocolVersion: client.getNegotiatedProtocolVersion(),
  serverInfo: client.getServerVersion(),
  capabilities: client.getServerCapabilities(),
  instructions: client.getInstructions(),
};
if (kind === 'http' && !isModern) await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ connected, steps, asked: seen.asked, told: seen.told }));
