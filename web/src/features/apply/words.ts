/** What was typed as a list: between commas, blanks or on lines. */
export function wordsOf(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}

/** `tier=web, app=shop` as labels. One without a value has an empty one. */
export function labelsOf(text: string): Record<string, string> {
  return Object.fromEntries(
    wordsOf(text).map((word) => {
      const [key, ...value] = word.split('=');
      return [key ?? '', value.join('=')];
    }),
  );
}

export function labelsText(labels: Record<string, string> | null | undefined): string {
  return Object.entries(labels ?? {})
    .map(([key, value]) => `${key}=${value}`)
    .join(', ');
}
