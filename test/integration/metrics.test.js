'use strict';
// Variants: release asan
// What /metrics measures, by what is known otherwise: the process, certificates, delays.
const assert = require('node:assert/strict');
const http = require('node:http');
const tls = require('node:tls');
const { test, sideBySide, start, startSecure, connect, get, heartbeat, until, proc } = require('./lib');

/** The samples of /metrics by name and labels, read through a connection that is kept. */
async function metrics(server, options) {
  const { text } = await get(server.of('metrics')[0] ? { ...server, ...server.of('metrics')[0] } : server, '/metrics', options);
  return new Map([...text.matchAll(/^(\w+(?:\{.*\})?) (\S+)$/gm)].map(([, name, value]) => [name, Number(value)]));
}

/** The buckets of a histogram, each with those below it; checked against its count. */
function buckets(all, name) {
  const found = [...all].filter(([key]) => key.startsWith(`${name}_bucket{le="`)).map(([, value]) => value);
  assert.equal(found.length, 13);
  assert.deepEqual(found, [...found].sort((a, b) => a - b), 'each has those below it');
  assert.equal(found.at(-1), all.get(`${name}_count`));
  return found;
}

sideBySide(() => {
  test('the process: its start, processor time, memory and descriptors', async (t) => {
    const before = Date.now() / 1000;
    const server = await start(t);
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    t.after(() => agent.destroy());
    const first = await metrics(server, { agent });
    assert.ok(Math.abs(first.get('process_start_time_seconds') - before) < 30);
    assert.equal(first.get('process_resident_memory_bytes'), first.get('presence_resident_bytes'));
    const limit = Number(/^Max open files +(\d+)/m.exec(require('node:fs').readFileSync(`/proc/${server.pid}/limits`, 'utf8'))[1]);
    assert.equal(first.get('process_max_fds'), limit);
    assert.equal(first.get('process_open_fds'), proc.descriptors(server.pid));
    for (let i = 0; i < 20; i++) await connect(server, `u${i}`);
    const second = await metrics(server, { agent });
    assert.equal(second.get('process_open_fds'), proc.descriptors(server.pid));
    assert.ok(second.get('process_open_fds') >= first.get('process_open_fds') + 20);
    assert.ok(second.get('process_cpu_seconds_total') >= first.get('process_cpu_seconds_total'));
    assert.ok([...first.keys()].some((name) => /^presence_build_info\{version="\d+\.\d+\.\d+",mbedtls="[\d.]+",lmdb="[\d.]+"\}$/.test(name)));
  });

  test('a certificate ends when it says so', async (t) => {
    const server = await startSecure(t);
    const [{ host, port }] = server.of('https');
    const certificate = await new Promise((resolve, reject) => {
      const socket = tls.connect({ host, port, rejectUnauthorized: false }, () => { resolve(socket.getPeerCertificate()); socket.destroy(); }).on('error', reject);
    });
    const [[name, end], ...more] = [...await metrics(server)].filter(([key]) => key.startsWith('presence_certificate_not_after_seconds'));
    assert.deepEqual(more, []);
    assert.equal(end, Date.parse(certificate.valid_to) / 1000);
    const [, first] = /^(?:DNS|IP Address):([^,]*)/.exec(certificate.subjectaltname);
    assert.equal(name, `presence_certificate_not_after_seconds{certificate="0",name="${first}"}`);
  });

  test('detection: one for each user whom silence took offline, by how long that was', async (t) => {
    const server = await start(t, { args: ['--online-threshold', '1100ms', '--ping-interval', '100ms', '--pong-timeout', '100ms'] });
    for (const id of ['a', 'b', 'c']) await heartbeat(server, id);
    const clean = await connect(server, 'd');
    await clean.close();
    await until('three leaves for silence', async () => (await metrics(server)).get('presence_leaves_total') === 4);
    const found = buckets(await metrics(server), 'presence_detection_delay_seconds');
    assert.deepEqual([found[0], found.at(-1)], [0, 3], 'each took more than a second; a clean close is none');
    assert.ok((await metrics(server)).get('presence_detection_delay_seconds_sum') >= 3.3);
  });

  test('fan-out: one for each message of changes', async (t) => {
    const server = await start(t, { args: ['--watch-interval', '20ms'] });
    const watchers = await Promise.all(['w1', 'w2', 'w3'].map((id) => connect(server, id)));
    for (const watcher of watchers) {
      watcher.send({ type: 'watch', users: ['u'] });
      await watcher.next('snapshot');
    }
    for (let i = 0; i < 5; i++) {
      const client = await connect(server, 'u');
      for (const watcher of watchers) await watcher.next('presence');
      await client.close();
      for (const watcher of watchers) await watcher.next('presence');
    }
    const all = await metrics(server);
    const found = buckets(all, 'presence_fanout_delay_seconds');
    assert.equal(found.at(-1), all.get('presence_updates_total'));
    assert.ok(found.at(-1) >= 30, `${found}`);
  });
});
