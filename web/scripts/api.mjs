// Makes from docs/openapi.json what the UI knows of the API. Runs before each check and each build, so that it can't be
// out of date; what uses something that is not there any more does not compile.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import openapiTS, { astToString } from 'openapi-typescript';

const source = new URL('../../docs/openapi.json', import.meta.url);
const target = new URL('../src/lib/api/schema.d.ts', import.meta.url);

const document = JSON.parse(readFileSync(source, 'utf8'));
// What has a default need not be sent.
const text = astToString(await openapiTS(document, { defaultNonNullable: false }));
// An unchanged file is left alone, so that nothing is built again for it.
if (!existsSync(target) || readFileSync(target, 'utf8') !== text) writeFileSync(target, text);
