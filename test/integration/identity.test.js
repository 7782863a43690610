'use strict';
// Variants: release
const assert = require('node:assert/strict');
const { test, start, connect, presence, until } = require('./lib');

test('P10 a status message naming somebody else is refused, and they are unchanged', async (t) => {
  const server = await start(t);
  const alice = await connect(server, 'alice');
  const bob = await connect(server, 'bob');
  await alice.ping();
  const before = await presence(server, 'alice');

  for (const user_id of ['alice', 'Bob', 'bob ', '', 'nobody', 7, null, ['bob'], { a: 1 }]) {
    bob.send({ type: 'status', status: 'busy', user_id });
    const error = await bob.next('error');
    if (typeof user_id === 'string')
      assert.equal(error.code, 'identity_mismatch', JSON.stringify(user_id));
  }
  await bob.ping();
  assert.deepEqual(await presence(server, 'alice'), before);
  assert.equal((await presence(server, 'bob')).status, 'online');

  bob.send({ type: 'status', status: 'busy', user_id: 'bob' });
  await until(
    'naming oneself is fine',
    async () => (await presence(server, 'bob')).status === 'busy',
  );
});
