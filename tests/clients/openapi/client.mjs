// A client made from the document of a gateway: node client.mjs FOLDER_OF_PACKAGES URL KEY [OPERATION ARGUMENTS]...
//
// Prints one JSON array: for each operation, called with its arguments, status and data.

import { createRequire } from "node:module";
import { join } from "node:path";

const [packages, url, key, ...calls] = process.argv.slice(2);
const { OpenAPIClientAxios } = createRequire(join(packages, "package.json"))("openapi-client-axios");

const headers = { "X-API-Key": key };
const definition = await (await fetch(url, { headers })).json();
const api = new OpenAPIClientAxios({ definition, axiosConfigDefaults: { headers, validateStatus: () => true } });
// The document says where it stands itself, which a client in a page would not need to be told.
api.withServer({ url: new URL((definition.servers ?? [{ url: "/" }])[0].url, url).href.replace(/\/$/, "") });
const client = await api.init();
const answers = [];
for (let i = 0; i < calls.length; i += 2) {
  const { status, data } = await client[calls[i]](null, JSON.parse(calls[i + 1]));
  answers.push({ status, data });
}
console.log(JSON.stringify(answers));
