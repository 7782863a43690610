'use strict';
// Variants: release
// The samples of README.md, played to a real server: each answer, message and event there has the
// members of the real one, in their order.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, startReceiver, connect, heartbeat, openEvents, get, json, until } = require('./lib');

const LINES = fs.readFileSync(path.join(__dirname, '../../README.md'), 'utf8').split('\n');

/** The members of a value, with those of what it holds; of a list, of its first. */
function shape(value) {
  if (Array.isArray(value)) return value.slice(0, 1).map(shape);
  if (value === null || typeof value !== 'object') return '';
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, shape(one)]));
}
const same = (said, real, what) => assert.equal(JSON.stringify(shape(said)), JSON.stringify(shape(real)), what);

/** The JSON of a sample's line, behind what stands before it; null where a part is left out. */
const sample = (line, mark) => (line.startsWith(`    ${mark}{`) && !line.includes('...') ? JSON.parse(line.slice(4 + mark.length)) : null);

test('the samples of the README have the members of real answers', async (t) => {
  const receiver = await startReceiver(t);
  const server = await start(t, { args: receiver.args });
  const stream = await openEvents(server);
  let alice = await connect(server, 'alice');
  const real = { hello: alice.hello };
  alice.send({ type: 'ping' });
  real.pong = await alice.next('pong');
  alice.send({ type: 'status', status: 'busy' });
  await alice.ping();
  let compared = 0;
  let gone = false;
  for (const [i, line] of LINES.entries()) {
    const asked = /^ {4}\$ curl http:\/\/127\.0\.0\.1:8080(\/\S*)$/.exec(line);
    if (!asked || !sample(LINES[i + 1], '')) continue;
    const said = sample(LINES[i + 1], '');
    if ((said.online === false || said.sessions) && !gone) { // "Leave wscat with CTRL+C, and ask again"
      await alice.close();
      await until('the stay to end', async () => (await json(server, '/admin/users/alice/sessions')).sessions.some(({ to }) => to));
      gone = true;
    }
    same(said, (await get(server, asked[1])).json, `line ${i + 1}: ${asked[1]}`);
    compared++;
  }
  assert.ok(gone && compared >= 4, `${compared} answers compared`);

  alice = await connect(server, 'alice');
  const bob = await connect(server, 'bob');
  alice.send({ type: 'watch', users: ['bob', 'carol'] });
  real.snapshot = await alice.next('snapshot');
  await bob.close();
  real.presence = await alice.next('presence');
  const messages = LINES.map((line) => sample(line, '< ')).filter(Boolean);
  for (const message of messages) same(message, real[message.type], message.type);
  assert.deepEqual([...new Set(messages.map(({ type }) => type))].sort(), ['hello', 'pong', 'presence', 'snapshot']);

  const posted = LINES.map((line) => sample(line, '')).find((one) => one?.events);
  await receiver.until('the end of a stay', () => receiver.changes.some(({ change }) => change === 'leave'));
  same(posted.events[0], receiver.changes.find(({ change }) => change === 'leave'), 'what a webhook is told');
  assert.deepEqual(Object.keys(posted), ['sent_at', 'events']); // lib/receiver.js holds requests to it

  await heartbeat(server, 'dora');
  const data = LINES.map((line) => sample(line, 'data: ')).filter(Boolean);
  assert.equal(data.length, 1);
  same(data[0], stream.events.find(({ event }) => event === 'reset').data, 'reset');
  const change = LINES.find((line) => line.startsWith('    data: {') && line.includes('...')).replace(',...}', '}').slice(10);
  const { user, ...rest } = JSON.parse(change);
  const told = stream.events.find(({ event }) => event === 'change').data;
  assert.deepEqual(['position', 'change', 'user', 'reason'], Object.keys(told));
  assert.ok(Object.keys({ ...rest, user }).every((name) => name in told) && Object.keys(user).every((name) => name in told.user));
});
