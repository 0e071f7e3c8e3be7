/** What the server found wrong with one of these fields, by the names it uses (`spec.memory`). */
export function wrongIn(problem: { fields?: { field: string; message: string }[] } | undefined, ...fields: string[]): string | undefined {
  return problem?.fields?.find(({ field }) => fields.includes(field))?.message;
}
