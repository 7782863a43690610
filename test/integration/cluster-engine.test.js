'use strict';
// Variants: release asan tsan
// The engine of --cluster: what a start refuses, an engine that goes away and comes back, and TLS.
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { test, sideBySide, start, startEngine, startSentinel, freePort, refusedConfig, refusedStart, acceptedConfig, tempDir, until, get, del, request, connect, heartbeat, delay, Authority, startProxy, cleanup, dice, slow, run } = require('./lib');

const THERE = /level=debug msg="cluster: the engine answers"$/;
const AWAY = /level=warn msg="cluster: the engine is away, this node goes on alone: .*"$/;
const LATE = /level=warn msg="--cluster: cannot reach the engine: .*; trying again"$/;
const EVICTS = /level=warn msg="--cluster: the engine's maxmemory-policy is /;
const ALLOW = [AWAY, LATE, /level=debug /, /level=(info|warn) msg="cluster: /]; // what a node makes of it is not looked at here
const SOME = ['--listen', '127.0.0.1:0'];

const node = (t, url, args = [], options = {}) => start(t, { args: ['--cluster', url, '--log-level', 'debug', ...args], allow: ALLOW, ...options });
const count = (server, pattern) => server.lines.filter((line) => pattern.test(line)).length;
const sees = (server, pattern, times = 1) => until(`${pattern} ${times} times`,
  () => count(server, pattern) >= times, { within: 20000 * slow });
const file = (dir, name, content) => {
  fs.writeFileSync(path.join(dir, name), content, { mode: 0o600 });
  return path.join(dir, name);
};

sideBySide(() => {
  test('what is no URL, name or file is refused, and no password is shown', async (t) => {
    const dir = tempDir(t);
    const rows = [
      ['redis://:topsecret@a/p', ['--cluster-password-file']],
      ['redis://a', ['--cluster', 'prefix']],
      ['a:6379', ['--cluster', 'redis://HOST:6379/PREFIX']],
      ['redis+sentinel://a/p', ['--cluster', '?master=NAME']],
      ['redis://a,b/p', ['--cluster', '2 hosts']],
    ];
    for (const [url, names] of rows) {
      const line = await refusedConfig([...SOME, '--data', dir, '--cluster', url], names);
      assert.ok(!line.includes('topsecret'), line);
    }
    const good = [...SOME, '--cluster', 'redis://127.0.0.1/p'];
    await refusedConfig([...good, '--cluster-password-file', path.join(dir, 'none')], ['--cluster-password-file', 'none']);
    await refusedConfig([...good, '--cluster-password-file', file(dir, 'empty', '\n')], ['--cluster-password-file', 'empty']);
    await refusedConfig([...good, '--cluster-password-file', file(dir, 'long', 'x'.repeat(513))], ['--cluster-password-file', 'too long']);
    await refusedConfig([...good, '--node-name', 'x'.repeat(65)], ['--node-name', '64']);
    await refusedConfig([...good, '--node-name', 'a\u0007b'], ['--node-name']);
    await refusedConfig([...SOME, '--cluster', 'rediss://127.0.0.1/p', '--cluster-ca-file', path.join(dir, 'none')], ['--cluster-ca-file', 'none']);
    await acceptedConfig([...good, '--node-name', 'Knoten 1 \u00e4']);
    const alone = await run(['--check-config', ...SOME, '--node-name', 'a']);
    assert.match(alone.stderr, /--node-name has no effect without --cluster/);
  });

  test('passwords and permissions: without, wrong, one too many, not enough, and right', async (t) => {
    const dir = tempDir(t);
    const engine = await startEngine(t);
    const password = file(dir, 'password', 'open sesame\n');
    const wrong = file(dir, 'wrong', 'open\n');
    const at = [...SOME, '--data', path.join(dir, 'data'), '--cluster', engine.url()];
    await refusedStart([...at, '--cluster-password-file', password], ['--cluster-password-file']);
    engine.say('ACL', 'SETUSER', 'node', 'on', '>open sesame', '~{test}:*', '+client|setname', '+info',
      '+script|load', '+evalsha', '+time', '+ping', '+hget', '+hmget', '+hset', '+del', '+expire', '+xadd', '+xread',
      '+xrange', '+xrevrange');
    const right = ['--cluster-user', 'node', '--cluster-password-file', password];
    await refusedStart([...at, '--cluster-user', 'node', '--cluster-password-file', wrong], ['--cluster-password-file', 'node']);
    await refusedStart([...at, '--cluster-user', 'nobody', '--cluster-password-file', password], ['nobody']);
    await refusedStart([...at, '--cluster-user', 'node'], ['node']);
    const server = await node(t, engine.url(), [...right, '--node-name', 'Knoten 1']);
    await sees(server, THERE);
    assert.deepEqual(engine.nodes(), ['presence-Knoten-1', 'presence-Knoten-1']);
    await server.stop();
    for (const right1 of ['hset', 'xadd', 'evalsha', 'info', 'xread', 'expire', 'del', 'time', 'hmget', 'xrange', 'xrevrange', 'script|load', 'client|setname', 'hget']) {
      engine.say('ACL', 'SETUSER', 'node', `-${right1}`);
      await refusedStart([...at, ...right], ['--cluster', 'ACL SETUSER node', '~{test}:*', `+${right1}`]);
      engine.say('ACL', 'SETUSER', 'node', `+${right1}`);
    }
    engine.say('ACL', 'SETUSER', 'node', 'resetkeys', '~other:*');
    await refusedStart([...at, ...right], ['--cluster', 'ACL SETUSER node', '~{test}:*']);
    engine.say('CONFIG', 'SET', 'requirepass', 'open sesame');
    await refusedStart(at, ['--cluster-password-file']);
  });

  test('an engine that does not know AUTH answers with the password: it is not shown', async (t) => {
    const engine = await startEngine(t, ['--rename-command', 'AUTH', '']);
    const dir = tempDir(t);
    const args = ['--cluster-user', 'node', '--cluster-password-file', file(dir, 'password', 'open sesame\n')];
    const { code, stderr } = await run([...SOME, '--data', path.join(dir, 'data'), '--cluster', engine.url(), ...args]);
    assert.equal(code, 2);
    assert.match(stderr, /^presence: --cluster: the engine does not know what is needed: ERR unknown command ;/);
    assert.doesNotMatch(stderr, /sesame/);
  });

  // how the file gives it, what is done to it next, whether the next password can be read from it
  const CHANGES = [
    ['written over', (name, text) => fs.writeFileSync(name, text), true],
    ['replaced', (name, text) => { fs.writeFileSync(`${name}.new`, text); fs.renameSync(`${name}.new`, name); }, true],
    ['emptied', (name) => fs.writeFileSync(name, '\n'), false],
    ['removed', (name) => fs.unlinkSync(name), false],
    ['replaced by a pipe', (name) => { fs.unlinkSync(name); execFileSync('mkfifo', [name]); }, false],
    ['too long', (name) => fs.writeFileSync(name, 'x'.repeat(513)), false],
  ];
  for (const [what, change, good] of CHANGES)
    test(`the password's file is ${what}: the next connection has ${good ? 'what is in it' : 'the password that is known'}`, async (t) => {
      const engine = await startEngine(t);
      const password = file(tempDir(t), 'password', 'one\n');
      engine.say('ACL', 'SETUSER', 'node', 'on', '>one', '~*', '+@all');
      const server = await node(t, engine.url(), ['--cluster-user', 'node', '--cluster-password-file', password]);
      await sees(server, THERE);
      change(password, 'two\n');
      engine.say('CLIENT', 'KILL', 'TYPE', 'normal');
      if (good) {
        await sees(server, AWAY); // the engine has the old one still
        assert.match(server.stderr, /does not take the password of node/);
        engine.say('ACL', 'SETUSER', 'node', 'resetpass', '>two');
      }
      await sees(server, THERE, 2);
    });

  test('the password is changed in the engine, then in the file: the node is back by itself', async (t) => {
    const engine = await startEngine(t);
    const password = file(tempDir(t), 'password', 'one\n');
    engine.say('ACL', 'SETUSER', 'node', 'on', '>one', '~*', '+@all');
    const server = await node(t, engine.url(), ['--cluster-user', 'node', '--cluster-password-file', password]);
    await sees(server, THERE);
    engine.say('ACL', 'SETUSER', 'node', 'resetpass', '>two');
    engine.say('CLIENT', 'KILL', 'TYPE', 'normal');
    await sees(server, AWAY);
    fs.writeFileSync(password, 'two\n');
    await sees(server, THERE, 2);
  });

  test('keys of another type are refused, other prefixes are not touched', async (t) => {
    const dir = tempDir(t);
    const engine = await startEngine(t);
    const at = (prefix) => [...SOME, '--data', path.join(dir, prefix), '--cluster', engine.url(prefix)];
    engine.say('SET', '{a}:meta', '1');
    engine.say('SET', '{b}:log', '1');
    await refusedStart(at('a'), ['--cluster', '{a}:meta', 'PREFIX']);
    await refusedStart(at('b'), ['--cluster', '{b}:log', 'PREFIX']);
    const server = await node(t, engine.url('c'));
    await sees(server, THERE);
    await server.stop();
    assert.equal(engine.say('GET', '{a}:meta'), '1');
    assert.equal(engine.say('GET', '{b}:log'), '1');
    assert.deepEqual(engine.say('KEYS', '*').split('\n').filter((key) => !key.startsWith('{c}:')).sort(), ['{a}:meta', '{b}:log']);
  });

  test('an engine that may throw away what is shared: a warning', async (t) => {
    const engine = await startEngine(t, ['--maxmemory', '100mb', '--maxmemory-policy', 'allkeys-lru']);
    const server = await node(t, engine.url(), [], { allow: [...ALLOW, EVICTS] });
    await sees(server, EVICTS);
    await sees(server, THERE);
  });

  test('late, killed, stopped, busy, a replica: away is said once, and the way back is found', async (t) => {
    const engine = await startEngine(t);
    await engine.kill();
    const server = await node(t, engine.url());
    assert.equal(count(server, LATE), 1);
    await sees(server, AWAY);
    await engine.start();
    await sees(server, THERE, 1);
    let times = 1;
    const round = async (what, leave, back) => {
      const before = count(server, AWAY);
      await delay(1100); // one that was there for less than a second, and fails again, is the same outage
      await leave();
      await sees(server, AWAY, before + 1);
      assert.equal((await get(server, '/healthz')).status, 200, what);
      await back();
      await sees(server, THERE, ++times);
      assert.equal(count(server, AWAY), before + 1, what);
    };
    await round('killed', () => engine.kill(), () => engine.start());
    await round('stopped', () => engine.signal('SIGSTOP'), () => engine.signal('SIGCONT'));
    await round('paused', () => engine.say('CLIENT', 'PAUSE', '2500'), () => {});
    const other = await startEngine(t);
    await round('a replica', () => {
      engine.say('REPLICAOF', '127.0.0.1', `${other.port}`);
      engine.say('CLIENT', 'KILL', 'TYPE', 'normal');
    }, () => engine.say('REPLICAOF', 'NO', 'ONE'));
    // A connection that is cut and back at once is no outage.
    const before = count(server, AWAY);
    engine.say('CLIENT', 'KILL', 'TYPE', 'normal');
    await sees(server, THERE, ++times);
    assert.equal(count(server, AWAY), before);
  });

  const connections = (engine) => Number(/total_connections_received:(\d+)/.exec(engine.say('INFO', 'stats'))[1]);
  const alone = async (server) => (await get(server, '/readyz')).json.cluster === 'alone';
  const settled = (server) => until('it to be settled', async () => (await get(server, '/readyz')).json.cluster === 'settled', { within: 30000 * slow });
  const online = async (server, id) => (await get(server, `/api/presence/${id}`)).json.online === true;

  test('what something else writes into the log is passed over, and said', async (t) => {
    const engine = await startEngine(t);
    const FOREIGN = /level=warn msg="cluster: \{test\}:log has entries that no node wrote; they are passed over; .*"$/;
    const [one, two] = [await node(t, engine.url('test')), await node(t, engine.url('test'))];
    for (const server of [one, two]) await settled(server);
    const before = connections(engine);
    const random = dice(7);
    const words = () => ['hello', 'e', 'b', 'd', '', '1', 'x'.repeat(300)][random(7)];
    for (let i = 0; i < 20; i++) {
      engine.say('XADD', '{test}:log', '*', words(), words(), words(), words());
      await heartbeat(one, `user-${i}`);
    }
    for (const server of [one, two]) {
      await until('all to be there', () => online(server, 'user-19'), { within: 10000 * slow });
      for (let i = 0; i < 20; i++) assert.ok(await online(server, `user-${i}`), `user-${i}`);
      assert.equal(count(server, FOREIGN), 1);
      assert.equal((await get(server, '/readyz')).json.cluster, 'settled');
    }
    assert.ok(connections(engine) - before < 40, 'no more than those of this test'); // one for each redis-cli
  });

  test('a second node of the same name is said by the first, another name is not', async (t) => {
    const engine = await startEngine(t);
    const NAMESAKE = /another node that begins has the name of this one; give each a --node-name/;
    const one = await node(t, engine.url(), ['--node-name', 'a']);
    await settled(one);
    for (const name of ['b', 'a']) await settled(await node(t, engine.url(), ['--node-name', name]));
    await sees(one, NAMESAKE);
    assert.equal(count(one, NAMESAKE), 1);
  });

  // name, how the engine is brought to take nothing more, and back
  const REFUSING = [
    ['that is full', (engine) => engine.say('CONFIG', 'SET', 'maxmemory', '1'), (engine) => engine.say('CONFIG', 'SET', 'maxmemory', '0')],
    ['whose log has had its last id', (engine) => engine.say('XSETID', '{test}:log', '18446744073709551615-18446744073709551615'), (engine) => engine.say('DEL', '{test}:log')],
  ];
  for (const [name, refuse, back] of REFUSING)
    test(`an engine ${name}: the node is alone and shows its own, and comes back; it is not asked without a pause`, async (t) => {
      const engine = await startEngine(t);
      const server = await node(t, engine.url('test'));
      await settled(server);
      refuse(engine);
      const before = connections(engine);
      await until('it to be alone', () => alone(server), { within: 20000 * slow });
      await heartbeat(server, 'alice');
      assert.ok(await online(server, 'alice'));
      assert.match(server.lines.find((line) => AWAY.test(line)), /OOM|exhausted the last possible ID/);
      const began = Date.now();
      await delay(3000);
      const most = 10 + (Date.now() - began) / 200;
      assert.ok(connections(engine) - before <= most, `${connections(engine) - before} connections`);
      back(engine);
      await settled(server);
      await until('what came meanwhile', () => online(server, 'alice'));
    });

  const UNHEARD = [
    ['stands still', (engine) => engine.signal('SIGSTOP')],
    ['is full', (engine) => engine.say('CONFIG', 'SET', 'maxmemory', '1')],
    ['takes no more entries', (engine) => engine.say('ACL', 'SETUSER', 'default', '-xadd')],
  ];
  for (const [name, refuse] of UNHEARD)
    test(`the engine ${name}, and the node is stopped before it knows: what it had answered is in the store`, async (t) => {
      const engine = await startEngine(t);
      const server = await node(t, engine.url('test'));
      await settled(server);
      for (const id of ['alice', 'carol']) await heartbeat(server, id);
      for (const id of ['alice', 'carol']) await until(`${id} to be online`, () => online(server, id));
      refuse(engine);
      const [put, kick] = await Promise.all([
        request(server, 'PUT', '/api/presence/alice/status', { body: { status: 'busy' } }),
        del(server, '/admin/users/carol/connections'), heartbeat(server, 'bob')]);
      assert.deepEqual([put.status, kick.status], [200, 200]);
      await server.stop();
      const dump = (await run(['--dump', '--data', server.data])).stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line));
      const user = (id) => dump.find((line) => line.user === id);
      assert.ok(user('bob')?.open && user('alice').open, JSON.stringify(dump));
      assert.equal(user('carol').reason, 'kicked');
      assert.equal(dump.find((line) => line.manual === 'alice')?.status, 'busy');
    });

  test('a status set by hand while the engine stands still holds here at once, and on all nodes when it goes on', async (t) => {
    const engine = await startEngine(t);
    const nodes = [await node(t, engine.url(), ['--node-name', 'a']), await node(t, engine.url(), ['--node-name', 'b'])];
    for (const server of nodes) await settled(server);
    for (const id of ['alice', 'carol']) await heartbeat(nodes[0], id);
    await connect(nodes[1], 'carol');
    const status = async (server) => (await get(server, '/api/presence/alice')).json.status;
    engine.signal('SIGSTOP');
    const [put, kick] = await Promise.all([
      request(nodes[0], 'PUT', '/api/presence/alice/status', { body: { status: 'busy' } }),
      del(nodes[0], '/admin/users/carol/connections')]);
    assert.deepEqual([put.status, kick.status], [200, 200]);
    await until('a to be alone', () => alone(nodes[0]), { within: 20000 * slow });
    await until('the status on a', async () => (await status(nodes[0])) === 'busy');
    engine.signal('SIGCONT');
    for (const server of nodes) await settled(server);
    for (const server of nodes) await until('the status', async () => (await status(server)) === 'busy');
  });

  // name, and what somebody changes below the prefix: no node is left with users that nobody sees
  const SPOILT = [
    ['the numbers of the nodes', (engine) => { for (const key of engine.say('HKEYS', '{test}:meta').split('\n')) if (key.length === 16) engine.say('HSET', '{test}:meta', key, '100000'); }],
    ['the count', (engine) => engine.say('HSET', '{test}:meta', 'count', 'many')],
    ['an entry of another epoch', (engine) => engine.say('XADD', '{test}:log', '*', 'e', '77', 'b', '1', 'd', 'x')],
    ['an entry as of a newer presence', (engine) => engine.say('XADD', '{test}:log', '*', 'e', engine.say('HGET', '{test}:meta', 'epoch'), 'b', engine.say('HGET', '{test}:meta', 'count'), 'd', 'garbage')],
    ['the log', (engine) => engine.say('DEL', '{test}:log')],
  ];
  for (const [name, spoil] of SPOILT)
    test(`changed by hand, ${name}: who comes then is seen on all nodes, without a restart`, { timeout: 120000 * slow }, async (t) => {
      const engine = await startEngine(t);
      const options = { allow: [...ALLOW, /level=(warn|error) msg="cluster: /] };
      const nodes = [await node(t, engine.url('test'), [], options), await node(t, engine.url('test'), [], options)];
      for (const server of nodes) await settled(server);
      spoil(engine);
      await heartbeat(nodes[0], 'alice');
      for (const server of nodes) await until('alice', () => online(server, 'alice'), { within: 60000 * slow });
      for (const server of nodes) await settled(server);
      await heartbeat(nodes[1], 'bob');
      for (const server of nodes) await until('bob', () => online(server, 'bob'), { within: 30000 * slow });
    });

  test('a black hole in the way, in the middle and from the start', async (t) => {
    const engine = await startEngine(t);
    const proxy = await startProxy(t, { host: '127.0.0.1', port: engine.port });
    const server = await node(t, `redis://127.0.0.1:${proxy.port}/test`);
    await sees(server, THERE);
    proxy.blackHole();
    await sees(server, AWAY);
    const late = await node(t, `redis://127.0.0.1:${proxy.port}/test`);
    await sees(late, AWAY);
    assert.equal(count(late, THERE), 0);
    proxy.hole = false;
    await sees(server, THERE, 2);
    await sees(late, THERE);
  });

  test('MOVED is followed, not for ever', async (t) => {
    const engine = await startEngine(t);
    const [a, b] = [await freePort(), await freePort()];
    // Says whatever an engine says to all but what has keys: that is elsewhere.
    const elsewhere = (port, to) => {
      const server = net.createServer((socket) => {
        const up = net.connect(engine.port, '127.0.0.1').on('error', () => socket.destroy());
        socket.on('error', () => up.destroy()).on('close', () => up.destroy());
        socket.on('data', (bytes) => {
          if (String(bytes).includes('HMGET')) socket.write(`+OK\r\n$70\r\nredis_version:7.0.0\r\nrole:master\r\nrun_id:${'1'.repeat(27)}\r\n\r\n-MOVED 7 ${to}\r\n`);
        });
      });
      server.listen(port, '127.0.0.1');
      cleanup(t, () => server.close());
    };
    elsewhere(a, `127.0.0.1:${engine.port}`);
    elsewhere(b, `:${b}`);
    await sees(await node(t, `redis://127.0.0.1:${a}/test`), THERE);
    let said = ''; // with the reason of the last second: of a busy machine another may be the first
    for (let i = 0; i < 5 && !/names no place for its keys/.test(said); i++) {
      const lost = await node(t, `redis://127.0.0.1:${b}/test`);
      await sees(lost, AWAY);
      await lost.stop();
      said = lost.stderr;
    }
    assert.match(said, /names no place for its keys/);
  });

  test('Sentinels say where the engine is, again after a fail-over', async (t) => {
    const [one, two] = [await startEngine(t), await startEngine(t)];
    two.say('REPLICAOF', '127.0.0.1', `${one.port}`);
    const sentinel = await startSentinel(t, `sentinel monitor main 127.0.0.1 ${one.port} 1
sentinel down-after-milliseconds main 2000
sentinel failover-timeout main 2000
`);
    const none = await freePort();
    await until('the Sentinel to know the replica', () => /slaves=1/.test(sentinel.say('INFO', 'sentinel')), { within: 30000 * slow });
    const server = await node(t, `redis+sentinel://127.0.0.1:${none},127.0.0.1:${sentinel.port}/test?master=main`);
    await sees(server, THERE);
    assert.equal(one.nodes().length, 2);
    await one.kill(); // it is replaced after 2 s: within one it would not have been away
    await sees(server, AWAY);
    await sees(server, THERE, 2);
    assert.equal(two.nodes().length, 2);
    const other = await node(t, `redis+sentinel://127.0.0.1:${sentinel.port}/test?master=other`);
    await sees(other, AWAY);
    assert.match(other.stderr, /knows no master other/);
  });

  test('rediss: a port without TLS is told from an engine that is away', async (t) => {
    const engine = await startEngine(t);
    const server = await node(t, engine.url().replace('redis:', 'rediss:'), ['--cluster-ca-file', new Authority(tempDir(t)).file]);
    await sees(server, AWAY);
    assert.match(server.lines.find((line) => AWAY.test(line)), /its port does not answer to TLS in time; without TLS it is redis:/);
  });

  test('rediss: the certificate is held against the CA and the host', async (t) => {
    const dir = tempDir(t);
    const authority = new Authority(dir);
    const stranger = new Authority(dir, 'stranger');
    for (const [kind, args] of [['ec', []], ['rsa', ['--tls-protocols', 'TLSv1.2']]]) {
      const good = authority.issue('engine', { kind, hosts: ['127.0.0.1', 'localhost'] });
      const port = await freePort();
      const engine = await startEngine(t, ['--tls-port', `${port}`, '--tls-cert-file', good.cert, '--tls-key-file', good.key,
        '--tls-ca-cert-file', authority.file, '--tls-auth-clients', 'no', ...args], { listening: port });
      for (const host of ['127.0.0.1', 'localhost']) {
        const server = await node(t, `rediss://${host}:${port}/test`, ['--cluster-ca-file', authority.file]);
        await sees(server, THERE);
        assert.equal(engine.nodes().length, 2);
        await server.stop();
      }
      const server = await node(t, `rediss://127.0.0.1:${port}/test`, ['--cluster-ca-file', stranger.file]);
      await sees(server, AWAY);
      assert.match(server.stderr, /its certificate is not accepted/);
      assert.equal(count(server, THERE), 0);
      await server.stop();
    }
    const other = authority.issue('other', { hosts: ['127.0.0.2', 'other.example'] });
    const port = await freePort();
    await startEngine(t, ['--tls-port', `${port}`, '--tls-cert-file', other.cert, '--tls-key-file', other.key,
      '--tls-ca-cert-file', authority.file, '--tls-auth-clients', 'no'], { listening: port });
    for (const host of ['127.0.0.1', 'localhost']) {
      const server = await node(t, `rediss://${host}:${port}/test`, ['--cluster-ca-file', authority.file]);
      await sees(server, AWAY);
      assert.match(server.stderr, /its certificate is not accepted/);
      await server.stop();
    }
  });

  test('rediss+sentinel: both by TLS, both with a password', async (t) => {
    const dir = tempDir(t);
    const authority = new Authority(dir);
    const good = authority.issue('engine', { hosts: ['127.0.0.1'] });
    const [port, at] = [await freePort(), await freePort()];
    await startEngine(t, ['--tls-port', `${port}`, '--tls-cert-file', good.cert, '--tls-key-file', good.key,
      '--tls-ca-cert-file', authority.file, '--tls-auth-clients', 'no', '--requirepass', 'sesame'], { listening: port });
    await startSentinel(t, `tls-port ${at}
tls-cert-file ${good.cert}
tls-key-file ${good.key}
tls-ca-cert-file ${authority.file}
tls-auth-clients no
tls-replication yes
requirepass sesame
sentinel monitor main 127.0.0.1 ${port} 1
sentinel auth-pass main sesame
`, { listening: at });
    const args = ['--cluster-ca-file', authority.file, '--cluster-password-file', file(dir, 'password', 'sesame\n')];
    await sees(await node(t, `rediss+sentinel://127.0.0.1:${at}/test?master=main`, args), THERE);
  });

  test('whatever an engine answers, the server serves and stops in order', async (t) => {
    const seed = Date.now() >>> 0;
    const roll = dice(seed);
    t.diagnostic(`seed ${seed}`);
    const pieces = ['+OK\r\n', ':1\r\n', '$-1\r\n', '*-1\r\n', '*0\r\n', '-ERR x\r\n', '-MOVED 1 127.0.0.1:1\r\n', '-NOAUTH x\r\n',
      '*2\r\n$1\r\n7\r\n$1\r\n8\r\n', '$3\r\nabc\r\n', '*1\r\n'.repeat(3000), '*99999999\r\n', '$9999999999\r\n', '\r\n', '?', '%1\r\n',
      '$70\r\nredis_version:7.0.0\r\nrole:master\r\nrun_id:111111111111111111111111111\r\n\r\n', '\0'.repeat(9000)];
    const sockets = new Set();
    const hostile = net.createServer((socket) => {
      sockets.add(socket);
      socket.on('error', () => {}).on('close', () => sockets.delete(socket));
      socket.on('data', () => {
        for (let n = roll(12); n; n--) socket.write(pieces[roll(pieces.length)]);
        if (!roll(3)) socket.end();
      });
    });
    await new Promise((resolve) => { hostile.listen(0, '127.0.0.1', resolve); });
    cleanup(t, () => { hostile.close(); for (const socket of sockets) socket.destroy(); });
    let server;
    try {
      server = await node(t, `redis://127.0.0.1:${hostile.address().port}/test`);
    } catch (error) { // a refusal that only the operator can mend is one of the answers
      assert.match(String(error), /"code":2/);
      return;
    }
    for (let n = 0; n < 30; n++) {
      assert.equal((await get(server, '/healthz')).status, 200);
      await new Promise((resolve) => { setTimeout(resolve, 100); });
    }
    await server.stop();
  });
});
