'use strict';
// What a test needs, from one place.

const nodeTest = require('node:test');
const crypto = require('node:crypto');
const { slow } = require('./variant');
const { remote } = require('./server');

/** node's test() with a deadline; needs a server of its own. */
function test(name, options, body) {
  if (typeof options === 'function') [options, body] = [{}, options];
  const skip = remote ? 'needs a server of its own' : options.skip;
  nodeTest(name, { timeout: 60000 * slow, ...options, skip }, body);
}

/** The same for a test that any running server can take (PRESENCE_URL). */
test.anywhere = (name, body) => nodeTest(name, { timeout: 60000 * slow }, body);

/** Runs the tests that `body` names side by side: for those that mostly wait. */
const sideBySide = (body) => nodeTest.describe('side by side', { concurrency: true }, body);

/** A user id that no other test or run uses. */
const unique = (name) => `${name}-${crypto.randomBytes(4).toString('hex')}`;

module.exports = {
  test,
  sideBySide,
  unique,
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
  ...require('./receiver'),
  ...require('./fake-acme'),
  ...require('./ports'),
  ...require('./real-engine'),
  ...require('./engine'),
  ...require('./watch'),
  ...require('./watchers'),
  ...require('./tools'),
  ...require('./clock'),
  ...require('./random'),
  ...require('./manager'),
  proc: require('./proc'),
};
