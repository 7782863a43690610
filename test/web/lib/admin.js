'use strict';
// What the tests of the admin page share: one Chromium for a file, the page against a stand-in for
// the server, and what can be read on it.

const nodeTest = require('node:test');
const { startStandin } = require('./standin');
const { startChromium, openPage, closePage } = require('./pages');

const { before, after } = nodeTest;
const test = (name, body) => nodeTest(name, { timeout: 60000 }, body);
const MINUTE = 60000;
let chrome;
before(async () => { chrome = await startChromium(); });
after(() => chrome.close());

/** The Chromium of this file. */
const browser = () => chrome;

/** Opens the admin page of a stand-in with these options, or with `blank` a page that is yet to go
 *  there; both end with the test. */
async function admin(t, options, { hash = '', ...more } = {}) {
  const server = await startStandin(options);
  const page = await openPage(chrome, `${server.url}/admin/${hash}`, more);
  t.after(async () => {
    await closePage(page).finally(() => server.close());
  });
  return { server, page };
}

/** Waits until the indicator has this state. */
const connection = (page, state) => page.waitForSelector(`#connection[data-state="${state}"]`);

/** The lines of the list as they can be read, without times. */
const lines = (page) => page.$$eval('#rows tr', (rows) => rows.map((tr) =>
  [...tr.children].slice(0, 4).map((cell) => cell.textContent).join(' | ')));

/** Waits until the list's first column is this. */
const untilUsers = (page, ids) => page.waitForFunction((wanted) => {
  const found = [...document.querySelectorAll('#rows th')].map((th) => th.innerText.trim());
  return JSON.stringify(found) === JSON.stringify(wanted);
}, ids);

const text = (page, id) => page.locator(`#${id}`).innerText();
const untilText = (page, id, pattern) => page.waitForFunction(([name, source]) =>
  new RegExp(source).test(document.getElementById(name).innerText), [id, pattern.source]);

const three = (now = Date.now()) => ({
  alice: { connections: 2, since: now - 42 * MINUTE, seen: now - 4000, first: now - 9e8, sessions: [
    { from: '2026-11-24T12:20:00.000Z', to: '2026-11-24T13:02:00.000Z', reason: 'dropped',
      address: '192.0.2.10' },
    { from: '2026-11-24T08:00:00.000Z', to: '2026-11-24T08:01:00.000Z', reason: 'closed',
      address: '2001:db8::17' }] },
  bob: { status: 'away', source: 'cached', connections: 0, since: now - 12 * MINUTE },
  carol: { status: 'busy', since: now - 180 * MINUTE },
});

/** A page whose admin is signed in. */
async function signedIn(t) {
  const { page } = await admin(t, { users: three(), password: 'secret' },
    { allow: [/ERR_|status of 401/] });
  await page.fill('#password', 'secret');
  await page.keyboard.press('Enter');
  await connection(page, 'connected');
  return page;
}

module.exports = { MINUTE, test, browser, admin, connection, lines, untilUsers, text, untilText, three, signedIn };
