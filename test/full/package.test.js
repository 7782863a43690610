'use strict';
// What ./build.sh package makes: the same bytes twice, whole, taken by the programs of those whom it
// is for; the .deb by a Debian of its own under a systemd of its own, from installing to purging.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync, spawn, spawnSync } = require('node:child_process');
const nodeTest = require('node:test');
const { start, run, get, bearer, tempDir, cleanup, until, within, needs } = require('../integration/lib');
const { startPebble } = require('../integration/lib/pebble');

const root = path.join(__dirname, '../..');
const DIST = path.join(root, 'build/dist');
const test = (name, options, body) => nodeTest(name, { timeout: 900000, ...options }, body);
const VERSION = /#define PRESENCE_VERSION "(.*)"/.exec(fs.readFileSync(path.join(root, 'presence.c'), 'utf8'))[1];
const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest('hex');
const read = (name) => fs.readFileSync(path.join(DIST, name));
const deb = (arch) => path.join(DIST, `presence_${VERSION}-1_${arch}.deb`);
const json = (...argv) => JSON.parse(execFileSync(argv[0], argv.slice(1), { encoding: 'utf8' }));

/** Packs everything; the sums of it. */
function pack() {
  const { status, stdout, stderr } = spawnSync('./build.sh', ['package'], { cwd: root, encoding: 'utf8', env: { ...process.env, SOURCE_DATE_EPOCH: '1790000000' } });
  const [lacks] = /(?:missing|could not install|please install).*/.exec(stderr) || [];
  if (status && lacks) throw Object.assign(new Error(lacks), { lacks });
  assert.equal(status, 0, `${stdout}${stderr}`.slice(-3000));
  return read('SHA256SUMS').toString();
}

/** The tree of a tarball. */
function unpacked(t, arch) {
  const dir = tempDir(t);
  execFileSync('tar', ['-xzf', path.join(DIST, `presence-${VERSION}-linux-${arch}.tar.gz`), '-C', dir, '--strip-components=1']);
  return dir;
}

const made = (() => {
  try {
    return { first: pack() };
  } catch (error) {
    return { error };
  }
})();
const lacks = made.error?.lacks && `no packages can be made here: ${made.error.lacks}`;
/** The same, skipped where there are no packages. */
const packed = (name, { skip } = {}, body) => test(name, { skip: lacks || skip }, body);

packed('twice the same bytes', {}, () => {
  if (made.error) throw made.error;
  const { first } = made;
  for (const name of fs.readdirSync(path.join(root, 'build/cross'))) {
    if (name.startsWith('presence-')) fs.rmSync(path.join(root, 'build/cross', name)); // compiled again
  }
  assert.equal(pack(), first);
  const names = first.trim().split('\n').map((line) => line.split('  '));
  for (const [sum, name] of names) assert.equal(sha256(read(name)), sum, name);
  assert.deepEqual(names.map(([, name]) => name).sort(), [
    ...['amd64', 'arm64', 'armhf'].map((arch) => `presence-${VERSION}-linux-${arch}.tar.gz`),
    `presence-${VERSION}-oci.tar`, `presence-${VERSION}.spdx.json`, `presence-client-${VERSION}.tgz`,
    ...['amd64', 'arm64'].map((arch) => path.basename(deb(arch)))].sort());
});

packed('the .deb is small, has its configuration as such, and nothing that lintian minds', needs('lintian', 'apt-get install lintian'), () => {
  for (const arch of ['amd64', 'arm64']) {
    assert.ok(fs.statSync(deb(arch)).size <= 1.2e6);
    assert.equal(execFileSync('dpkg-deb', ['-I', deb(arch), 'conffiles'], { encoding: 'utf8' }), '/etc/presence/presence.conf\n');
    assert.equal(execFileSync('dpkg-deb', ['-f', deb(arch), 'Architecture'], { encoding: 'utf8' }), `${arch}\n`);
    const { status, stdout } = spawnSync('lintian', ['--allow-root', '--fail-on', 'error,warning', deb(arch)], { encoding: 'utf8' });
    assert.deepEqual([status, stdout], [0, ''], arch);
  }
});

packed('the list of what is inside is vendor/lock', {}, () => {
  const list = JSON.parse(read(`presence-${VERSION}.spdx.json`));
  assert.equal(list.spdxVersion, 'SPDX-2.3');
  const locked = ['vendor/lock', 'vendor/package/lock'].flatMap((name) => fs.readFileSync(path.join(root, name), 'utf8').split('\n')).map((line) => /^archive (\S+) \S+ (\S+) (\w{64})$/.exec(line))
    .filter((match) => match && !match[2].includes('.debian.'));
  assert.ok(locked.length >= 5);
  assert.deepEqual(list.packages.slice(1).map((one) => [one.name, one.packageFileName, one.checksums[0].checksumValue]), locked.map(([, ...rest]) => rest));
  const ids = new Set(list.packages.map((one) => one.SPDXID).concat('SPDXRef-DOCUMENT'));
  for (const one of list.relationships) assert.ok(ids.has(one.spdxElementId) && ids.has(one.relatedSpdxElement));
});

packed('the image is the program of each processor, of nobody who is somebody', needs('skopeo', 'apt-get install skopeo'), (t) => {
  const image = `oci-archive:${path.join(DIST, `presence-${VERSION}-oci.tar`)}`;
  for (const [arch, debian, variant] of [['amd64', 'amd64'], ['arm64', 'arm64'], ['arm', 'armhf', 'v7']]) {
    const choice = ['--override-arch', arch, ...(variant ? ['--override-variant', variant] : [])];
    const { Architecture, Layers } = json('skopeo', 'inspect', ...choice, image);
    assert.deepEqual([Architecture, Layers.length], [arch, 1]);
    const { config } = json('skopeo', 'inspect', '--config', ...choice, image);
    assert.deepEqual([config.User, config.Entrypoint, config.Volumes, config.ExposedPorts], ['65532:65532', ['/presence'], { '/data': {} }, { '8080/tcp': {} }]);
    const dir = tempDir(t);
    execFileSync('skopeo', ['copy', '--quiet', ...choice, image, `dir:${dir}`]);
    const layer = path.join(dir, Layers[0].replace('sha256:', ''));
    const inside = execFileSync('tar', ['-tvzf', layer, '--numeric-owner'], { encoding: 'utf8' });
    assert.match(inside, /^drwx------ 65532\/65532 .* data\/$/m);
    const program = execFileSync('tar', ['-xzOf', layer, 'presence'], { maxBuffer: 1e7 });
    assert.ok(program.equals(fs.readFileSync(path.join(unpacked(t, debian), 'bin/presence'))), arch);
  }
});

for (const [arch, qemu] of [['amd64', null], ['arm64', 'qemu-aarch64-static'], ['armhf', 'qemu-arm-static']]) {
  // qemu-user has no robust mutexes, without which there is no store: there it runs what needs none.
  const { file, skip } = qemu ? needs(qemu, 'apt-get install qemu-user-static') : {};
  packed(`the program for ${arch} does what this one does`, { skip }, async (t) => {
    const program = path.join(unpacked(t, arch), 'bin/presence');
    const secret = path.join(tempDir(t), 'secret');
    fs.writeFileSync(secret, 'a secret of more than thirty-two bytes\n');
    const there = (args, options) => run(args, { wrap: qemu ? [file] : [], program, deadline: 60000, ...options });
    for (const args of [['--help'], ['--print-config'], ['--completion', 'zsh'], ['--licenses'], ['--check-config', '--jwt-secret-file', secret], ['--listen', 'x']]) {
      const [theirs, ours] = [await there(args), await run(args)];
      assert.deepEqual([theirs.code, theirs.stdout, theirs.stderr], [ours.code, ours.stdout, ours.stderr], args.join(' '));
    }
    const minted = await there(['--jwt-secret-file', secret, '--mint-token', 'alice']);
    const server = await start(t, { args: ['--jwt-secret-file', secret] });
    const answer = await get(server, '/api/presence/alice', bearer(minted.stdout.trim()));
    assert.equal(answer.status, 404, 'its signature is good, and nobody has seen alice');
    if (qemu) return;
    const own = spawn(program, ['--data', path.join(tempDir(t), 'data'), '--listen', '127.0.0.1:0'], { stdio: 'ignore' });
    cleanup(t, () => own.kill('SIGKILL'));
    own.kill('SIGTERM');
  });
}

/** What systemd's namespaces are made of: it is told so by `container`. */
const BOOT = `
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
mkdir sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd,xattr cgroup sys/fs/cgroup/systemd
mount --bind /dev dev
ip link set lo up
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --system --log-target=null --unit=multi-user.target
`;
const MASKED = ['systemd-udevd.service', 'systemd-udev-trigger.service', 'systemd-udevd-control.socket', 'systemd-udevd-kernel.socket', 'systemd-sysctl.service',
  'systemd-remount-fs.service', 'getty.target', 'console-getty.service', 'systemd-timesyncd.service', 'systemd-networkd.service'];

/** A Debian in a directory, kept between runs as it is before anything is installed in it. */
function debian(t) {
  const kept = path.join(root, 'build/test/debian.tar');
  const dir = tempDir(t);
  if (!fs.existsSync(kept)) {
    const mirror = execFileSync('sh', ['-c', 'cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null'
      + " | sed -nE 's/^URIs: *(\\S+).*/\\1/p; s/^deb +(\\[[^]]*\\] +)?(\\S+).*/\\2/p' | head -n 1"], { encoding: 'utf8' }).trim();
    const made = spawnSync('debootstrap', ['--variant=minbase', '--include=systemd,systemd-sysv,adduser,dbus,curl', 'bookworm', dir, mirror], { encoding: 'utf8' });
    assert.equal(made.status, 0, `debootstrap: ${made.stdout.slice(-500)}${made.stderr}`);
    execFileSync('tar', ['-cf', `${kept}.new`, '--exclude=./dev/*', '-C', dir, '.']);
    fs.renameSync(`${kept}.new`, kept);
  } else {
    execFileSync('tar', ['-xf', kept, '-C', dir]);
  }
  fs.chmodSync(dir, 0o755); // others than root have to pass
  for (const unit of MASKED) fs.symlinkSync('/dev/null', path.join(dir, 'etc/systemd/system', unit));
  return dir;
}

const { skip: noDebootstrap } = needs('debootstrap', 'apt-get install debootstrap');
packed('a Debian takes it: installed, served, reloaded, upgraded without a refusal, purged', { skip: noDebootstrap || (process.getuid() !== 0 && 'only root can start a systemd') }, async (t) => {
  const dir = debian(t);
  fs.copyFileSync(deb('amd64'), path.join(dir, 'root/presence.deb'));
  const boot = spawn('unshare', ['--fork', '--kill-child', '--pid', '--mount', '--uts', '--ipc', '--cgroup', '--net', 'bash', '-c', BOOT, 'bash', dir], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  boot.stderr.setEncoding('utf8').on('data', (text) => { said += text; });
  const ended = new Promise((resolve) => { boot.once('close', resolve); });
  cleanup(t, () => { boot.kill('SIGKILL'); return within(30000, 'the end of the namespaces', ended); });
  const pid = await until('a systemd', () => fs.readFileSync(`/proc/${boot.pid}/task/${boot.pid}/children`, 'utf8').trim(), { within: 10000 });
  const inside = (command) => spawnSync('nsenter', ['-t', pid, '-m', '-u', '-i', '-n', '-p', '-C', '-r', '-w', 'bash', '-c', command], { encoding: 'utf8' });
  const sure = (command) => { const { status, stdout, stderr } = inside(command); assert.equal(status, 0, `${command}: ${stdout}${stderr}`); return stdout; };
  await until('it is up', () => /running|degraded/.test(inside('systemctl is-system-running').stdout), { within: 60000, every: 200, giveUp: () => boot.exitCode !== null })
    .catch((error) => { throw new Error(`${error.message}\n${said}`); });
  const show = (name) => sure(`systemctl show -P ${name} presence`).trim();

  await t.test('installed, it serves, walled off', async () => {
    sure('dpkg -i /root/presence.deb');
    await until('active', () => show('ActiveState') === 'active', { within: 30000, every: 100 });
    assert.equal(show('StatusText'), 'Serves 127.0.0.1:8080 (http)');
    assert.equal(sure('stat -c "%a %U:%G" /etc/presence /etc/presence/jwt-secret /var/lib/presence'), '750 root:presence\n640 root:presence\n700 presence:presence\n');
    const status = sure('cat /proc/$(systemctl show -P MainPID presence)/status');
    for (const line of ['NoNewPrivs:\t1', 'CapBnd:\t0000000000000400', 'Seccomp:\t2']) assert.ok(status.includes(line), line);
    const token = '$(presence --config /etc/presence/presence.conf --token-admin=yes --mint-token admin)';
    const metrics = sure(`curl -sf -H "Authorization: Bearer ${token}" http://127.0.0.1:8080/metrics`);
    assert.match(metrics, /^presence_store_writable 1$/m);
    assert.match(metrics, /^process_open_fds [1-9]/m);
    assert.match(metrics, /^presence_landlock_version [1-9]/m, 'the filter of system calls lets Landlock through');
    assert.equal(inside('curl -s -o /dev/null -w %{http_code} http://127.0.0.1:8080/admin/stats').stdout, '401');
  });

  await t.test('it reloads, also with ports below 1024 and TLS', async () => {
    sure("printf 'tls-listen 0.0.0.0:443\\ntls-self-signed yes\\nredirect-listen 0.0.0.0:80\\n' >>/etc/presence/presence.conf && systemctl restart presence");
    assert.equal(sure('curl -skf https://127.0.0.1/healthz'), '{"status":"ok"}\n');
    sure('systemctl reload presence');
    assert.match(sure('journalctl -u presence --no-pager'), /keys for tokens read again/);
    assert.equal(show('ActiveState'), 'active');
  });

  await t.test('with its sockets, upgrades under load refuse nobody', async () => {
    sure('systemctl stop presence && systemctl enable --now presence.socket presence-https.socket && systemctl start presence');
    const load = spawn('nsenter', ['-t', pid, '-m', '-n', '-p', '-r', '-w', 'bash', '-c',
      'n=0; while [ ! -e /tmp/over ]; do for url in http://127.0.0.1:8080/healthz https://127.0.0.1/healthz; do curl -sk -o /dev/null -w "%{http_code} $url %{errormsg}\\n" $url; done | grep -v ^200; n=$((n + 1)); done; echo $n'], { stdio: ['ignore', 'pipe', 'inherit'] });
    let counted = '';
    load.stdout.setEncoding('utf8').on('data', (text) => { counted += text; });
    const over = new Promise((resolve) => { load.once('close', resolve); });
    for (let i = 0; i < 4; i++) sure('dpkg -i /root/presence.deb'); // each stops the old one and starts the new
    sure('touch /tmp/over');
    await within(30000, 'the end of the load', over);
    assert.match(counted, /^\d+\n$/, 'none was refused');
    assert.ok(Number(counted) > 4);
    assert.match(show('StatusText'), /127\.0\.0\.1:8080 \(http\), 0\.0\.0\.0:443 \(https\), \[::\]:443 \(https\)/);
  });

  await t.test('one that hangs is started again', async () => {
    sure("mkdir -p /run/systemd/system/presence.service.d && printf '[Service]\\nWatchdogSec=1s\\n' >/run/systemd/system/presence.service.d/short.conf && systemctl daemon-reload && systemctl restart presence");
    const before = show('MainPID');
    sure(`kill -STOP ${before}`);
    await until('another', () => show('NRestarts') === '1' && show('ActiveState') === 'active', { within: 30000, every: 100 });
    assert.notEqual(show('MainPID'), before);
  });

  await t.test('removed it leaves what is an operator\'s; purged, nothing', async () => {
    sure('dpkg -r presence');
    assert.equal(sure('ls /etc/presence; ls /var/lib/presence | head -n 1'), 'jwt-secret\npresence.conf\ndata.mdb\n');
    const { status, stdout, stderr } = inside('dpkg -P presence');
    assert.equal(status, 0, stdout + stderr);
    assert.equal(inside('ls -d /etc/presence /var/lib/presence 2>/dev/null; getent passwd presence; find /etc -name "*presence*"; find /var/lib/systemd -name "*presence*"').stdout, '');
  });

  await t.test('from a fresh Debian to a green padlock are the three commands of the README', { skip: needs('pebble', 'apt-get install pebble').skip }, async () => {
    const [, block] = /to a green padlock[^\n]*\n\n((?: {4}# .*\n)+)/.exec(fs.readFileSync(path.join(root, 'README.md'), 'utf8'));
    const [install, configure, ...rest] = block.trim().split('\n').map((line) => line.trim().replace(/^# /, ''));
    assert.deepEqual(rest, ['systemctl restart presence']);
    assert.equal(install, `apt install ./${path.basename(deb('amd64'))}`);
    const pebble = await startPebble(t, {}, { inside: ['nsenter', '-t', pid, '-n'], tlsPort: 443, httpPort: 80 });
    sure('dpkg -i /root/presence.deb'); // apt has no network here
    fs.copyFileSync(pebble.ca, path.join(dir, 'etc/presence/pebble.pem'));
    sure(configure);
    sure(`printf 'acme-server ${pebble.url}\\nacme-ca-file /etc/presence/pebble.pem\\n' >>/etc/presence/presence.conf`);
    sure(rest[0]);
    await until('a certificate', () => /acme: a certificate for presence\.example\.com/.test(sure('journalctl -u presence --no-pager')), { within: 30000, every: 200 });
    fs.writeFileSync(path.join(dir, 'root/root.pem'), await pebble.root());
    assert.equal(sure('curl -sSf --cacert /root/root.pem --resolve presence.example.com:443:127.0.0.1 https://presence.example.com/healthz'), '{"status":"ok"}\n');
    sure('dpkg -P presence');
  });
});
