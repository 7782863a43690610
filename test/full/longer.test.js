'use strict';
// Tests that search, as the default run has them for seconds, for minutes: followers beside joins,
// kicks and restarts, by the released program and under sanitizers; tabs in a bad place.

const assert = require('node:assert/strict');
const nodeTest = require('node:test');
const { runFile } = require('../integration/lib/run-file');

const { PRESENCE_BIN_ASAN: asan } = process.env;
const SECONDS = process.env.PROPERTY_SECONDS || '180';
const underSanitizers = { PRESENCE_BIN: asan, PRESENCE_VARIANT: 'asan' };
const noAsan = asan ? false : 'PRESENCE_BIN_ASAN names no program: ./build.sh asan makes one';

const SEARCHES = [
  ['followers know what the API answers', 'integration/watch-property.test.js', { PROPERTY_SECONDS: SECONDS }],
  ['followers know what the API answers, under sanitizers', 'integration/watch-property.test.js', { PROPERTY_SECONDS: SECONDS, ...underSanitizers }, noAsan],
  ['an hour and a half of five tabs in a bad place', 'web/chaos.test.js', { CHAOS_MINUTES: '90' }],
];

for (const [what, file, env, skip = false] of SEARCHES) {
  nodeTest(what, { skip, timeout: 900000 }, async (t) => {
    const { code, output } = await runFile(t, file, env);
    for (const [, told] of output.matchAll(/^ *# (.*(?:seed|rounds).*)$/gm)) t.diagnostic(told);
    assert.equal(code, 0, output.slice(-5000));
  });
}
