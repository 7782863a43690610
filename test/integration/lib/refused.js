'use strict';
// A start that must not happen: exit 2 and one line that says why.

const assert = require('node:assert/strict');
const { run } = require('./server');

/** Runs the program, which must refuse with one line on stderr that has all these texts; gives
 *  the line. */
async function refusedStart(args, names, options) {
  const result = await run(args, options);
  const told = `${args.join(' ')}: ${JSON.stringify(result)}`;
  assert.deepEqual([result.code, result.signal], [2, null], told);
  assert.equal(result.stdout, '', told);
  assert.equal(result.stderr.trim().split('\n').length, 1, told);
  for (const name of names) assert.ok(result.stderr.includes(name), `${name} in ${told}`);
  return result.stderr;
}

/** The same for a start and for --check-config. */
async function refusedConfig(args, names, options) {
  await refusedStart(args, names, options);
  return refusedStart(['--check-config', ...args], names, options);
}

/** --check-config says that all is well. */
async function acceptedConfig(args, options) {
  const result = await run(['--check-config', ...args], options);
  assert.deepEqual([result.code, result.stdout, result.stderr], [0, 'configuration ok\n', ''], args.join(' '));
}

module.exports = { refusedStart, refusedConfig, acceptedConfig };
