/** Which of many sandboxes somebody looks for. Pure. */

/** More sandboxes than that are too many to look through, and can be searched. */
export const MANY = 8;

/** Whether each word of a query stands somewhere in what is known of something; upper and lower case are the same. */
export function isFound(known: readonly string[], query: string): boolean {
  const text = known.join('\n').toLowerCase();
  return query
    .toLowerCase()
    .split(/\s+/)
    .every(word => text.includes(word));
}
