'use strict';
// Random numbers for tests, decided by a seed, so that what failed can be repeated.

/** A generator (mulberry32): called with n it gives a number from 0 to n - 1. */
function dice(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) % below;
  };
}

module.exports = { dice };
