'use strict';
// A real Chromium for the tests of the pages, held to what every page promises: nothing on the
// console, no error, no request to elsewhere, and nothing that axe-core finds.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { chromium } = require('playwright-core');
const { SHELL } = require('../../integration/lib');

const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

/** A zone where the clock shows this hour and minute now. */
function zoneWhere(wanted) {
  const [hour, minute] = wanted.split(':').map(Number);
  const now = new Date();
  const east = (hour * 60 + minute - now.getUTCHours() * 60 - now.getUTCMinutes() + 1440) % 1440;
  const two = (n) => String(Math.floor(n)).padStart(2, '0');
  return `GMT+${two(east / 60)}:${two(east % 60)}`;
}
// What a page says of a time depends on the time of day: test/full looks at the ends of a day.
const { PAGE_TIME } = process.env;
const ZONE = PAGE_TIME ? zoneWhere(PAGE_TIME) : 'Europe/Berlin';

/** Starts Chromium with a home of its own; close() ends it and removes that. */
async function startChromium() {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), 'presence-web-'));
  const browser = await chromium.launch({ ...SHELL,
    env: { ...process.env, HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: home } });
  return {
    browser,
    close: async () => {
      await browser.close();
      fs.rmSync(home, { recursive: true, force: true, maxRetries: 3 });
    },
  };
}

/**
 * Opens a page in a context of its own, not yet its address when `blank`. `allow` are patterns of
 * console messages that belong to the test. The page gains `problems`, what it must not have said.
 */
async function openPage(chrome, url, { allow = [], blank = false, ...options } = {}) {
  const context = await chrome.browser.newContext({ viewport: { width: 1280, height: 800 },
    timezoneId: ZONE, ...options });
  const page = await context.newPage();
  page.problems = [];
  const note = (text) => allow.some((one) => one.test(text)) || page.problems.push(text);
  page.on('console', (message) => /error|warning/.test(message.type()) && note(message.text()));
  page.on('pageerror', (error) => note(error.stack));
  page.on('dialog', (dialog) => {
    page.problems.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('request', (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol.startsWith('http') && host !== new URL(url).host) note(`request to ${host}`);
  });
  page.setDefaultTimeout(30000);
  if (!blank) await page.goto(url);
  return page;
}

/** Ends a page, and holds it to its promises. */
async function closePage(page) {
  const { problems } = page;
  await page.context().close();
  assert.deepEqual(problems, []);
}

/** axe-core finds nothing on the page as it is now. */
async function checkAxe(page) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const told = found.violations.map(({ id, nodes }) =>
    `${id}: ${nodes.map((node) => `${node.html.slice(0, 160)} (${node.failureSummary})`).join('; ')}`);
  assert.deepEqual(told, []);
}

/** A pattern in which MOMENT is a time of day, with its day when that is not today. */
const moments = (pattern) => new RegExp(pattern.source.replace(/MOMENT/g, '(\\d\\d? \\w+ (\\d{4} )?)?\\d\\d:\\d\\d'));

module.exports = { startChromium, openPage, closePage, checkAxe, moments };
