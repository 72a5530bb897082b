import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  basename,
  bytes,
  bytesOf,
  duration,
  imageName,
  mebibytes,
  moreMemory,
  share
} from '../lib/model/figures.js';

test('sizes have at most three digits that count', () => {
  assert.deepEqual([0, 1023, 1024, 1536, 512 << 20].map(bytes), [
    '0 B',
    '1023 B',
    '1 KiB',
    '1.5 KiB',
    '512 MiB'
  ]);
  assert.equal(mebibytes(1536), '1.5 GiB');
  assert.equal(mebibytes(65536), '64 GiB');
});

test('a part has the unit of the whole', () => {
  assert.deepEqual(bytesOf(210 << 20, 512 << 20), ['210', '512 MiB']);
  assert.deepEqual(bytesOf(205 << 20, 1 << 30), ['0.2', '1 GiB']);
  assert.deepEqual(bytesOf(0, 512), ['0', '512 B']);
});

test('times are in their largest unit', () => {
  assert.deepEqual([0, 0.4, 59, 60, 90, 5400, 36000, 200000].map(duration), [
    '0 s',
    '0 s',
    '59 s',
    '1 min',
    '1.5 min',
    '1.5 h',
    '10 h',
    '2.5 d'
  ]);
});

test('a share is from 0 to 1', () => {
  assert.deepEqual([share(1, 2), share(3, 2), share(-1, 2), share(1, 0)], [0.5, 1, 0, 0]);
});

test('memory is doubled up to the cap', () => {
  assert.equal(moreMemory(512, null), 1024);
  assert.equal(moreMemory(512, 768), 768);
  assert.equal(moreMemory(512, 512), null);
});

test('names are short', () => {
  assert.equal(imageName('hyper/python:latest'), 'hyper/python');
  assert.equal(imageName('hyper/python:3.11'), 'hyper/python:3.11');
  assert.equal(basename('a/b/c.ipynb'), 'c.ipynb');
  assert.equal(basename('c.ipynb'), 'c.ipynb');
});
