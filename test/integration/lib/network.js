'use strict';
// A real network for a test: hosts that are network namespaces, and a router between them that loses
// packets and is late, each way by itself (wire.c). The test's own process is in a namespace of its
// own as well, and reaches each host over a line that always works: what holds the sockets of users,
// and asks, sees the truth. All of it is gone with the last process in it, however that ended.

const { execFileSync, spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { cleanup, tempDir, launch } = require('./server');
const { within } = require('./wait');
const { findProgram } = require('./tools');

const INSIDE = 'PRESENCE_NETWORK';
const NAMES = '/run/netns';
const HERE = '10.79.0.1'; // this process, as all hosts see it
const FLOATING = '10.77.0.100'; // an address that moves from host to host

const ip = (...words) => execFileSync('ip', words.map(String), { stdio: ['ignore', 'ignore', 'pipe'] });

/** Why there can be no such network here; false when there can. */
function noNetwork() {
  if (process.env[INSIDE]) return false;
  for (const [name, from] of [['ip', 'iproute2'], ['unshare', 'util-linux'], ['nsenter', 'util-linux'], ['gcc', 'gcc']])
    if (!findProgram(name)) return `there is no ${name} here: apt-get install ${from}`;
  if (!fs.existsSync('/dev/net/tun')) return 'there is no /dev/net/tun here';
  try {
    execFileSync('unshare', ['--net', '--mount', 'true'], { stdio: 'ignore' });
    return false;
  } catch {
    return 'this user may make no network namespace: be root';
  }
}

/** Runs this file of tests again in a network namespace of its own, where it returns true. Outside,
 *  this process only waits for that one, and false is returned. */
function insideOwnNetwork() {
  if (process.env[INSIDE]) {
    fs.mkdirSync(NAMES, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', 'names', NAMES]); // seen by nobody else: its names end with it
    ip('link', 'set', 'lo', 'up');
    ip('addr', 'add', `${HERE}/32`, 'dev', 'lo');
    delete process.env[INSIDE];
    return true;
  }
  const argv = ['--net', '--mount', '--kill-child', process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = spawn('unshare', argv, { stdio: 'inherit', env: { ...process.env, [INSIDE]: '1' } });
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('close', (code) => { process.exitCode = code ?? 1; });
  return false;
}

/** One machine: `address` is where this process finds it, `wire` where the other hosts do. */
class Host {
  constructor(network, name, number) {
    Object.assign(this, { network, name, number, wire: `10.77.0.${number}`, address: `10.78.${number}.2` });
    this.wrap = ['nsenter', `--net=${NAMES}/${name}`]; // it becomes the program: its pid is the program's
  }

  async begin() {
    const { name, number, network } = this;
    const inside = (...words) => ip('-n', name, ...words);
    ip('netns', 'add', name);
    ip('link', 'add', `to-${number}`, 'type', 'veth', 'peer', 'name', 'test', 'netns', name);
    ip('addr', 'add', `10.78.${number}.1/30`, 'dev', `to-${number}`);
    ip('link', 'set', `to-${number}`, 'up');
    await network.say('host', number, `wire-${number}`);
    ip('link', 'set', `wire-${number}`, 'netns', name);
    inside('link', 'set', 'lo', 'up');
    inside('addr', 'add', `${this.address}/30`, 'dev', 'test');
    inside('link', 'set', 'test', 'up');
    inside('route', 'add', HERE, 'via', `10.78.${number}.1`);
    inside('addr', 'add', `${this.wire}/24`, 'dev', `wire-${number}`);
    inside('link', 'set', `wire-${number}`, 'up');
    this.begun = true;
    return this;
  }

  end() {
    if (!this.begun) return;
    ip('link', 'del', `to-${this.number}`);
    ip('netns', 'del', this.name);
  }

  /** It is one of those who may have the address that moves. */
  floats() {
    ip('-n', this.name, 'addr', 'add', `${FLOATING}/32`, 'dev', `wire-${this.number}`);
    return this;
  }
}

class Network {
  constructor(t, seed) {
    Object.assign(this, { t, seed, hosts: [], asked: [] });
  }

  async begin() {
    const program = path.join(tempDir(this.t), 'wire');
    execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-o', program, path.join(__dirname, 'wire.c')]);
    const { child, output, ended } = launch([program, String(this.seed)], { stdio: ['pipe', 'pipe', 'pipe'] });
    Object.assign(this, { child, output });
    ended.then(() => { for (const { reject } of this.asked.splice(0)) reject(new Error(`the wire has ended: ${output.stderr}`)); });
    let rest = '';
    child.stdout.on('data', (text) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      for (const line of lines) this.asked.shift().resolve(line.split(' ').map(Number));
    });
    child.stdin.on('error', () => {});
    cleanup(this.t, async () => {
      child.kill('SIGKILL');
      await ended;
      for (const host of this.hosts) host.end(); // the next test has a network of its own, and takes the same names
    });
    return this;
  }

  /** Tells the wire, which answers with the packets that arrived, and those that were lost. */
  say(...words) {
    const answer = new Promise((resolve, reject) => this.asked.push({ resolve, reject }));
    this.child.stdin.write(`${words.join(' ')}\n`);
    return within(10000, `the wire's answer to ${words.join(' ')}`, answer);
  }

  async host(name) {
    const host = new Host(this, name, this.hosts.length + 1);
    this.hosts.push(host);
    return host.begin();
  }

  /** From one host to another so many of 1000 packets are lost, and the others late by so many ms. */
  way(from, to, lost, late = 0) {
    return this.say('way', from.number, to.number, lost, late);
  }

  /** The same for both ways. */
  async both(one, other, lost, late = 0) {
    await this.way(one, other, lost, late);
    await this.way(other, one, lost, late);
  }

  /** For these hosts the address that moves is this one's. */
  async float(to, hosts = this.hosts) {
    for (const host of hosts) await this.say('floating', host.number, to.number);
  }

  count() {
    return this.say('count');
  }
}

/** The line between a node and the machines on which its engine may be: in place of a proxy, with
 *  the faults of a network. */
class Line {
  constructor(network, host, others) {
    Object.assign(this, { network, host, others });
  }

  async set(ways, lost, late) {
    for (const other of this.others()) {
      if (ways.includes('up')) await this.network.way(this.host, other, lost, late);
      if (ways.includes('down')) await this.network.way(other, this.host, lost, late);
    }
  }

  /** Nothing arrives any more: what goes to the engine ('up'), what comes from it ('down'), or both. */
  stall(...ways) { return this.set(ways.length ? ways : ['up', 'down'], 1000, 0); }
  apart() { return this.stall(); }
  lose(permille) { return this.set(['up', 'down'], permille, 0); }
  delay(ms) { return this.set(['up', 'down'], 0, ms); }
  together() { return this.set(['up', 'down'], 0, 0); }
}

const startNetwork = (t, { seed = 1 } = {}) => new Network(t, seed).begin();

module.exports = { startNetwork, insideOwnNetwork, noNetwork, Network, Line, HERE, FLOATING };
