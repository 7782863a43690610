'use strict';
// The demo page in Chromium, against the real server.

const assert = require('node:assert/strict');
const nodeTest = require('node:test');
const { before, after } = nodeTest;
const { start, cleanup } = require('../integration/lib/server');
const { connect } = require('../integration/lib/client');
const { del, get, json } = require('../integration/lib/http');
const { until } = require('../integration/lib/wait');
const { startChromium, openPage, closePage, checkAxe } = require('./lib/pages');

let chrome;
before(async () => { chrome = await startChromium(); });
after(() => chrome.close());

/** A test with a server and a way to open tabs on it. */
function test(name, body) {
  nodeTest(name, { timeout: 60000 }, async (t) => {
    const server = await start(t);
    const demo = await get(server, '/demo.js');
    const client = await get(server, '/presence.js');
    if (demo.status !== 200 || client.status !== 200) return t.skip('no demo, or no client, in it');
    const tab = async (options = {}) => {
      const page = await openPage(chrome, `http://127.0.0.1:${server.port}/`, options);
      cleanup(t, () => closePage(page)); // before the server goes
      return page;
    };
    return body(server, tab);
  });
}

/** Goes online in a tab. */
async function online(page, name) {
  await page.fill('#name', name);
  await page.click('#start button');
  await page.waitForSelector('#you[data-state="connected"]');
}

/** Waits until the list of a tab reads like this: 'alice: you, 1 connection / online / live'. */
const untilOthers = (page, wanted) => page.waitForFunction((lines) => {
  const found = [...document.querySelectorAll('#others li')].map((li) => {
    const [id, facts, status, source] = [...li.children].map((one) => one.textContent);
    return `${id}: ${facts.replace(/, [^,]*$/, '')} / ${status} / ${source}`;
  });
  return JSON.stringify(found) === JSON.stringify(lines);
}, wanted);

test('two tabs see each other, and status; the same name twice is one user', async (server, tab) => {
  const first = await tab();
  assert.equal(await first.locator('#nobody').isVisible(), true);
  await checkAxe(first);
  await online(first, 'alice');
  const second = await tab();
  await online(second, 'bob');
  await second.selectOption('#status', 'busy');
  await untilOthers(first, ['alice: you, 1 connection / online / live',
    'bob: 1 connection / busy / live']);
  const third = await tab();
  await online(third, 'alice');
  await untilOthers(second, ['alice: 2 connections / online / live',
    'bob: you, 1 connection / busy / live']);
  await checkAxe(second);
  await second.click('#stop');
  await untilOthers(first, ['alice: you, 2 connections / online / live']);
  assert.equal(await second.locator('#start').isVisible(), true);
});

test('what was set before a reload, or in another tab, is what the form says', async (server, tab) => {
  const page = await tab();
  await online(page, 'alice');
  for (const [status, wanted] of [['busy', 'busy'], ['invisible', 'offline'], ['away', 'away']]) {
    await page.fill('#message', `so ${status}`);
    await page.selectOption('#status', status);
    const now = (user) => user.status === wanted && (user.message ?? '') === `so ${status}`;
    await until(status, async () => now(await json(server, '/api/presence/alice')));
    await page.reload();
    await page.waitForFunction((value) => document.getElementById('status').value === value, status);
    assert.equal(await page.inputValue('#message'), `so ${status}`);
  }
  const second = await tab();
  await online(second, 'alice');
  await second.waitForFunction(() => document.getElementById('status').value === 'away');
  await second.selectOption('#status', 'online');
  await untilOthers(second, ['alice: you, 2 connections / online / live']);
});

test('a cut network: cached, attempts are counted, and it comes back', async (server, tab) => {
  const page = await tab();
  await online(page, 'alice');
  await page.click('#cut');
  await page.waitForSelector('#you[data-state="trying"]');
  assert.equal(await page.getAttribute('#cut', 'aria-pressed'), 'true');
  await untilOthers(page, ['alice: you, 0 connections / online / cached']);
  await page.waitForFunction(() => document.getElementById('attempt').innerText === '2 of 5');
  await checkAxe(page);
  assert.equal((await json(server, '/api/presence/alice')).source, 'cached');
  await page.click('#cut');
  await page.waitForSelector('#you[data-state="connected"]');
  assert.equal(await page.locator('#reconnected').innerText(), '1');
  assert.equal(await page.locator('#attempt').innerText(), '0');
  const log = await page.$$eval('#log li', (all) => all.map((li) => li.lastChild.textContent));
  assert.equal(log[0], 'Connected again');
  assert.deepEqual(log.slice(-3), ['Connection lost (1006)', 'You cut the network', 'Connected']);
  const { sessions } = await json(server, '/admin/users/alice/sessions');
  assert.deepEqual(sessions.map((stay) => stay.to), [null], 'the same stay');
});

test('a cut for longer than the grace time is a lost connection to the server', async (server, tab) => {
  const page = await tab();
  await online(page, 'alice');
  await page.click('#cut');
  await untilOthers(page, []);
  await page.waitForFunction(async () => {
    const answer = await fetch('/admin/users/alice/sessions');
    return (await answer.json()).sessions[0]?.reason === 'dropped';
  });
  await page.click('#cut');
  await untilOthers(page, ['alice: you, 1 connection / online / live']);
});

/** Waits until the followed of a tab read like this: 'bob: in a meeting / busy / live'. */
const untilFollowed = (page, wanted) => page.waitForFunction((lines) => {
  const found = [...document.querySelectorAll('#followed li')].map((li) =>
    [...li.querySelector('.about').children].map((one) => one.textContent).join(' / ').trim());
  return JSON.stringify(found) === JSON.stringify(lines);
}, wanted);

test('following: status and message come, and are stale while the network is cut', async (server, tab) => {
  const first = await tab();
  await first.fill('#whom', 'bob');
  await first.click('#follow button');
  await untilFollowed(first, ['not known yet']);
  await online(first, 'alice');
  await untilFollowed(first, ['/ offline / stored']);
  const second = await tab();
  await online(second, 'bob');
  await untilFollowed(first, ['/ online / live']);
  await second.fill('#message', '<b>in a meeting</b>');
  await second.selectOption('#status', 'busy');
  await untilFollowed(first, ['<b>in a meeting</b> / busy / live']);
  await checkAxe(first);
  await first.click('#cut');
  await untilFollowed(first, ['<b>in a meeting</b> (stale) / busy / live']);
  await checkAxe(first);
  await second.selectOption('#status', 'invisible');
  await first.click('#cut');
  await untilFollowed(first, ['<b>in a meeting</b> / offline / stored']);
  await second.fill('#message', '');
  await second.selectOption('#status', 'online');
  await untilFollowed(first, ['/ online / live']);
  await second.fill('#message', 'gone');
  await second.click('#stop');
  await untilFollowed(first, ['gone / offline / stored']);
  assert.equal(await second.inputValue('#message'), '');

  await first.fill('#whom', 'bob'); // once is enough
  await first.press('#whom', 'Enter');
  await first.fill('#whom', '\u202ecarol');
  await first.press('#whom', 'Enter');
  await untilFollowed(first, ['gone / offline / stored', '/ offline / stored']);
  assert.equal(await first.locator('#followed li >> nth=1').locator('bdi >> nth=0').innerText(),
    'U+202Ecarol');
  await first.click('#followed li >> nth=0 >> button');
  await untilFollowed(first, ['/ offline / stored']);
  assert.equal(await first.locator('#followed li').count(), 1);
});

test('the log is under You, one row of buttons, and who is online is no part of who is followed', async (server, tab) => {
  const page = await tab();
  await online(page, 'alice');
  await untilOthers(page, ['alice: you, 1 connection / online / live']);
  assert.deepEqual(await page.$$eval('section', (all) => all.map((one) => [...one.querySelectorAll('h2')].map((h2) => h2.innerText.trim()))),
    [['You', 'What happened in this tab', 'Try this'], ['Followed'], ['Online now 1']]);
  const tops = await page.$$eval('#running button', (all) => all.map((one) => one.getBoundingClientRect().top));
  assert.deepEqual([tops.length, new Set(tops).size], [2, 1]);
  assert.equal(await page.locator('#you #log li').count(), 1);
});

test('a reload goes on with the same name and the same stay', async (server, tab) => {
  const page = await tab();
  await online(page, 'alice');
  const { connected_at: since } = await json(server, '/api/presence/alice');
  await page.reload();
  await page.waitForSelector('#you[data-state="connected"]');
  assert.equal(await page.locator('#me').innerText(), 'alice');
  assert.equal((await json(server, '/api/presence/alice')).connected_at, since);
});

test('who is kicked is told, and stays offline', async (server, tab) => {
  const page = await tab();
  await online(page, 'alice');
  assert.equal((await del(server, '/admin/users/alice/connections')).json.closed, 1);
  await page.waitForSelector('#start:not([hidden])');
  assert.match(await page.locator('#log li >> nth=0').innerText(), /\(kicked\)$/);
  await untilOthers(page, []);
});

test('A01 hostile names are text here too; phone width and dark are as readable', async (server, tab) => {
  for (const id of ['"><svg/onload=alert(1)>', '__proto__', '\u202eadmin']) await connect(server, id);
  const page = await tab({ viewport: { width: 360, height: 740 }, colorScheme: 'dark' });
  await online(page, '<img src=x onerror=alert(1)>');
  assert.equal(await page.locator('#me').innerText(), '<img src=x onerror=alert(1)>');
  await untilOthers(page, ['"><svg/onload=alert(1)>: 1 connection / online / live',
    '<img src=x onerror=alert(1)>: you, 1 connection / online / live',
    '__proto__: 1 connection / online / live', 'U+202Eadmin: 1 connection / online / live']);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  await checkAxe(page);
});

test('the button beside who is followed keeps the focus when that one changes', async (server, tab) => {
  const page = await tab();
  await online(page, 'alice');
  await page.fill('#whom', 'bob');
  await page.click('#follow button');
  await page.waitForSelector('#followed .badge');
  await page.focus('#followed button');
  await connect(server, 'bob');
  await page.waitForSelector('#followed [data-value="live"]');
  assert.equal(await page.evaluate(() => document.activeElement.innerText), 'Stop');
});
