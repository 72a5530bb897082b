import assert from 'node:assert/strict';
import { test } from 'node:test';
import { remember, type Sample, sparkline, SPAN_S } from '../lib/model/history.js';

const samples = (...pairs: [number, number][]): readonly Sample[] =>
  pairs.reduce<readonly Sample[]>((all, [at, value]) => remember(all, at, value), []);

test('what is older than the span is forgotten', () => {
  assert.deepEqual(
    samples([0, 1], [30, 2], [SPAN_S + 1, 3]).map(each => each.at),
    [30, SPAN_S + 1]
  );
});

test('what was measured before changes nothing', () => {
  const one = samples([10, 1]);
  assert.equal(remember(one, 10, 5), one);
  assert.equal(remember(one, 9, 5), one);
});

test('the newest is at the right edge, and the most at the top', () => {
  assert.equal(sparkline(samples([0, 0], [10, 100]), 100, 60, 10), 'M50.0 10.0L60.0 0.0');
});

test('a gap stays open, and nothing is no path', () => {
  assert.equal(sparkline(samples([0, 0], [30, 0]), 100, 60, 10), 'M30.0 10.0M60.0 10.0');
  assert.equal(sparkline([], 100, 60, 10), '');
});
