'use strict';
// The engine of a cluster: a real redis-server under the test's hand, or the fake one; and the two
// scripts as they are agreed, to hold the fake against the real one.

const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { launch, cleanup, tempDir } = require('./server');
const { freePort } = require('./ports');
const { RespClient } = require('./resp');
const { FakeEngine, startFake } = require('./fake-engine');
const { findProgram } = require('./tools');
const { slow } = require('./variant');
const { until, within } = require('./wait');

/** The keys of a prefix, as the engine has them. */
const keysOf = (prefix) => ({ meta: `{${prefix}}:meta`, log: `{${prefix}}:log` });

const SCRIPTS = {
  append: `-- append
local m = redis.call('HMGET', KEYS[1], 'epoch', 'count', ARGV[2])
if m[1] ~= ARGV[1] then return redis.error_reply('EPOCH ' .. (m[1] or '0')) end
local n, last = tonumber(ARGV[3]), tonumber(m[3] or '0')
if n <= last then return 0 end
if n > last + 1 then return redis.error_reply('GAP ' .. (m[3] or '0')) end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'e', ARGV[1], 'b', m[2], 'd', ARGV[6])
redis.call('HSET', KEYS[1], 'count', string.format('%.0f', tonumber(m[2]) + tonumber(ARGV[4])),
  ARGV[2], string.format('%.0f', n))
return 1`,
  renew: `-- renew
local is = redis.call('HGET', KEYS[1], 'epoch') or '0'
if is ~= ARGV[1] then return is end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'count', '0', 'run', ARGV[3])
return ARGV[2]`,
};

/** The program that is the real engine. PRESENCE_ENGINE: another one, such as a valkey-server. */
const PROGRAM = process.env.PRESENCE_ENGINE ? path.resolve(process.env.PRESENCE_ENGINE) : findProgram('redis-server');

/** The skip option of a test that needs a real engine. */
const noEngine = PROGRAM ? false : 'there is no redis-server here: apt-get install redis-server';

class Redis {
  constructor(t, { port, dir = tempDir(t), args = [], keep = false, of = null, place = null, env = {} }) {
    Object.assign(this, { port, dir, args, keep, of, place, env, host: place?.address ?? '127.0.0.1', control: null });
  }

  /** Where it listens, and for whom it is what. */
  get listening() {
    if (!this.place) return ['--bind', '127.0.0.1'];
    return ['--bind', '0.0.0.0', '--protected-mode', 'no', '--replica-announce-ip', this.place.wire];
  }

  /** Starts the process on its port, and waits until it answers. */
  async begin() {
    const argv = [...(this.place?.wrap ?? []), PROGRAM, '--port', this.port, ...this.listening, '--dir', this.dir,
      '--save', '', '--appendonly', 'no', '--daemonize', 'no', '--pidfile', path.join(this.dir, 'pid'),
      '--enable-debug-command', 'local', '--repl-diskless-sync-delay', '0',
      ...(this.of ? ['--replicaof', this.of.place?.wire ?? this.of.host, this.of.port] : []), ...this.args];
    if (!this.keep) fs.rmSync(path.join(this.dir, 'dump.rdb'), { force: true });
    const { child, output, ended } = launch(argv.map(String), { cwd: this.dir, env: { ...process.env, ...this.env } });
    Object.assign(this, { child, output, ended, over: false, paused: false });
    ended.then(() => { if (this.child === child) this.over = true; });
    await until('redis-server to answer', async () => (await this.once('PING')) === 'PONG',
      { within: 10000 * slow, giveUp: () => this.over });
  }

  /** A command on a connection of its own. */
  async once(...words) {
    const client = new RespClient(this);
    try {
      return await client.command(...words);
    } finally {
      await client.close();
    }
  }

  /** A command on a connection that is kept. */
  command(...words) {
    if (!this.control || this.control.over) this.control = new RespClient(this);
    return this.control.command(...words);
  }

  /** A field of INFO. */
  async info(name) {
    return new RegExp(`^${name}:(.*)\r$`, 'm').exec(await this.command('INFO'))?.[1];
  }

  /** Ends it by a signal, and forgets what it had, unless its file is kept (`keep`) and written. */
  async end(signal) {
    if (this.over) return;
    if (this.paused) this.resume();
    this.child.kill(signal);
    await within(10000 * slow, `redis-server to end by ${signal}`, this.ended);
    await this.control?.close();
    this.control = null;
  }
  kill() { return this.end('SIGKILL'); }
  stop() { return this.end('SIGTERM'); }

  pause() {
    this.paused = true;
    this.child.kill('SIGSTOP');
  }
  resume() {
    this.paused = false;
    this.child.kill('SIGCONT');
  }

  /** Writes its file now; with `keep` a later start reads it: that is how a tail is lost. */
  save() { return this.command('SAVE'); }

  /** Killed and started again on the same port. */
  async restart({ signal = 'SIGKILL' } = {}) {
    await this.end(signal);
    await this.begin();
  }

  /** A replica of this one takes over what came until now, as itself (its own run_id). */
  async promote() {
    await this.command('REPLICAOF', 'NO', 'ONE');
    this.of = null;
  }

  /** Becomes a replica of another one. */
  async follow(primary) {
    this.of = primary;
    await this.command('REPLICAOF', primary.place?.wire ?? primary.host, String(primary.port));
  }

  /** Waits until a replica has what its primary has. */
  caughtUp() {
    return until('the replica to be in step', async () =>
      (await this.info('master_link_status')) === 'up' &&
      (await this.info('slave_repl_offset')) === (await this.of.info('master_repl_offset')), { within: 10000 * slow });
  }

  /** Cuts all other connections. */
  cut() { return this.command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'); }
}

/** Starts a redis-server for the test `t`. Options: port; args (more of them); keep: the file that
 *  save() writes is read at the next start; of: the primary of which it is a replica; place: the host of
 *  a network (network.js) that it runs on. */
async function startRedis(t, options = {}) {
  for (let tries = 0; ; tries++) {
    const redis = new Redis(t, { ...options, port: options.port ?? (await freePort()) });
    cleanup(t, () => redis.kill());
    try {
      await redis.begin();
      return redis;
    } catch (error) {
      await redis.kill();
      // somebody else may have taken the port in between
      if (options.port || tries >= 4 || !/Address already in use/.test(redis.output.stdout)) {
        error.message += `\n${redis.output.stdout}`;
        throw error;
      }
    }
  }
}

const randomEpoch = () => String(crypto.randomBytes(4).readUInt32BE() || 1);
const randomIncarnation = () => crypto.randomBytes(8).toString('hex');

module.exports = { startRedis, Redis, PROGRAM, startFake, FakeEngine, SCRIPTS, keysOf, noEngine, randomEpoch, randomIncarnation };
