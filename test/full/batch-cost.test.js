'use strict';
// What a request costs must not grow with the square of what it says.

const assert = require('node:assert/strict');
const { test, start, tokenKey, bearer, post, heavy } = require('../integration/lib');

const names = (count) => Array.from({ length: count }, (_, i) => i.toString(36));

/** The quickest of some batches of these ids, in ms; each answers 200. */
async function quickest(server, users, token) {
  let best = Infinity;
  for (let i = 0; i < heavy(60, 20); i++) {
    const began = process.hrtime.bigint();
    const answer = await post(server, '/api/presence', { users }, bearer(token));
    const took = Number(process.hrtime.bigint() - began) / 1e6;
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.json.users.length, users.length);
    best = Math.min(best, took);
  }
  return best;
}

test('a batch costs with a long list in its token hardly more than with "*"', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, '--max-head', '32k'] });
  const ids = names(950);
  const users = [...ids, ...ids.slice(900)];
  const all = await quickest(server, users, await key.user('me', { watch: '*' }));
  const some = await quickest(server, users, await key.user('me', { watch: ids }));
  t.diagnostic(`"*": ${all.toFixed(2)} ms, 950 ids: ${some.toFixed(2)} ms`);
  assert.ok(some < all * 2 + 1, `"*" takes ${all} ms, a list ${some} ms`);
});
