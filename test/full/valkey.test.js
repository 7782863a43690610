'use strict';
// The second engine: what clusters are tested for with redis-server holds with valkey-server.

const assert = require('node:assert/strict');
const nodeTest = require('node:test');
const { findProgram } = require('../integration/lib/tools');
const { runFile } = require('../integration/lib/run-file');

const server = process.env.PRESENCE_VALKEY || findProgram('valkey-server');
const skip = server ? false : 'there is no valkey-server, and PRESENCE_VALKEY names none: ./build.sh test long makes one where apt-get finds its source';
const FILES = [['cluster'], ['cluster-engine'], ['cluster-webhook'], ['cluster-stats'],
  ['fake-engine', '--test-name-pattern=real engine']]; // the fake one is a Redis, whose texts are others

for (const [name, ...args] of FILES) {
  nodeTest(`${name} with valkey-server`, { skip, timeout: 400000 }, async (t) => {
    const { code, output } = await runFile(t, `integration/${name}.test.js`, { PRESENCE_ENGINE: server }, args);
    assert.equal(code, 0, output.slice(-5000));
    const [, passed] = /^# pass (\d+)$/m.exec(output);
    assert.ok(Number(passed) > 0, output);
    t.diagnostic(`${passed} passed`);
  });
}
