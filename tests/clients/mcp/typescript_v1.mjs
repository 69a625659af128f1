// The TypeScript SDK 1 as a client: `typescript_v1.mjs legacy stdio COMMAND...` or `... legacy http URL`, a plan on
// standard input. Prints one JSON document of everything it saw.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
} from '@modelcontextprotocol/sdk/types.js';

import { Seen, capabilities, headers, kind, plan, target } from './seen.mjs';

const seen = new Seen();
const client = new Client({ name: 'typescript-v1', version: '1.0.0' }, { capabilities });
if (capabilities.sampling) client.setRequestHandler(CreateMessageRequestSchema, (request) => seen.answer(request));
if (capabilities.elicitation) client.setRequestHandler(ElicitRequestSchema, (request) => seen.answer(request));
if (capabilities.roots) client.setRequestHandler(ListRootsRequestSchema, (request) => seen.answer(request));
client.fallbackNotificationHandler = async (notification) => seen.hear(notification);

const transport =
  kind === 'stdio'
    ? new StdioClientTransport({ command: target[0], args: target.slice(1), env: process.env, stderr: 'ignore' })
    : new StreamableHTTPClientTransport(new URL(target[0]), { requestInit: { headers } });
await client.connect(transport);
if (plan.logLevel) await client.setLoggingLevel(plan.logLevel);

const requests = {
  ping: (_params, options) => client.ping(options),
  'tools/list': (params, options) => client.listTools(params, options),
  'tools/call': (params, options) => client.callTool(params, undefined, options),
  'resources/list': (params, options) => client.listResources(params, options),
  'resources/templates/list': (params, options) => client.listResourceTemplates(params, options),
  'resources/read': (params, options) => client.readResource(params, options),
  'prompts/list': (params, options) => client.listPrompts(params, options),
  'prompts/get': (params, options) => client.getPrompt(params, options),
  'completion/complete': (params, options) => client.complete(params, options),
};
const steps = await seen.take(requests, {
  watch: (uri) => client.subscribeResource({ uri }),
  unwatch: (uri) => client.unsubscribeResource({ uri }),
});

const connected = {
  serverInfo: client.getServerVersion(),
  capabilities: client.getServerCapabilities(),
  instructions: client.getInstructions(),
};
if (kind === 'http') await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ connected, steps, asked: seen.asked, told: seen.told }));
