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

/** Factor for deadlines: what must happen within a time. They cost nothing when all is well. */
const slow = release ? 1 : 5;

/** Factor for windows: what a test waits for in full, to see that nothing happens in it, and the
 *  times a server is given so that they pass. Each costs what it says, so it is as small as holds. */
const window = { release: 1, asan: 1.5, tsan: 2 }[variant] ?? 2;

/** A load for release builds, and the smaller one for the sanitizers. */
const heavy = (full, small) => (release ? full : small);

module.exports = { variant, release, binary, slow, window, heavy };
