// Makes from docs/openapi.json what the UI knows of the API: the types, and the list of routes with their query parameters,
// by which a page shows only what the controller it was built with offers.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import openapiTS, { astToString } from 'openapi-typescript';

const source = new URL('../../docs/openapi.json', import.meta.url);
const target = new URL('../src/lib/api/', import.meta.url);

const document = JSON.parse(readFileSync(source, 'utf8'));
const routes = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).flatMap(([method, { parameters = [] }]) => {
    const route = `${method.toUpperCase()} ${path}`;
    const query = parameters.filter((parameter) => parameter.in === 'query');
    return [route, ...query.map((parameter) => `${route}?${parameter.name}`)];
  }),
);

write('schema.d.ts', astToString(await openapiTS(document)));
write('routes.ts', `export const routes: readonly string[] = ${JSON.stringify(routes.sort(), null, 2)};\n`);

/** Leaves an unchanged file alone, so that nothing is built again for it. */
function write(name, text) {
  const file = new URL(name, target);
  if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text);
}
