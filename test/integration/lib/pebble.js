'use strict';
// Pebble, the ACME server that Let's Encrypt tests clients with, and a DNS beside it in which every
// name is this machine: Debian's package has both.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const https = require('node:https');
const path = require('node:path');
const { Authority } = require('./certs');
const { freePort } = require('./ports');
const { launch, killTree, cleanup, tempDir } = require('./server');
const { slow } = require('./variant');
const { until } = require('./wait');

/** Starts a program for the test `t`; gives a function that ends it. */
function begin(t, argv, env = {}) {
  const { child, ended } = launch(argv, { env: { ...process.env, ...env } });
  const end = () => { killTree(child.pid); return ended; };
  cleanup(t, end);
  return end;
}

/** The body of an https answer of pebble's. */
const ask = (port, at, ca) => new Promise((resolve, reject) => {
  https.get({ host: '127.0.0.1', port, path: at, ca }, (answer) => {
    let text = '';
    answer.on('data', (part) => { text += part; });
    answer.on('end', () => resolve(text));
  }).on('error', reject);
});

/** The same in another network: `inside` are the words that run a command there. */
const askInside = (inside, port, at, file) => {
  const { status, stdout, stderr } = spawnSync(inside[0], [...inside.slice(1), 'curl', '-sSf', '--cacert', file, `https://127.0.0.1:${port}${at}`], { encoding: 'utf8' });
  if (status) throw new Error(stderr);
  return stdout;
};

/** Pebble, and a DNS in which every name is this machine: { args, url, ca, tlsPort, httpPort, root(), again() }.
 *  Options: the ports at which it looks names up, and `inside`, the words that run a command in its network. */
async function startPebble(t, env, { inside = [], ...looks } = {}) {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const { cert, key } = authority.issue('localhost');
  const [listen, manage, dns, challenges, ...free] = await Promise.all(Array.from({ length: 6 }, freePort));
  const { tlsPort = free[0], httpPort = free[1] } = looks;
  const config = path.join(dir, 'pebble.json');
  fs.writeFileSync(config, JSON.stringify({ pebble: { listenAddress: `127.0.0.1:${listen}`, managementListenAddress: `127.0.0.1:${manage}`,
    certificate: cert, privateKey: key, httpPort, tlsPort, ocspResponderURL: '', externalAccountBindingRequired: false, certificateValidityPeriod: 900 } }));
  begin(t, [...inside, 'pebble-challtestsrv', '-dns01', `127.0.0.1:${dns}`, '-http01', '', '-https01', '', '-tlsalpn01', '', '-management', `127.0.0.1:${challenges}`,
    '-defaultIPv6', '', '-defaultIPv4', '127.0.0.1']);
  const pebble = () => begin(t, [...inside, 'pebble', '-config', config, '-dnsserver', `127.0.0.1:${dns}`], { PEBBLE_VA_NOSLEEP: '1', ...env });
  const read = async (port, at) => (inside.length ? askInside(inside, port, at, authority.file) : ask(port, at, authority.pem));
  const ready = () => until('pebble', () => read(listen, '/dir'), { within: 10000 * slow });
  const url = `https://127.0.0.1:${listen}/dir`;
  const one = { end: pebble(), tlsPort, httpPort, url, ca: authority.file, args: ['--acme-agree', '--acme-email', 'ops@example.com', '--acme-server', url, '--acme-ca-file', authority.file],
    root: () => read(manage, '/roots/0'),
    async again() { await one.end(); one.end = pebble(); await ready(); } };
  await ready();
  return one;
}

module.exports = { startPebble };
