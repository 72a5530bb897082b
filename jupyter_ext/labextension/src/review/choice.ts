/** Which changes are to be taken over. Pure. */
import type { Change } from '../model/types';

/** Whether a change may be chosen: one that conflicts only where the host's version may be overwritten. */
export function isChoosable(change: Change, force: boolean): boolean {
  return change.conflict ? force : !change.reason;
}

/** The chosen paths that are still there and may be chosen. */
export function chosenPaths(
  changes: readonly Change[],
  chosen: ReadonlySet<string>,
  force: boolean
): string[] {
  return changes.filter(each => chosen.has(each.path) && isChoosable(each, force)).map(each => each.path);
}

/** All paths that may be chosen, or none where all of them are chosen already. */
export function toggleAll(
  changes: readonly Change[],
  chosen: ReadonlySet<string>,
  force: boolean
): ReadonlySet<string> {
  const all = changes.filter(each => isChoosable(each, force)).map(each => each.path);
  return new Set(all.every(path => chosen.has(path)) ? [] : all);
}

/** The set with a path that was not in it, or without one that was. */
export function toggle(chosen: ReadonlySet<string>, path: string): ReadonlySet<string> {
  const next = new Set(chosen);
  return next.delete(path) ? next : next.add(path);
}
