'use strict';
// A TLS client made by hand, so that a test decides about every record of it: TLS 1.3 and 1.2 with
// AES-128-GCM and SHA-256. It checks no certificate.

const crypto = require('node:crypto');
const { tcp } = require('./raw');

const RECORD = { ccs: 20, alert: 21, handshake: 22, data: 23 };
const GROUP = { p256: 23, p384: 24, p521: 25, x25519: 29, x448: 30 };
const ALERT = { close_notify: 0, unexpected_message: 10, bad_record_mac: 20, record_overflow: 22,
  handshake_failure: 40, illegal_parameter: 47, decode_error: 50, decrypt_error: 51, protocol_version: 70 };
const RETRY = 'cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c';

const u16 = (n) => Buffer.from([n >> 8, n & 255]);
const u24 = (n) => Buffer.from([n >> 16, (n >> 8) & 255, n & 255]);
const vec = (lengthSize, ...parts) => {
  const body = Buffer.concat(parts);
  return Buffer.concat([lengthSize === 1 ? Buffer.from([body.length]) : u16(body.length), body]);
};
const extension = (type, ...parts) => Buffer.concat([u16(type), vec(2, ...parts)]);
const message = (type, ...parts) => {
  const body = Buffer.concat(parts);
  return Buffer.concat([Buffer.from([type]), u24(body.length), body]);
};
const record = (type, payload, length = payload.length, version = 0x0303) =>
  Buffer.concat([Buffer.from([type]), u16(version), u16(length), payload]);
const hash = (data) => crypto.createHash('sha256').update(data).digest();
const hmac = (key, data) => crypto.createHmac('sha256', key).update(data).digest();

/** HKDF-Expand-Label (RFC 8446 section 7.1). */
function expand(secret, label, context, length) {
  const info = Buffer.concat([u16(length), vec(1, Buffer.from(`tls13 ${label}`)), vec(1, context)]);
  const blocks = [];
  for (let i = 1, last = Buffer.alloc(0); i * 32 < length + 32; i++) {
    last = hmac(secret, Buffer.concat([last, info, Buffer.from([i])]));
    blocks.push(last);
  }
  return Buffer.concat(blocks).subarray(0, length);
}

/** The PRF of TLS 1.2 (RFC 5246 section 5). */
function prf(secret, label, seed, length) {
  const all = Buffer.concat([Buffer.from(label), seed]);
  let a = all;
  let out = Buffer.alloc(0);
  while (out.length < length) {
    a = hmac(secret, a);
    out = Buffer.concat([out, hmac(secret, Buffer.concat([a, all]))]);
  }
  return out.subarray(0, length);
}

/** A key pair of a group: { share, secret(peer) }. */
function keyPair(group) {
  if (group === GROUP.x25519) {
    const { privateKey, publicKey } = crypto.generateKeyPairSync('x25519');
    const prefix = publicKey.export({ type: 'spki', format: 'der' }).subarray(0, -32);
    return {
      share: publicKey.export({ type: 'spki', format: 'der' }).subarray(-32),
      secret: (peer) => crypto.diffieHellman({ privateKey,
        publicKey: crypto.createPublicKey({ key: Buffer.concat([prefix, peer]), type: 'spki', format: 'der' }) }),
    };
  }
  const ecdh = crypto.createECDH(group === GROUP.p384 ? 'secp384r1' : 'prime256v1');
  return { share: ecdh.generateKeys(), secret: (peer) => ecdh.computeSecret(peer) };
}

/** AES-128-GCM in one direction, for records of one version. */
class Cipher {
  constructor(version, key, iv) {
    Object.assign(this, { version, key, iv, count: 0 });
  }

  static of(secret) {
    return Object.assign(new Cipher(13, expand(secret, 'key', Buffer.alloc(0), 16), expand(secret, 'iv', Buffer.alloc(0), 12)), { secret });
  }

  next() {
    return Cipher.of(expand(this.secret, 'traffic upd', Buffer.alloc(0), 32));
  }

  /** Nonce and sequence number of the next record. */
  step(explicit) {
    const number = Buffer.alloc(8);
    number.writeBigUInt64BE(BigInt(this.count++));
    if (this.version === 12) return [Buffer.concat([this.iv, explicit || number]), number];
    const nonce = Buffer.from(this.iv);
    for (let i = 0; i < 8; i++) nonce[4 + i] ^= number[i];
    return [nonce, number];
  }

  seal(type, payload) {
    const [nonce, number] = this.step();
    const cipher = crypto.createCipheriv('aes-128-gcm', this.key, nonce);
    const plain = this.version === 12 ? payload : Buffer.concat([payload, Buffer.from([type])]);
    const head = this.version === 12
      ? Buffer.concat([number, Buffer.from([type, 3, 3]), u16(plain.length)])
      : Buffer.concat([Buffer.from([RECORD.data, 3, 3]), u16(plain.length + 16)]);
    cipher.setAAD(head);
    const sealed = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
    return this.version === 12 ? record(type, Buffer.concat([number, sealed])) : record(RECORD.data, sealed);
  }

  open(type, payload) {
    const body = this.version === 12 ? payload.subarray(8) : payload;
    const [nonce, number] = this.step(payload.subarray(0, 8));
    const length = body.length - 16;
    const decipher = crypto.createDecipheriv('aes-128-gcm', this.key, nonce);
    decipher.setAAD(this.version === 12
      ? Buffer.concat([number, Buffer.from([type, 3, 3]), u16(length)])
      : Buffer.concat([Buffer.from([type, 3, 3]), u16(payload.length)]));
    decipher.setAuthTag(body.subarray(length));
    const plain = Buffer.concat([decipher.update(body.subarray(0, length)), decipher.final()]);
    if (this.version === 12) return { type, payload: plain };
    let end = plain.length;
    while (end && !plain[end - 1]) end--;
    return { type: plain[end - 1], payload: plain.subarray(0, end - 1) };
  }
}

/** One connection. `split` cuts the content of handshake records: a function from a message to its
 *  pieces. */
class HandmadeTls {
  constructor(raw, { version = 13, split = (one) => [one] } = {}) {
    Object.assign(this, { raw, version, split, transcript: Buffer.alloc(0), pending: Buffer.alloc(0), keys: new Map() });
  }

  /** Sends a handshake message, in as many records as `split` makes of it. */
  say(bytes, { cipher = this.out, version } = {}) {
    this.transcript = Buffer.concat([this.transcript, bytes]);
    this.raw.write(...this.split(bytes).map((piece) =>
      (cipher ? cipher.seal(RECORD.handshake, piece) : record(RECORD.handshake, piece, piece.length, version))));
  }

  /** A ClientHello; `shares` maps groups to what is sent as their key share (null: a good one). */
  hello({ groups = [GROUP.x25519, GROUP.p256], shares = { [groups[0]]: null }, pad = 0, session = Buffer.alloc(0),
    suites = this.version === 13 ? [0x1301] : [0xc02b, 0xc02f], more = [] } = {}) {
    const keyShares = Object.entries(shares).map(([group, share]) => {
      if (!this.keys.has(+group) && share === null) this.keys.set(+group, keyPair(+group));
      return Buffer.concat([u16(+group), vec(2, share === null ? this.keys.get(+group).share : share)]);
    });
    this.random ||= crypto.randomBytes(32);
    const extensions = [
      extension(10, vec(2, ...groups.map(u16))),
      extension(13, vec(2, ...[0x0403, 0x0804, 0x0401, 0x0503, 0x0805].map(u16))),
      ...(this.version === 13
        ? [extension(43, vec(1, u16(0x0304))), extension(51, vec(2, ...keyShares))]
        : [extension(11, vec(1, Buffer.from([0])))]),
      ...(pad ? [extension(21, Buffer.alloc(pad))] : []),
      ...more,
    ];
    return message(1, u16(0x0303), this.random, vec(1, session), vec(2, ...suites.map(u16)), vec(1, Buffer.from([0])), vec(2, ...extensions));
  }

  /** The next record, deciphered: { type, payload }; null at the end. */
  async record() {
    const one = await this.raw.read('a record', () => {
      const { bytes, ended } = this.raw;
      if (bytes.length < 5 || bytes.length < 5 + bytes.readUInt16BE(3)) return ended ? null : undefined;
      const end = 5 + bytes.readUInt16BE(3);
      this.raw.bytes = bytes.subarray(end);
      return { type: bytes[0], payload: bytes.subarray(5, end) };
    });
    if (!one || !this.in || (this.version === 13 && one.type === RECORD.ccs)) return one;
    return this.in.open(one.type, one.payload);
  }

  /** The next handshake message: { type, body }. */
  async message() {
    for (;;) {
      if (this.pending.length >= 4) {
        const end = 4 + this.pending.readUIntBE(1, 3);
        if (this.pending.length >= end) {
          const bytes = this.pending.subarray(0, end);
          this.pending = this.pending.subarray(end);
          this.transcript = Buffer.concat([this.transcript, bytes]);
          return { type: bytes[0], body: bytes.subarray(4) };
        }
      }
      const one = await this.record();
      if (!one) throw new Error('ended in the handshake');
      if (one.type === RECORD.alert) throw new Error(`alert ${one.payload[1]}`);
      if (one.type === RECORD.handshake) this.pending = Buffer.concat([this.pending, one.payload]);
    }
  }

  /** The description of the alert that comes next, 'end' if none does before the end. */
  async alert() {
    for (;;) {
      const one = await this.record();
      if (!one) return 'end';
      if (one.type === RECORD.alert) return one.payload[1];
    }
  }

  /** Reads a ServerHello: its group and key share; `retry` when it asks for another hello. */
  async serverHello() {
    const { type, body } = await this.message();
    if (type !== 2) throw new Error(`message ${type} in place of ServerHello`);
    let at = 2 + 32 + 1 + body[34] + 3 + 2;
    const found = { retry: body.subarray(2, 34).toString('hex') === RETRY, random: body.subarray(2, 34) };
    while (at < body.length) {
      const [kind, length] = [body.readUInt16BE(at), body.readUInt16BE(at + 2)];
      if (kind === 51) [found.group, found.share] = [body.readUInt16BE(at + 4), body.subarray(at + 8, at + 4 + length)];
      at += 4 + length;
    }
    return found;
  }

  /** After a HelloRetryRequest the first hello counts as its hash (RFC 8446 section 4.4.1). */
  retried(first) {
    const rest = this.transcript.subarray(first.length);
    this.transcript = Buffer.concat([message(254, hash(first)), rest]);
  }

  /** The whole handshake of TLS 1.3. */
  async handshake13(options = {}) {
    const first = this.hello(options);
    this.say(first);
    let server = await this.serverHello();
    if (server.retry) {
      this.retried(first);
      this.say(this.hello({ ...options, shares: { [server.group]: null } }));
      server = await this.serverHello();
    }
    const empty = hash(Buffer.alloc(0));
    const derive = (secret, label, context) => expand(secret, label, context, 32);
    const early = hmac(Buffer.alloc(32), Buffer.alloc(32));
    const secret = hmac(derive(early, 'derived', empty), this.keys.get(server.group).secret(server.share));
    const client = derive(secret, 'c hs traffic', hash(this.transcript));
    this.in = Cipher.of(derive(secret, 's hs traffic', hash(this.transcript)));
    for (let type = 0; type !== 20;) ({ type } = await this.message());
    const main = hmac(derive(secret, 'derived', empty), Buffer.alloc(32));
    const seen = hash(this.transcript);
    this.out = Cipher.of(client);
    this.say(message(20, hmac(expand(client, 'finished', Buffer.alloc(0), 32), seen)));
    this.out = Cipher.of(derive(main, 'c ap traffic', seen));
    this.in = Cipher.of(derive(main, 's ap traffic', seen));
  }

  /** TLS 1.2 up to ServerHelloDone; the group and point of the server's key exchange. */
  async flight12(options = {}) {
    this.say(this.hello(options));
    const { random } = await this.serverHello();
    const found = { random };
    for (let type = 0; type !== 14;) {
      const next = await this.message();
      ({ type } = next);
      if (type === 12) Object.assign(found, { group: next.body.readUInt16BE(1), point: next.body.subarray(4, 4 + next.body[3]) });
    }
    return found;
  }

  /** The whole handshake of TLS 1.2. */
  async handshake12(options = {}) {
    const server = await this.flight12(options);
    const pair = keyPair(server.group);
    this.say(message(16, vec(1, pair.share)));
    const master = prf(pair.secret(server.point), 'master secret', Buffer.concat([this.random, server.random]), 48);
    const block = prf(master, 'key expansion', Buffer.concat([server.random, this.random]), 40);
    this.raw.write(record(RECORD.ccs, Buffer.from([1])));
    this.out = new Cipher(12, block.subarray(0, 16), block.subarray(32, 36));
    this.say(message(20, prf(master, 'client finished', hash(this.transcript), 12)));
    for (;;) {
      const one = await this.record();
      if (!one) throw new Error('ended in the handshake');
      if (one.type === RECORD.alert) throw new Error(`alert ${one.payload[1]}`);
      if (one.type === RECORD.ccs) break;
    }
    this.in = new Cipher(12, block.subarray(16, 32), block.subarray(36, 40));
    await this.message();
  }

  handshake(options) {
    return this.version === 13 ? this.handshake13(options) : this.handshake12(options);
  }

  /** Sends data, in a record of its own. */
  send(data) {
    this.raw.write(this.out.seal(RECORD.data, Buffer.from(data)));
  }

  /** What the server sends of data, until it matches. */
  async receive(pattern) {
    let text = '';
    while (!pattern.test(text)) {
      const one = await this.record();
      if (!one) throw new Error(`ended: ${text}`);
      if (one.type === RECORD.data) text += one.payload.toString('latin1');
      if (one.type === RECORD.alert) throw new Error(`alert ${one.payload[1]}`);
      if (one.type === RECORD.handshake && one.payload[0] === 24) {
        this.in = this.in.next(); // KeyUpdate
        this.updated = (this.updated || 0) + 1;
      }
    }
    return text;
  }

  /** A request that proves that the connection works. */
  async works() {
    this.send('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    return this.receive(/^HTTP\/1\.1 200 [^]*\r\n\r\n/);
  }
}

/** Connects to a server at its TLS address. */
const handmade = async (server, options) => new HandmadeTls(await tcp(server, { bare: true }), options);

module.exports = { handmade, HandmadeTls, RECORD, GROUP, ALERT, record, message, vec, keyPair };
