'use strict';
// Waiting for things to become true. Tests never sleep instead of waiting for
// a condition; the one exception is throughout(), which observes for a while
// that nothing happens.

const { slow } = require('./variant');

const delay = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Polls `check` until it returns something true, and returns that. A throwing
 *  check counts as "not yet"; its last error explains the failure. It fails
 *  before the deadline when `giveUp` says that there is no hope. */
async function until(what, check, { within = 5000 * slow, every = 15, giveUp = () => false } = {}) {
  const deadline = Date.now() + within;
  for (;;) {
    let problem;
    try {
      const value = await check();
      if (value) return value;
    } catch (error) {
      problem = error;
    }
    if (Date.now() > deadline || giveUp()) {
      throw new Error(`not within ${within} ms: ${what}${problem ? ` (${problem.message})` : ''}`);
    }
    await delay(every);
  }
}

/** Runs `check` again and again for `ms`; it must never throw. */
async function throughout(ms, check, { every = 20 } = {}) {
  const end = Date.now() + ms;
  do {
    await check();
    await delay(every);
  } while (Date.now() < end);
}

/** The promise's value, or an error when it is not there within `ms`. */
async function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

module.exports = { delay, until, throughout, within };
