'use strict';
// A real Chromium, with a home of its own in which it trusts one authority (or none).

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { cleanup, tempDir } = require('./server');

const CHROMIUM = {
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
};

/** The same engine without the browser around it, at half the price: the pages of test/web are in it, but where all is
 *  wanted (./build.sh test STEP), and where a test is about what only a browser has. */
const SHELL = process.env.PRESENCE_THOROUGH ? CHROMIUM : { ...CHROMIUM, executablePath: '/usr/bin/chromium-headless-shell' };

/** Starts Chromium for the test `t`; it trusts `authority` when there is one. Gives playwright's
 *  browser context. */
async function startBrowser(t, authority) {
  const { chromium } = require('playwright-core');
  const home = tempDir(t);
  const store = path.join(home, '.pki', 'nssdb');
  fs.mkdirSync(store, { recursive: true });
  const certutil = (...args) => execFileSync('certutil', ['-d', `sql:${store}`, ...args], { stdio: 'pipe' });
  certutil('-N', '--empty-password');
  if (authority) certutil('-A', '-t', 'C,,', '-n', 'test authority', '-i', authority.file);
  const context = await chromium.launchPersistentContext(path.join(home, 'profile'), {
    ...CHROMIUM,
    env: { ...process.env, HOME: home, XDG_CONFIG_HOME: path.join(home, 'config'), XDG_CACHE_HOME: path.join(home, 'cache') },
  });
  cleanup(t, () => context.close());
  return context;
}

module.exports = { CHROMIUM, SHELL, startBrowser };
