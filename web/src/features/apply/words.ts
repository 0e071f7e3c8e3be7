/** What was typed as a list: between commas, blanks or on lines. */
export function wordsOf(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}
