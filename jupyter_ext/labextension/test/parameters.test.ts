import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fields, wish } from '../lib/launch/parameters.js';

const PARAMETERS = {
  properties: {
    image: { title: 'Image', enum: ['hyper/python:latest'] },
    memory_mib: { title: 'Memory', enum: [256, 512, 1024] },
    wall_s: { enum: [600] },
    files: { enum: ['copy', 'none', 'ro', 'rw'] }
  }
};
const POLICY = {
  file: '',
  ignored: '',
  problem: '',
  sandbox: { memory_mib: { default: 512, cap: 768 }, wall_s: { default: null, cap: null } },
  user: {},
  output: { trusted: false },
  isolation: { tier: 'software' },
  files: { modes: ['none'] }
};
const values = (images = [] as string[], policy: typeof POLICY | null = POLICY) =>
  Object.fromEntries(
    fields(PARAMETERS, policy, [{ id: '', names: images, created_s: 0, size: 0 }]).map(each => [
      each.name,
      each.values
    ])
  );

test('only what policy allows can be chosen, and the cap itself', () => {
  assert.deepEqual(values().memory_mib, [256, 512, 768]);
  assert.deepEqual(values().wall_s, [600]);
  assert.deepEqual(values().files, ['none']);
});

test('without a policy all that the kernelspec knows can be chosen, but for live folders', () => {
  assert.deepEqual(values([], null).memory_mib, [256, 512, 1024]);
  assert.deepEqual(values([], null).files, ['copy', 'none']);
});

test('live folders are offered where policy allows them', () => {
  assert.deepEqual(values([], { ...POLICY, files: { modes: ['copy', 'ro'] } }).files, ['copy', 'ro']);
  assert.deepEqual(values([], { ...POLICY, files: { modes: ['copy', 'none', 'ro', 'rw'] } }).files, [
    'copy',
    'none',
    'ro',
    'rw'
  ]);
});

test('images that are here can be chosen, each once', () => {
  assert.deepEqual(values(['hyper/python:latest', 'own:1']).image, ['hyper/python:latest', 'own:1']);
});

test('fields tell default and cap', () => {
  const [image, memory, wall] = fields(PARAMETERS, POLICY, []);
  assert.deepEqual([image?.title, image?.fallback, image?.cap], ['Image', 'hyper/python:latest', null]);
  assert.deepEqual([memory?.title, memory?.fallback, memory?.cap], ['Memory', 512, 768]);
  assert.deepEqual([wall?.title, wall?.fallback, wall?.cap], ['wall_s', null, null]);
});

test('a wish holds what was chosen, limits apart', () => {
  assert.deepEqual(wish('a.ipynb', { memory_mib: 256, wall_s: 600, image: null }), {
    path: 'a.ipynb',
    memory_mib: 256,
    limits: { wall_s: 600 }
  });
  assert.deepEqual(wish('a.ipynb', { wall_s: null }), { path: 'a.ipynb' });
});

test('where no policy is known, neither is what is usual', () => {
  const [image, memory] = fields(PARAMETERS, null, []);
  assert.deepEqual([image?.fallback, memory?.fallback], ['hyper/python:latest', undefined]);
});
