'use strict';
// What a test needs, from one place.

const nodeTest = require('node:test');
const crypto = require('node:crypto');
const { spawnSync } = require('node:child_process');
const { slow, binary } = require('./variant');
const { remote } = require('./server');

/** node's test() with a deadline; needs a server of its own. */
function test(name, options, body) {
  if (typeof options === 'function') [options, body] = [{}, options];
  const skip = remote ? 'needs a server of its own' : options.skip;
  nodeTest(name, { timeout: 60000 * slow, ...options, skip }, body);
}

/** The same for a test that any running server can take (PRESENCE_URL). */
test.anywhere = (name, body) => nodeTest(name, { timeout: 60000 * slow }, body);

let help;
/** Options that skip a test as long as the program has no such option. */
function lacks(option) {
  help ??= spawnSync(binary, ['--help'], { encoding: 'utf8' }).stdout || '';
  return help.includes(option) ? {} : { skip: `no ${option} yet` };
}

/** A user id that no other test or run uses. */
const unique = (name) => `${name}-${crypto.randomBytes(4).toString('hex')}`;

module.exports = {
  test,
  unique,
  lacks,
  ...require('./variant'),
  ...require('./wait'),
  ...require('./server'),
  ...require('./http'),
  ...require('./client'),
  ...require('./raw'),
  ...require('./proxy'),
  ...require('./crowd'),
  ...require('./timeline'),
  ...require('./pipeline'),
  ...require('./store'),
  ...require('./certs'),
  ...require('./secure'),
  ...require('./mangle'),
  ...require('./tokens'),
  ...require('./refused'),
  ...require('./admin'),
  ...require('./browser'),
  ...require('./events'),
  proc: require('./proc'),
};
