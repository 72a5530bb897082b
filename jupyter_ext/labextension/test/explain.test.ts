import assert from 'node:assert/strict';
import { test } from 'node:test';
import { advice, details, headline } from '../lib/death/explain.js';

const trans = {
  __: (text: string, ...args: string[]) =>
    args.reduce((all, each, at) => all.replace(`%${at + 1}`, each), text)
};
/** The names that hyperd gives to deaths. */
const DEATHS = [
  'out of memory',
  'wall limit',
  'cell limit',
  'disk full',
  'output limit',
  'too many processes',
  'cpu limit',
  'guest panic',
  'killed',
  'owner gone',
  'host lost',
  'firewall violation'
];

test('every death has a headline and advice of its own', () => {
  const all = DEATHS.map(each => [headline(each, trans as never), advice(each, trans as never)]);
  assert.equal(new Set(all.flat()).size, 2 * DEATHS.length);
  assert.ok(all.flat().every(Boolean));
});

test('a death that is not known is told by its name', () => {
  assert.equal(headline('boredom', trans as never), 'The kernel died: boredom');
  assert.equal(advice('boredom', trans as never), '');
});

test('a reason is told without the name that it begins with', () => {
  assert.equal(
    details('out of memory', 'out of memory: used all of its 512 MiB'),
    'used all of its 512 MiB.'
  );
  assert.equal(details('killed', 'killed'), '');
  assert.equal(details('killed', ''), '');
});
