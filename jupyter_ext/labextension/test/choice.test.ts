import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chosenPaths, isChoosable, toggle, toggleAll } from '../lib/review/choice.js';

const change = (path: string, more = {}) => ({
  path,
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
const IMPOSSIBLE = change('c', { reason: 'a link' });
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
  assert.deepEqual(chosenPaths(ALL, chosen, true), ['a', 'b']);
  assert.deepEqual(chosenPaths(ALL, chosen, false), ['a']);
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
