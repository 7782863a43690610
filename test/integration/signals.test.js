'use strict';
// Variants: release asan
// Every signal has the effect that presence.1 says, or none; after each the store is whole.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test, sideBySide, start, run, connect, presence, settled, tempDir, get, until, within, release, slow } = require('./lib');

const number = os.constants.signals;
const IGNORED = ['SIGPIPE', 'SIGXFSZ', 'SIGUSR1', 'SIGALRM', 'SIGVTALRM', 'SIGPROF', 'SIGIO', 'SIGPWR',
  'SIGSTKFLT', 'SIGCHLD', 'SIGURG', 'SIGWINCH', 'SIGCONT', 'SIGHUP', 35, 36, 40, 50, 64]; // 32 to 34 are libc's own
const STOPS = ['SIGTERM', 'SIGINT'];
const TELLS = ['SIGUSR2'];
const PAUSES = ['SIGTSTP', 'SIGTTIN', 'SIGTTOU', 'SIGSTOP'];
const ENDS = ['SIGQUIT', 'SIGILL', 'SIGTRAP', 'SIGABRT', 'SIGFPE', 'SIGBUS', 'SIGSEGV', 'SIGSYS', 'SIGXCPU', 'SIGKILL'];
const quiet = { wrap: ['sh', '-c', 'ulimit -c 0; exec "$@"', 'sh'] };

test('every signal is one of those that are tried here', () => {
  const known = new Set([...IGNORED, ...TELLS, ...STOPS, ...PAUSES, ...ENDS].map((one) => number[one] ?? one));
  const all = Array.from({ length: 31 }, (_, i) => i + 1);
  assert.deepEqual(all.filter((one) => !known.has(one)), []);
});

sideBySide(() => {
  test('signals that mean nothing to it change nothing', async (t) => {
    const server = await start(t, { args: ['--max-messages-per-second', '0'] });
    const client = await connect(server, 'u');
    for (const signal of IGNORED) {
      for (let i = 0; i < 3; i++) server.signal(signal);
      await client.ping();
      assert.equal(server.result, null, `${signal}`);
    }
    for (const signal of PAUSES) {
      server.signal(signal);
      await until(`stopped by ${signal}`, () => /^State:\tT/m.test(fs.readFileSync(`/proc/${server.pid}/status`, 'utf8')));
      server.signal('SIGCONT');
      await client.ping();
    }
    assert.equal((await presence(server, 'u')).connections, 1);
  });

  test('SIGUSR2 has limits, gauges and counters told', async (t) => {
    const told = /level=info msg="(limits|now|counters): /;
    const server = await start(t, { args: ['--max-watch', '77', '--metrics-listen', '127.0.0.1:0'], listening: 1, allow: [told] });
    await connect(server, 'u');
    server.signal('SIGUSR2');
    await until('the last of it', () => /msg="counters: /.test(server.stderr));
    const said = new Map([...server.stderr.matchAll(/msg="(?:limits|now|counters): (.*)"$/gm)]
      .flatMap(([, text]) => text.split(' ').map((pair) => pair.split('='))));
    assert.deepEqual([said.get('max-watch'), said.get('presence_users_live'), said.get('upgrades_total')], ['77', '1', '1']);
    const { text } = await get(server.of('metrics')[0], '/metrics', { sockets: server.sockets });
    const gauges = [...text.matchAll(/^# HELP (\w+) (?:.*)\n# TYPE \1 gauge\n\1 /gm)].map((match) => match[1]);
    assert.deepEqual(gauges.filter((name) => !said.has(name)), []);
    assert.ok(gauges.length > 15 && [...said.values()].every((value) => /^\d+(ms|[smhd])?$/.test(value)), [...said].join(' '));
  });

  test('nor do they while it starts: SIGHUP waits until there is something to read again', async (t) => {
    const dir = tempDir(t);
    const secret = path.join(dir, 'secret');
    require('node:child_process').execFileSync('mkfifo', [secret]);
    const starting = start(t, { args: ['--jwt-secret-file', secret], allow: [/the old keys stay in use/] });
    starting.catch(() => {});
    const pid = await until('its process', () => fs.readdirSync('/proc').find((one) => {
      try { return /^\d+$/.test(one) && fs.readFileSync(`/proc/${one}/cmdline`, 'latin1').includes(secret); } catch { return false; }
    }));
    await until('it ignores them', () => {
      const mask = /^SigIgn:\t(\w+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))[1];
      return (BigInt(`0x${mask}`) >> BigInt(number.SIGUSR1 - 1)) & 1n;
    });
    for (const signal of IGNORED) process.kill(Number(pid), signal);
    fs.writeFileSync(secret, 'a secret of more than thirty-two bytes\n');
    const server = await starting;
    assert.equal((await get(server, '/healthz')).status, 200);
  });

  test('signals that end it leave a whole store, and who was online', { skip: !release && 'the sanitizers have their own report' }, async (t) => {
    for (const signal of ENDS) {
      const server = await start(t, quiet);
      await connect(server, 'u');
      await settled(server);
      server.stopped = true;
      server.signal(signal);
      assert.deepEqual(await within(10000 * slow, signal, server.ended), { code: null, signal });
      server.checkStderr();
      assert.equal((await run(['--check-store', '--data', server.data])).code, 0);
      const again = await start(t, { data: server.data });
      assert.equal((await presence(again, 'u')).source, 'cached', signal);
      await again.stop({ signal: STOPS[ENDS.indexOf(signal) % 2] });
    }
  });
});
