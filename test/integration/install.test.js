'use strict';
// Variants: release
// ./build.sh install: each file where whoever looks for it looks, by PREFIX and DESTDIR; units that
// systemd understands, rules and a dashboard that name only what there is.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync, spawnSync } = require('node:child_process');
const { test, start, run, tempDir, get } = require('./lib');

const root = path.join(__dirname, '../..');
const read = (name) => fs.readFileSync(path.join(root, name), 'utf8');
const missing = (program, from) => (spawnSync(program, ['--version']).error ? `${program} is not installed: apt-get install ${from}` : false);
const files = (dir) => execFileSync('find', ['.', '-type', 'f', '-printf', '%m %P\n'], { cwd: dir, encoding: 'utf8' }).trim().split('\n').sort();

const PLACES = [
  '644 lib/systemd/system/presence-https.socket', '644 lib/systemd/system/presence-metrics.socket',
  '644 lib/systemd/system/presence-redirect.socket', '644 lib/systemd/system/presence.service',
  '644 lib/systemd/system/presence.socket', '644 lib/sysusers.d/presence.conf',
  '644 share/bash-completion/completions/presence', '644 share/doc/presence/LICENSES',
  '644 share/doc/presence/examples/alerts.yml', '644 share/doc/presence/examples/grafana.json',
  '644 share/doc/presence/examples/presence.conf', '644 share/fish/vendor_completions.d/presence.fish',
  '644 share/man/man1/presence.1', '644 share/man/man7/presence-protocol.7', '755 bin/presence',
];

/** Installs below a fresh directory. */
function install(t, env) {
  const dir = tempDir(t);
  execFileSync('./build.sh', ['install'], { cwd: root, env: { ...process.env, DESTDIR: dir, ...env }, stdio: ['ignore', 'ignore', 'inherit'] });
  return dir;
}

test('it puts everything in its place, and keeps a configuration that is there', async (t) => {
  const dir = install(t, { PREFIX: '/opt/p' });
  assert.deepEqual(files(dir), [
    ...PLACES.concat('644 share/zsh/site-functions/_presence').map((one) => one.replace(' ', ' opt/p/')), '644 etc/presence/presence.conf'].sort());
  const unit = fs.readFileSync(path.join(dir, 'opt/p/lib/systemd/system/presence.service'), 'utf8');
  assert.match(unit, /^ExecStart=\/opt\/p\/bin\/presence --config \/etc\/presence\/presence\.conf$/m);
  assert.ok(!/@\w+@/.test(unit), 'nothing is left to be put in');
  assert.ok(fs.readFileSync(path.join(dir, 'opt/p/bin/presence')).equals(fs.readFileSync(path.join(root, 'build/presence'))));
  const config = path.join(dir, 'etc/presence/presence.conf');
  fs.writeFileSync(config, 'mine\n');
  execFileSync('./build.sh', ['install'], { cwd: root, env: { ...process.env, DESTDIR: dir, PREFIX: '/opt/p' }, stdio: 'ignore' });
  assert.equal(fs.readFileSync(config, 'utf8'), 'mine\n');
});

test('a place that would be wrong in a unit is refused with one sentence, and nothing is installed', (t) => {
  const refused = (env, name) => {
    const dir = tempDir(t);
    const { status, stdout, stderr } = spawnSync('./build.sh', ['install'], {
      cwd: root, env: { ...process.env, DESTDIR: dir, ...env }, encoding: 'utf8',
    });
    assert.deepEqual([status, stdout], [1, ''], JSON.stringify(env));
    assert.match(stderr, new RegExp(`^build\\.sh: ${name}: '.*' is not from / on, .*; choose another\n$`, 's'), JSON.stringify(env));
    assert.deepEqual(fs.readdirSync(dir), []);
  };
  for (const name of ['PREFIX', 'SYSCONFDIR', 'DESTDIR'])
    for (const place of ['usr/local', './x', '~/x', ' /x', '/opt/my presence', '/x\n', '/x\t', '/x|y', '/x&y', '/x\\y', '/x%h', '/x$y', '/x;y', '/x\'y', '/x"y', '/x#y', '/x:y', '/käse'])
      refused({ [name]: place }, name);
  // every other character of one byte, one at a time
  for (let code = 1; code < 127; code++) {
    const one = String.fromCharCode(code);
    if (!/[\w/.+@-]/.test(one)) refused({ PREFIX: `/x${one}y` }, 'PREFIX');
  }
  assert.ok(fs.existsSync(path.join(install(t, { PREFIX: '/opt/a-b_c.d+e@f9' }), 'opt/a-b_c.d+e@f9/bin/presence')));
});

test('the configuration is one that the program takes, with what is commented out, too', async (t) => {
  const dir = tempDir(t);
  for (const name of ['jwt-secret', 'admin-password']) fs.writeFileSync(path.join(dir, name), 'x'.repeat(40));
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '9', '-subj', '/CN=x',
    '-keyout', path.join(dir, 'privkey.pem'), '-out', path.join(dir, 'fullchain.pem')], { stdio: 'ignore' });
  const hash = execFileSync(path.join(root, 'build/presence'), ['--hash-password'], { input: 'secret\n', encoding: 'utf8' });
  fs.writeFileSync(path.join(dir, 'admin-password'), hash);
  const text = read('vendor/package/presence.conf').replaceAll('/etc/presence', dir);
  const all = text.replace(/^#(?=[a-z-]+(?: \S+)?$)/gm, '');
  const without = (lines) => { // one certificate or the other
    assert.match(all, lines);
    return all.replace(lines, '');
  };
  for (const [what, one] of [['as it is', text], ['all of it, its own certificate', without(/^tls-(?:cert|key) .*\n/gm)],
    ['all of it, one from elsewhere', without(/^acme.*\n/gm)]]) {
    const file = path.join(dir, 'presence.conf');
    fs.writeFileSync(file, one);
    const { code, stdout, stderr } = await run(['--config', file, '--check-config']);
    assert.deepEqual([code, stdout, stderr], [0, 'configuration ok\n', ''], what);
  }
});

test('systemd understands the units, and finds the service well walled off', { skip: missing('systemd-analyze', 'systemd') }, (t) => {
  const dir = path.join(install(t, { PREFIX: '/usr' }), 'usr/lib/systemd/system');
  const text = fs.readFileSync(path.join(dir, 'presence.service'), 'utf8');
  fs.writeFileSync(path.join(dir, 'presence.service'), text.replace('/usr/bin/presence', path.join(root, 'build/presence')));
  const env = { ...process.env, SYSTEMD_LOG_LEVEL: 'warning' };
  const units = fs.readdirSync(dir).map((name) => path.join(dir, name));
  const verified = spawnSync('systemd-analyze', ['verify', '--man=no', ...units], { encoding: 'utf8', env });
  const ours = verified.stderr.split('\n').filter((line) => /presence/.test(line));
  assert.deepEqual([verified.status, ours], [0, []], verified.stderr);
  const rated = spawnSync('systemd-analyze', ['security', '--offline=true', '--threshold=20', path.join(dir, 'presence.service')], { encoding: 'utf8', env });
  assert.equal(rated.status, 0, rated.stdout.split('\n').slice(-3).join('\n'));
});

/** Every name of a metric in a text. */
const named = (text) => [...new Set(text.match(/\b(?:presence|process)_[a-z_]+/g))];

test('alert rules, dashboard and README name only metrics that there are', async (t) => {
  const server = await start(t, { args: ['--tls-listen', '127.0.0.1:0', '--tls-self-signed', '--cluster', 'redis://127.0.0.1:1/test'], listening: 1, allow: [/--cluster: cannot reach|cluster: /] });
  const { text } = await get(server, '/metrics');
  const known = new Set([...text.matchAll(/^# TYPE (\w+) (\w+)/gm)].flatMap(([, name, type]) => (type === 'histogram' ? ['_bucket', '_sum', '_count'].map((end) => name + end) : [name])));
  const rules = read('vendor/package/alerts.yml');
  const dashboard = JSON.parse(read('vendor/package/grafana.json'));
  assert.ok(named(rules).length > 12 && dashboard.panels.length > 10);
  for (const [what, one] of [['alerts.yml', rules], ['alerts_test.yml', read('vendor/package/alerts_test.yml')], ['grafana.json', JSON.stringify(dashboard)]]) {
    assert.deepEqual(named(one).filter((name) => !known.has(name)), [], what);
  }
  const places = dashboard.panels.map(({ gridPos }) => `${gridPos.x},${gridPos.y}`);
  assert.equal(new Set(places).size, places.length, 'no panel covers another');
});

test('promtool finds the rules sound, and they fire when they should', { skip: missing('promtool', 'prometheus') }, () => {
  const cwd = path.join(root, 'vendor/package');
  for (const args of [['check', 'rules', 'alerts.yml'], ['test', 'rules', 'alerts_test.yml']]) execFileSync('promtool', args, { cwd, stdio: 'pipe' });
});

test('promtool finds /metrics well written', { skip: missing('promtool', 'prometheus') }, async (t) => {
  const server = await start(t, { args: ['--tls-listen', '127.0.0.1:0', '--tls-self-signed'], listening: 1 });
  const { text } = await get(server, '/metrics');
  const checked = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
  assert.deepEqual([checked.status, checked.stderr], [0, '']);
});
