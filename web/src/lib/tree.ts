// Things that grew from one another, as lines with a depth. Pure. What has no known parent is a root; a circle, which the
// server never makes, is not followed for ever.
export interface TreeLine<T> {
  item: T;
  depth: number;
}

export function treeOf<T>(items: readonly T[], nameOf: (item: T) => string, parentOf: (item: T) => string | undefined): TreeLine<T>[] {
  const names = new Set(items.map(nameOf));
  const children = new Map<string | undefined, T[]>();
  for (const item of items) {
    const parent = parentOf(item);
    const key = parent !== undefined && names.has(parent) && parent !== nameOf(item) ? parent : undefined;
    children.set(key, [...(children.get(key) ?? []), item]);
  }
  const lines: TreeLine<T>[] = [];
  const seen = new Set<string>();
  const walk = (parent: string | undefined, depth: number) => {
    for (const item of children.get(parent) ?? []) {
      const name = nameOf(item);
      if (seen.has(name)) continue;
      seen.add(name);
      lines.push({ item, depth });
      walk(name, depth + 1);
    }
  };
  walk(undefined, 0);
  for (const item of items) if (!seen.has(nameOf(item))) lines.push({ item, depth: 0 });
  return lines;
}
