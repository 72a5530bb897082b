/** Which changes are to be taken over. Pure. */
import type { Change } from '../model/types';

/** Whether a change may be chosen: one that conflicts only where the host's version may be overwritten. */
export function isChoosable(change: Change, force: boolean): boolean {
  return change.can_apply && (force || !change.conflict);
}

/** The chosen changes that are still there and may be chosen. */
export function chosenChanges(
  changes: readonly Change[],
  chosen: ReadonlySet<string>,
  force: boolean
): Change[] {
  return changes.filter(each => chosen.has(each.path) && isChoosable(each, force));
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
