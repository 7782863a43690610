'use strict';
// What the other files of this folder start: the released program, and the one under sanitizers.

const assert = require('node:assert/strict');
const { test, run } = require('../integration/lib');

const { PRESENCE_BIN_ASAN: asan } = process.env;

test('the program under sanitizers is the same version as the released one', {
  skip: asan ? false : 'PRESENCE_BIN_ASAN names no program: ./build.sh asan makes one',
}, async (t) => {
  const [plain, watched] = await Promise.all([
    run(['--version']),
    run(['--version'], { program: asan, deadline: 60000 }),
  ]);
  assert.equal(plain.code, 0);
  assert.deepEqual([watched.code, watched.stdout, watched.stderr], [0, plain.stdout, plain.stderr]);
});
