'use strict';
// Variants: release asan
// Guessing passwords is slowed down by address, and slows nobody else.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, sideBySide, start, passwordFile, hashPassword, tryLogin, login, get, connect, json, until, slow, heavy, request, tempDir } = require('./lib');

const from = (n) => ({ localAddress: `127.0.0.${n}` });
const retry = (answer) => Number(answer.headers['retry-after']);

/** Tries until one try is really checked (the only password under way at that moment). */
const checked = (server, password, options) =>
  until('a try to be checked', async () => {
    const answer = await tryLogin(server, password, options);
    return answer.status !== 429 && answer;
  }, { within: 4000 * slow, every: 50 });

sideBySide(() => {
  test('three failures, then 429 with Retry-After that doubles; another address is not affected', async (t) => {
    const server = await start(t, { args: passwordFile(t, 'secret').args });
    for (let i = 0; i < 3; i++) {
      const answer = await tryLogin(server, 'wrong', from(1));
      assert.deepEqual([answer.status, answer.json.error.code], [401, 'wrong_password'], `try ${i}`);
    }
    const slowed = await tryLogin(server, 'wrong', from(1));
    assert.deepEqual([slowed.status, slowed.json.error.code, retry(slowed)], [429, 'too_many_failures', 1]);
    const right = await tryLogin(server, 'secret', from(1));
    assert.deepEqual([right.status, right.json.error.code], [429, 'too_many_failures'], 'even the right one has to wait');
    assert.equal((await tryLogin(server, 'wrong', from(2))).status, 401, 'another address');
    const session = await login(server, 'secret', from(2));
    const waits = [];
    for (let i = 0; i < 2; i++) {
      assert.equal((await checked(server, 'wrong', from(1))).status, 401, 'after the wait one more try');
      const next = await tryLogin(server, 'wrong', from(1));
      assert.equal(next.status, 429);
      waits.push(retry(next));
    }
    assert.deepEqual(waits, [2, 4]);
    const { counters } = await json(server, '/admin/stats', session);
    assert.equal(counters.admin_login_failures >= 6, true, JSON.stringify(counters));
    assert.equal(counters.admin_logins, 1);
  });

  test('a success forgives', async (t) => {
    const server = await start(t, { args: passwordFile(t, 'secret').args });
    for (let i = 0; i < 3; i++) assert.equal((await tryLogin(server, 'wrong')).status, 401);
    assert.equal((await checked(server, 'secret')).status, 200);
    for (let i = 0; i < 3; i++) assert.equal((await tryLogin(server, 'wrong')).status, 401, `try ${i} after a success`);
    assert.equal(retry(await tryLogin(server, 'wrong')), 1);
  });

  test('a hundred guesses at once cost one hash at a time, and pages are served', async (t) => {
    const server = await start(t, { args: [...passwordFile(t, 'secret').args, '--workers', '2'] });
    const guesses = Promise.all(Array.from({ length: 100 }, (_, i) => tryLogin(server, 'wrong', from(2 + (i % 50)))));
    for (let i = 0; i < 10; i++) {
      const health = await get(server, '/healthz');
      assert.ok(health.status === 200 && health.ms < 1000 * slow, `${health.ms} ms`);
    }
    const client = await connect(server, 'u');
    await client.ping();
    const answers = await guesses;
    const busy = answers.filter(({ status }) => status === 429);
    assert.ok(answers.every(({ status }) => [401, 429].includes(status)));
    assert.ok(busy.length >= 50, `${busy.length} of 100 were turned away`);
    for (const answer of busy) assert.ok(retry(answer) >= 1, JSON.stringify(answer.headers));
    assert.equal((await checked(server, 'secret', from(200))).status, 200);
  });

  test('the right password gets in among guessers from many addresses, when it comes as it was told', { timeout: 90000 * slow }, async (t) => {
    const file = path.join(tempDir(t), 'admin-password');
    fs.writeFileSync(file, hashPassword('secret', heavy(60000, 10000)), { mode: 0o600 }); // takes a while: somebody is always at it
    const server = await start(t, { args: ['--admin-password-file', file] });
    let on = true;
    let guesses = 0;
    const guesser = async (n) => {
      while (on) {
        const { status } = await tryLogin(server, 'wrong', { localAddress: `127.0.1.${n}` });
        guesses++;
        assert.ok([401, 429].includes(status));
      }
    };
    const guessers = Promise.all(Array.from({ length: 12 }, (_, n) => guesser(n + 1)));
    await until('all to guess', () => guesses > 60);
    const late = []; // tries that had waited as told, and were turned away
    for (let n = 1; n <= 2; n++) {
      let answer = await tryLogin(server, 'secret', { localAddress: `127.0.2.${n}` });
      for (let tries = 0; answer.status === 429; tries++) {
        if (tries && retry(answer) > 2) late.push(`${n}: ${retry(answer)} s`); // who is late by seconds waits one more
        assert.ok(retry(answer) <= 20 * slow, `told ${retry(answer)} s`);
        await new Promise((resolve) => setTimeout(resolve, retry(answer) * 1000)); // as it was told
        answer = await tryLogin(server, 'secret', { localAddress: `127.0.2.${n}` });
        if (tries > 20) break;
      }
      assert.equal(answer.status, 200, answer.text);
    }
    on = false;
    await guessers;
    assert.deepEqual(late, []);
  });

  test('a session works on while its address is slowed down', async (t) => {
    const server = await start(t, { args: passwordFile(t, 'secret').args });
    const session = await login(server, 'secret');
    for (let i = 0; i < 4; i++) await tryLogin(server, 'wrong');
    assert.equal((await get(server, '/admin/stats', session)).status, 200);
    assert.equal((await request(server, 'POST', '/admin/logout', session)).status, 204);
  });
});
