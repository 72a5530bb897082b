import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chosenChanges, isChoosable, toggle, toggleAll } from '../lib/review/choice.js';

const change = (path: string, more = {}) => ({
  path,
  shown: path,
  is_folder: false,
  hidden: false,
  can_apply: true,
  kind: 'changed' as const,
  size: 1,
  digest: '',
  is_text: true,
  conflict: false,
  reason: '',
  ...more
});
const PLAIN = change('a');
const CONFLICT = change('b', { conflict: true, reason: 'changed on the host' });
const IMPOSSIBLE = change('c', { can_apply: false, reason: 'a link' });
const ALL = [PLAIN, CONFLICT, IMPOSSIBLE];

test('a conflict can be chosen only by force, and what cannot be applied never', () => {
  assert.deepEqual(
    ALL.map(each => [isChoosable(each, false), isChoosable(each, true)]),
    [
      [true, true],
      [false, true],
      [false, false]
    ]
  );
});

test('without force, a conflict that was chosen with it is left out', () => {
  const chosen = new Set(['a', 'b', 'gone']);
  assert.deepEqual(chosenChanges(ALL, chosen, true), [PLAIN, CONFLICT]);
  assert.deepEqual(chosenChanges(ALL, chosen, false), [PLAIN]);
});

test('all, and then none', () => {
  const all = toggleAll(ALL, new Set(), false);
  assert.deepEqual([...all], ['a']);
  assert.deepEqual([...toggleAll(ALL, all, false)], []);
  assert.deepEqual([...toggleAll(ALL, all, true)], ['a', 'b']);
});

test('one more, and one less', () => {
  assert.deepEqual([...toggle(new Set(['a']), 'b')], ['a', 'b']);
  assert.deepEqual([...toggle(new Set(['a', 'b']), 'a')], ['b']);
});
