// Empties web/dist before a build, but for its .gitignore: the folder itself is part of the repository, because the binary
// embeds it and is built without the UI too.
import { existsSync, readdirSync, rmSync } from 'node:fs';

const dist = new URL('../dist/', import.meta.url);
if (existsSync(dist)) {
  for (const name of readdirSync(dist)) {
    if (name !== '.gitignore') rmSync(new URL(name, dist), { recursive: true });
  }
}
