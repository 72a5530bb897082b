import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isFound } from '../src/panel/find.ts';

const KNOWN = ['Analysis.ipynb', 'quick-otter', 'hyper/python', 'busy'];

test('a word may stand anywhere, in any case', () => {
  assert.ok(isFound(KNOWN, 'analysis'));
  assert.ok(isFound(KNOWN, 'OTTER'));
  assert.ok(!isFound(KNOWN, 'idle'));
});

test('all words must stand there, in any order', () => {
  assert.ok(isFound(KNOWN, 'busy  python'));
  assert.ok(!isFound(KNOWN, 'busy gpu'));
});

test('a word does not run from one fact into the next', () => {
  assert.ok(!isFound(KNOWN, 'ipynbquick'));
});

test('nothing asked for is all', () => {
  assert.ok(isFound(KNOWN, ''));
  assert.ok(isFound([], '  '));
});
