'use strict';
const assert = require('node:assert/strict');
const {
  test,
  unique,
  start,
  connect,
  rawConnect,
  presence,
  until,
  delay,
  slow,
  frame,
  OP,
  ISO,
} = require('./lib');

test.anywhere('the first message is hello', async (t) => {
  const server = await start(t);
  const id = unique('u');
  const client = await connect(server, id);
  assert.equal(client.hello.user_id, id);
  assert.equal(typeof client.hello.connection_id, 'string');
  assert.equal(typeof client.hello.heartbeat_seconds, 'number');
  assert.match(client.hello.server, /^presence\/\S+$/);
  assert.deepEqual(client.queue, []);
});

test('hello tells the heartbeat interval in force', async (t) => {
  const usual = await start(t);
  assert.equal((await connect(usual, 'u')).hello.heartbeat_seconds, 25);
  const other = await start(t, { args: ['--ping-interval', '2s'] });
  assert.equal((await connect(other, 'u')).hello.heartbeat_seconds, 2);
});

test.anywhere('a bare ping may have a line feed behind it, as line-minded tools send it', async (t) => {
  const client = await connect(await start(t), unique('u'));
  client.send('ping\n');
  assert.equal(await client.next('pong'), 'pong');
  for (const text of ['ping\n\n', '\nping', 'ping ', 'pin\n', 'ping\r\n']) {
    client.send(text);
    assert.equal((await client.next('error')).code, 'invalid_json', JSON.stringify(text));
  }
});

test.anywhere('both kinds of ping are answered in kind, in order', async (t) => {
  const server = await start(t);
  const client = await connect(server, unique('u'));
  client.send('ping');
  client.send({ type: 'ping' });
  client.send('ping');
  await until('three answers', () => client.queue.length === 3);
  assert.equal(client.queue[0], 'pong');
  assert.equal(client.queue[1].type, 'pong');
  assert.match(client.queue[1].time, ISO);
  assert.ok(Math.abs(Date.parse(client.queue[1].time) - Date.now()) < 5000 * slow);
  assert.equal(client.queue[2], 'pong');
});

const REFUSED = {
  'not JSON': ['nonsense', ['invalid_json']],
  'an empty message': ['', ['invalid_json']],
  'cut JSON': ['{"type":"ping"', ['invalid_json']],
  'JSON and more': ['{"type":"ping"} x', ['invalid_json']],
  'two objects': ['{"type":"ping"}{"type":"ping"}', ['invalid_json']],
  'a trailing comma': ['{"type":"ping",}', ['invalid_json']],
  'single quotes': ["{'type':'ping'}", ['invalid_json']],
  'a raw control character in a string': ['{"type":"pi\nng"}', ['invalid_json']],
  'a leading zero': ['{"type":"ping","n":01}', ['invalid_json']],
  NaN: ['{"type":"ping","n":NaN}', ['invalid_json']],
  'an array': ['[]', ['invalid_message']],
  'a string': ['"ping"', ['invalid_message']],
  null: ['null', ['invalid_message']],
  'no type': ['{}', ['invalid_message']],
  'a number as type': ['{"type":5}', ['invalid_message', 'unknown_type']],
  'an unknown type': ['{"type":"nope"}', ['unknown_type']],
  'a type in the wrong case': ['{"type":"PING"}', ['unknown_type']],
  'a bad status': ['{"type":"status","status":"bogus"}', ['invalid_status']],
  'the status offline': ['{"type":"status","status":"offline"}', ['invalid_status']],
  'a number as status': ['{"type":"status","status":1}', ['invalid_status', 'invalid_message']],
  'no status': ['{"type":"status"}', ['invalid_status', 'invalid_message']],
  'deep nesting': [`{"type":"ping","x":${'['.repeat(1500)}${']'.repeat(1500)}}`, ['invalid_json']],
};

for (const [what, [text, codes]] of Object.entries(REFUSED)) {
  test.anywhere(`${what} is refused with ${codes[0]}, and the connection stays`, async (t) => {
    const server = await start(t);
    const id = unique('u');
    const client = await connect(server, id);
    client.send(text);
    const error = await client.next('error');
    assert.ok(codes.includes(error.code), JSON.stringify(error));
    assert.ok(typeof error.message === 'string' && error.message.length > 0);
    await client.ping();
    assert.equal((await presence(server, id)).status, 'online');
  });
}

const ACCEPTED = {
  'unknown fields': '{"type":"ping","more":{"a":[1,2,{"b":null}],"c":true},"n":-1.5e3}',
  'blanks anywhere': ' \t\r\n{ "type" : "ping" } \n',
  'escapes in the type': '{"type":"\\u0070ing"}',
  'escapes anywhere': '{"x":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00","type":"ping"}',
};

for (const [what, text] of Object.entries(ACCEPTED)) {
  test.anywhere(`${what} in a message are fine`, async (t) => {
    const server = await start(t);
    const client = await connect(server, unique('u'));
    client.send(text);
    assert.equal((await client.next('pong')).type, 'pong');
  });
}

test.anywhere('a binary message closes with 4400', async (t) => {
  const server = await start(t);
  const client = await connect(server, unique('u'));
  client.socket.send(Buffer.from('ping'));
  assert.equal((await client.closed).code, 4400);
});

test('messages above --max-messages-per-second, sustained, close with 4429', async (t) => {
  const server = await start(t, { args: ['--max-messages-per-second', '5'] });
  const calm = await connect(server, 'calm');
  const raw = await rawConnect(server, 'flood');
  raw.write(...Array(200).fill(frame(OP.text, '{"type":"ping"}')));
  assert.equal(await raw.closeCode(), 4429);
  for (let i = 0; i < 8; i++) {
    await calm.ping();
    await delay(250);
  }
  assert.ok(calm.open, 'four a second are fine');
});
