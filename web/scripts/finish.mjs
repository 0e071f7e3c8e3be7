// After the build: says how much the first page loads and refuses too much, then lays a compressed copy beside each file,
// so that the server never compresses anything while somebody waits.
import { readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const LIMIT_KB = 150;
/** Loaded at once: the entry, and the page that stands behind `/`. */
const FIRST = ['index.html', 'src/pages/Datacenter.svelte'];
const dist = new URL('../dist/', import.meta.url);

checkSize();
for (const name of readdirSync(dist, { recursive: true })) compress(String(name));
// Only for this script.
rmSync(new URL('.vite/', dist), { recursive: true });

function checkSize() {
  const manifest = JSON.parse(readFileSync(new URL('.vite/manifest.json', dist), 'utf8'));
  const files = new Set();
  const visit = (key) => {
    const chunk = manifest[key];
    if (!chunk) throw new Error(`the build has no ${key}`);
    if (files.has(chunk.file)) return;
    files.add(chunk.file);
    chunk.imports?.forEach(visit);
  };
  FIRST.forEach(visit);
  let total = 0;
  for (const file of files) total += gzipSync(readFileSync(new URL(file, dist))).length;
  console.log(`first page: ${(total / 1000).toFixed(1)} kB of JavaScript (gzip) in ${files.size} files, limit ${LIMIT_KB} kB`);
  if (total > LIMIT_KB * 1000) {
    console.error('too much for the first page: load what it does not need with import()');
    process.exit(1);
  }
}

function compress(name) {
  const file = new URL(name, dist);
  if (!/\.(js|css|html|svg)$/.test(name) || !statSync(file).isFile()) return;
  const content = readFileSync(file);
  if (content.length < 1000) return;
  writeFileSync(new URL(`${name}.gz`, dist), gzipSync(content, { level: 9 }));
  writeFileSync(
    new URL(`${name}.br`, dist),
    brotliCompressSync(content, { params: { [constants.BROTLI_PARAM_QUALITY]: 10, [constants.BROTLI_PARAM_SIZE_HINT]: content.length } }),
  );
}
