'use strict';
// Which build is tested: release (default), or asan / tsan, which are slower
// and get more time and smaller loads.

const path = require('node:path');

const variant = process.env.PRESENCE_VARIANT || 'release';
const release = variant === 'release';
const binary = path.resolve(
  process.env.PRESENCE_BIN ||
    path.join(__dirname, '../../../build', release ? 'presence' : `presence-${variant}`),
);

/** Factor for every deadline that a test gives the server. */
const slow = release ? 1 : 5;

/** A load for release builds, and the smaller one for the sanitizers. */
const heavy = (full, small) => (release ? full : small);

module.exports = { variant, release, binary, slow, heavy };
