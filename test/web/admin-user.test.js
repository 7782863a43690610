'use strict';
// The admin page in Chromium: one user, the timeline, kicks.

const assert = require('node:assert/strict');
const { test, admin, connection, untilUsers, text, untilText, three } = require('./lib/admin');
const { checkAxe, moments } = require('./lib/pages');

/** A session that ended so many hours and two ago, after a minute. */
const session = (i) => ({ reason: 'closed', address: '192.0.2.1',
  from: new Date(Date.now() - (i + 2) * 3600000).toISOString(),
  to: new Date(Date.now() - (i + 2) * 3600000 + 60000).toISOString() });

test('a user in detail: connections, timeline in words, link, back, keyboard', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { allow: [/status of 404/] });
  await connection(page, 'connected');
  await page.focus('#rows a');
  server.join('aaron');
  await untilUsers(page, ['aaron', 'alice', 'bob', 'carol']);
  await page.keyboard.press('Enter'); // the focus went down with its user
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.equal(new URL(page.url()).hash, '#/user/alice');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'detail-name');
  const rows = await page.$$eval('#connection-rows tr', (all) => all.map((one) => one.innerText.replace(/\s+/g, ' ')));
  assert.deepEqual(rows, ['browser on Linux 192.0.2.10 online 42 min 23 ms', 'browser on Linux 192.0.2.11 online 42 min \u2013']);
  await page.focus('#connection-rows summary');
  await page.keyboard.press('Enter');
  await untilText(page, 'connection-rows',
    moments(/192\.0\.2\.10:50000, MOMENT \(42 min\), heard \d+ s ago\s+Mozilla\/5\.0 \(X11; Linux x86_64\)/));
  await checkAxe(page);
  const timeline = await page.$$eval('#timeline li', (all) => all.map((one) => one.innerText));
  assert.equal(timeline.length, 5);
  assert.match(timeline[0], moments(/^online since MOMENT\s*42 min, from 127\.0\.0\.1$/));
  assert.match(timeline[1], moments(/^offline MOMENT to MOMENT, connection lost\s*\d/));
  assert.match(timeline[2], moments(/^online MOMENT to MOMENT\s*42 min, from 192\.0\.2\.10$/));
  assert.match(timeline[4], / \d\d:\d\d:00 to .*\d\d:\d\d:00\s*1 min, from 2001:db8::17$/);
  await checkAxe(page);
  server.leave('alice', 'timeout');
  await untilText(page, 'timeline', moments(/^offline since MOMENT, went silent/));
  await untilText(page, 'no-connections', /^None\.$/);
  assert.equal(await page.isVisible('#kick'), false);
  await page.keyboard.press('Escape');
  await page.waitForSelector('#detail', { state: 'hidden' });
  await untilUsers(page, ['aaron', 'bob', 'carol']);
  await page.click('#rows a >> nth=2');
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.equal(await text(page, 'detail-name'), 'carol');
  await page.click('#detail-close');
  await page.waitForFunction(() => document.activeElement.innerText === 'carol'); // focus returns
  await page.goBack();
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.equal(await text(page, 'detail-name'), 'carol');
  await page.evaluate(() => { location.hash = '#/user/never-seen'; });
  await untilText(page, 'detail-note', /never seen/i);
  await page.evaluate(() => { location.hash = '#/user/%E0%A4%A'; });
  await page.waitForSelector('#detail', { state: 'hidden' });
});

test('a long timeline comes in pieces and keeps them', async (t) => {
  const sessions = Array.from({ length: 120 }, (_, i) => session(i));
  const { server, page } = await admin(t, { users: { u: { sessions } } }, { hash: '#/user/u' });
  const length = (n) => page.waitForFunction((wanted) =>
    document.querySelectorAll('#timeline [data-kind="online"]').length === wanted, n);
  await length(50);
  await page.click('#detail-more');
  await length(100);
  server.change('u', { status: 'away' });
  await page.waitForSelector('#detail-state [data-value="away"]');
  await length(100);
  await page.click('#detail-more');
  await length(121);
  assert.equal(await page.isVisible('#detail-more'), false);
});

test('kick: only after the question, and the user is shown offline', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { hash: '#/user/alice' });
  await page.click('#kick');
  assert.match(await text(page, 'kick-dialog'), /^Kick alice\?\s+Closes 2 connections and ends the session/);
  assert.equal(await page.evaluate(() => document.activeElement.innerText), 'Cancel');
  await checkAxe(page);
  await page.keyboard.press('Escape');
  await page.click('#kick');
  await page.click('#kick-dialog button:has-text("Cancel")');
  assert.equal(server.users.get('alice').online, true);
  assert.equal(server.log.some((line) => line.startsWith('DELETE')), false);
  await page.click('#kick');
  await page.click('#kick-yes');
  await untilText(page, 'detail-note', /^Kicked: 2 connections closed, and the session ended\.$/);
  assert.deepEqual(server.log.filter((line) => line.startsWith('DELETE')),
    ['DELETE /admin/users/alice/connections']);
  await untilText(page, 'timeline', /kicked by an admin/);
  await untilUsers(page, ['bob', 'carol']);
});

test('a timeline that grows loses no session, and has no hole in it', async (t) => {
  const sessions = Array.from({ length: 120 }, (_, i) => session(i));
  const { server, page } = await admin(t, { users: { u: { sessions } } }, { hash: '#/user/u' });
  const length = (n) => page.waitForFunction((wanted) =>
    document.querySelectorAll('#timeline [data-kind="online"]').length === wanted, n);
  await length(50);
  await page.click('#detail-more');
  await length(100);
  server.leave('u');
  server.join('u');
  await untilText(page, 'timeline', /under 1 s, from 127/);
  await length(101);
  server.leave('u');
  for (let i = 0; i < 60; i++) { // more than a page while nobody looked
    const at = new Date(Date.now() + i).toISOString();
    sessions.unshift({ reason: 'closed', address: '192.0.2.1', from: at, to: at });
  }
  await page.waitForTimeout(100);
  server.join('u');
  server.change('u', { status: 'away' });
  await page.waitForSelector('#detail-state [data-value="away"]');
  // older ones are gone, with a hole before them; one more if the page looked in between
  await page.waitForFunction(() => document.querySelectorAll('#timeline [data-kind="online"]').length <= 51);
  while (await page.isVisible('#detail-more')) {
    const before = await page.locator('#timeline li').count();
    await page.click('#detail-more');
    await page.waitForFunction((n) => document.querySelectorAll('#timeline li').length > n, before);
  }
  await length(183);
});

test('why a user could not be shown goes away once she is', async (t) => {
  const { server, page } = await admin(t, { users: three() },
    { hash: '#/user/alice', allow: [/ERR_/] });
  await page.waitForSelector('#detail-body:not([hidden])');
  await page.route('**/users/alice', (route) => route.abort());
  server.change('alice', { status: 'busy' });
  await untilText(page, 'detail-note', /^Not shown/);
  await page.unroute('**/users/alice');
  server.change('alice', { status: 'away' });
  await page.waitForSelector('#detail-state [data-value="away"]');
  await untilText(page, 'detail-note', /^$/);
});

test('what is said of a kick is not said of the user opened meanwhile', async (t) => {
  const { page } = await admin(t, { users: three() }, { hash: '#/user/alice' });
  await page.waitForSelector('#detail-body:not([hidden])');
  let hold = null;
  await page.click('#kick');
  await page.route('**/users/{alice,carol}', (route) => { hold = route; });
  await page.click('#kick-yes');
  while (!hold) await page.waitForTimeout(20);
  await page.evaluate(() => { location.hash = '#/user/carol'; });
  await untilText(page, 'detail-name', /carol/);
  await page.waitForTimeout(500);
  assert.equal(await text(page, 'detail-note'), '');
});
