'use strict';
// The server's time under a test's hand, where something can be put between it and the clock: in
// the sanitizer builds. The released binary is static, and lives in real time.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { ahead } = require('./http');
const { tempDir } = require('./server');
const { release, variant } = require('./variant');

/** The environment that preloads a file of lib/, compiled for this test: in the sanitizer builds. */
function preload(t, source) {
  const file = path.join(tempDir(t), `${source}.so`);
  execFileSync('gcc', ['-shared', '-fPIC', '-O1', '-o', file, path.join(__dirname, source)]);
  return {
    LD_PRELOAD: file,
    ...(variant === 'asan' && { ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:verify_asan_link_order=0` }),
  };
}

/** A server's UTC under our hand: `env` to start it with, `set` to step it by seconds. */
function steppable(t) {
  const step = path.join(tempDir(t), 'step');
  const set = (seconds) => {
    fs.writeFileSync(`${step}.new`, String(seconds));
    fs.renameSync(`${step}.new`, step);
  };
  set(0);
  return { env: { ...preload(t, 'clock.c'), STEP_CLOCK: step }, set };
}

/** The environment of a server for which time goes `times` as fast from its start; UTC only if asked,
 *  so that its stamps are ours. The released binary takes its time. */
function hurried(t, times, { utc = false } = {}) {
  if (release) return {};
  ahead.ms = 10; // the program's UTC goes with its monotonic clock until they are 10 ms apart
  const files = { CLOCK_CALM: path.join(tempDir(t), 'calm'), ...(utc && { CLOCK_UTC: '1' }) };
  return { ...preload(t, 'clock.c'), CLOCK_SPEED: String(times), ...files };
}

/** Lets the time of a server that was started with this environment go as ours from now on. */
function calm(env) {
  if (env.CLOCK_CALM) fs.writeFileSync(env.CLOCK_CALM, '');
}

module.exports = { preload, steppable, hurried, calm };
