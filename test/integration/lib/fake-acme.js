'use strict';
// An ACME server (RFC 8555) on loopback, as strict as a real one: nonces are good for one request,
// every signature is verified, every name is looked at by connecting to it, certificates are issued
// by openssl. It can be told to fail in any way, and it counts what it is asked.

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const tls = require('node:tls');
const { DAY, Authority, openssl } = require('./certs');
const { cleanup, tempDir } = require('./server');
const { until } = require('./wait');

const b64 = (bytes) => Buffer.from(bytes).toString('base64url');
const sha256 = (text) => crypto.createHash('sha256').update(text).digest();
const unpack = (text) => JSON.parse(Buffer.from(text, 'base64url').toString());
const stamp = (ms) => `${new Date(ms).toISOString().replace(/[-:T]/g, '').slice(2, 14)}Z`;

/** A problem document (RFC 8555 section 6.7), to be thrown. */
class Problem extends Error {
  constructor(status, type, detail, headers = {}) {
    super(`${type}: ${detail}`);
    Object.assign(this, { status, type, detail, headers });
  }
}

class FakeAcme {
  constructor(dir) {
    this.dir = dir;
    this.issuer = new Authority(dir, 'acme');
    this.requests = []; // { n, step, method, path, payload } in order
    this.nonces = new Set();
    this.accounts = new Map(); // hash of the key: { id, jwk, payload }
    this.orders = new Map();
    this.issued = []; // PEM of chains
    this.problems = []; // what a client did wrong
    this.looked = []; // kinds of challenges that were looked at
    this.count = 0;
    this.seen = {}; // { http, tls }: ports where names are looked at
    // What a test changes:
    this.before = () => undefined; // of a request: an answer in place of ours, or 'drop'
    this.after = () => undefined; // the same, when its effect is done
    this.refuses = () => false; // of a good nonce
    this.kinds = ['http-01', 'tls-alpn-01'];
    this.life = () => ({ from: Date.now() - 1000, to: Date.now() + 90 * DAY });
    this.window = null; // { start, end } of the renewal information, ms
    this.retry = '0'; // Retry-After while something is under way, or null
    this.delay = 0; // polls before an authorization or an order is done
    this.meta = { termsOfService: 'https://example.com/terms' };
  }

  get url() {
    return `http://127.0.0.1:${this.port}/directory`;
  }

  /** A server's ports, where it looks at names from now on. */
  validates(server) {
    this.seen = { tls: server.of('https')[0]?.port, http: server.of('redirect')[0]?.port, known: true };
  }

  steps(step) {
    return this.requests.filter((one) => one.step === step);
  }

  at(kind, id) {
    return `http://127.0.0.1:${this.port}/${kind}/${id}`;
  }

  nonce() {
    const nonce = crypto.randomBytes(16).toString('base64url');
    this.nonces.add(nonce);
    return nonce;
  }

  /** Checks a signed request: { account, jwk, payload }. */
  verify(url, body) {
    const { protected: head, payload, signature, ...more } = JSON.parse(body);
    if (Object.keys(more).length) throw new Problem(400, 'malformed', 'members nobody knows');
    const { alg, nonce, url: said, jwk, kid } = unpack(head);
    if (alg !== 'ES256') throw new Problem(400, 'badSignatureAlgorithm', alg);
    if (said !== url) throw new Problem(401, 'unauthorized', `signed for ${said}, sent to ${url}`);
    if (!jwk === !kid) throw new Problem(400, 'malformed', 'jwk or kid, one of them');
    const account = kid && [...this.accounts.values()].find((one) => this.at('account', one.id) === kid);
    if (kid && !account) throw new Problem(400, 'accountDoesNotExist', kid);
    const key = crypto.createPublicKey({ key: jwk || account.jwk, format: 'jwk' });
    if (!crypto.verify('sha256', `${head}.${payload}`, { key, dsaEncoding: 'ieee-p1363' }, Buffer.from(signature, 'base64url')))
      throw new Problem(400, 'malformed', 'the signature is wrong');
    if (!this.nonces.delete(nonce) || this.refuses(nonce)) throw new Problem(400, 'badNonce', 'not this one');
    return { account, jwk, payload: payload ? unpack(payload) : null };
  }

  /** The hash of an account's key (RFC 7638). */
  hash({ crv, kty, x, y }) {
    return b64(sha256(JSON.stringify({ crv, kty, x, y })));
  }

  /** What a challenge sees: throws a problem if it is not the proof. */
  async look(kind, name, token, jwk) {
    const proof = `${token}.${this.hash(jwk)}`;
    await until('the ports to look at', () => this.seen.known);
    this.looked.push(kind);
    if (kind === 'http-01') return this.lookHttp(name, token, proof);
    return this.lookTls(name, proof);
  }

  lookHttp(name, token, proof) {
    const refuse = (text) => new Problem(403, 'unauthorized', text);
    return new Promise((resolve, reject) => {
      if (!this.seen.http) return reject(new Problem(400, 'connection', 'nobody at port 80'));
      http.get({ host: '127.0.0.1', port: this.seen.http, path: `/.well-known/acme-challenge/${token}`, headers: { Host: name } }, (answer) => {
        let text = '';
        answer.on('data', (part) => { text += part; });
        answer.on('end', () => (answer.statusCode === 200 && text === proof ? resolve() : reject(refuse(`${answer.statusCode} ${text.slice(0, 80)}`))));
      }).on('error', (error) => reject(new Problem(400, 'connection', error.message)));
      return undefined;
    });
  }

  lookTls(name, proof) {
    return new Promise((resolve, reject) => {
      const socket = tls.connect({ host: '127.0.0.1', port: this.seen.tls, servername: name, ALPNProtocols: ['acme-tls/1'], rejectUnauthorized: false }, () => {
        const cert = new crypto.X509Certificate(socket.getPeerCertificate().raw);
        // critical, and an OCTET STRING in an OCTET STRING
        const extension = Buffer.concat([Buffer.from('06082b0601050507011f0101ff04220420', 'hex'), sha256(proof)]);
        const right = socket.alpnProtocol === 'acme-tls/1' && cert.subjectAltName === `DNS:${name}` && cert.raw.includes(extension);
        socket.end();
        if (right) resolve();
        else reject(new Problem(403, 'unauthorized', `${socket.alpnProtocol} ${cert.subjectAltName}`));
      });
      socket.on('error', (error) => reject(new Problem(400, 'tls', error.message)));
    });
  }

  /** Signs a request for a certificate (DER): the chain as PEM. */
  sign(csr, names) {
    const at = (suffix) => path.join(this.dir, `issued-${this.issued.length}${suffix}`);
    const { from, to } = this.life();
    fs.writeFileSync(at('.csr'), `-----BEGIN CERTIFICATE REQUEST-----\n${csr.toString('base64').replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE REQUEST-----\n`);
    fs.writeFileSync(at('.ext'), 'authorityKeyIdentifier=keyid\nextendedKeyUsage=serverAuth\n');
    openssl(['ca', '-config', path.join(this.issuer.dir, 'config'), '-batch', '-notext', '-keyfile', this.issuer.keyFile, '-cert', this.issuer.file,
      '-in', at('.csr'), '-out', at('.pem'), '-startdate', stamp(from), '-enddate', stamp(to), '-subj', `/CN=${names[0]}`, '-extfile', at('.ext')]);
    const pem = fs.readFileSync(at('.pem'), 'utf8');
    const { subjectAltName } = new crypto.X509Certificate(pem);
    if (subjectAltName.split(', ').sort().join() !== names.map((name) => `DNS:${name}`).sort().join()) throw new Problem(400, 'badCSR', `${subjectAltName}, not ${names}`);
    this.issued.push(pem + this.issuer.pem);
    return this.issued.at(-1);
  }

  orderJson(order) {
    const ready = order.authorizations.every((one) => one.status === 'valid');
    if (order.authorizations.some((one) => one.status === 'invalid')) order.status = 'invalid';
    if (order.status === 'pending' && ready) order.status = 'ready';
    if (order.status === 'processing' && order.polls++ >= this.delay) order.status = 'valid';
    return { status: order.status, identifiers: order.names.map((value) => ({ type: 'dns', value })),
      authorizations: order.authorizations.map((one) => this.at('authorization', one.id)), finalize: this.at('finalize', order.id),
      ...(order.status === 'valid' && { certificate: this.at('certificate', order.id) }), ...(order.error && { error: order.error }) };
  }

  authorizationJson(one) {
    return { status: one.status, identifier: { type: 'dns', value: one.name },
      challenges: one.challenges.map(({ kind, token, status, error }) => ({ type: kind, token, status, url: this.at('challenge', token), ...(error && { error }) })) };
  }

  make(names) {
    const order = { id: `o${++this.count}`, names, status: 'pending', polls: 0, authorizations: [] };
    for (const name of names) {
      const challenges = this.kinds.map((kind) => ({ kind, token: crypto.randomBytes(24).toString('base64url'), status: 'pending' }));
      order.authorizations.push({ id: `a${++this.count}`, name, status: 'pending', challenges });
    }
    this.orders.set(order.id, order);
    return order;
  }

  all() {
    return [...this.orders.values()].flatMap((one) => one.authorizations);
  }

  /** What each path does: { status, headers, json or body }. */
  async act(kind, id, { account, jwk, payload }) {
    const order = this.orders.get(id);
    const waits = this.retry === null ? {} : { 'Retry-After': this.retry };
    const missing = (found) => found || (() => { throw new Problem(404, 'malformed', 'no such thing'); })();
    switch (kind) {
      case 'account': {
        const hash = this.hash(jwk);
        const known = this.accounts.has(hash);
        if (!payload.termsOfServiceAgreed) throw new Problem(403, 'userActionRequired', 'agree');
        if (!known) this.accounts.set(hash, { id: `k${++this.count}`, jwk, payload });
        return { status: known ? 200 : 201, headers: { Location: this.at('account', this.accounts.get(hash).id) }, json: { status: 'valid' } };
      }
      case 'order': {
        if (id) return { status: 200, headers: waits, json: this.orderJson(missing(order)) };
        this.replaces = payload.replaces;
        const made = this.make(payload.identifiers.map(({ value }) => value));
        return { status: 201, headers: { Location: this.at('order', made.id) }, json: this.orderJson(made) };
      }
      case 'authorization':
        return { status: 200, headers: waits, json: this.authorizationJson(missing(this.all().find((one) => one.id === id))) };
      case 'challenge': {
        const authorization = missing(this.all().find((one) => one.challenges.some(({ token }) => token === id)));
        const challenge = authorization.challenges.find(({ token }) => token === id);
        if (challenge.status === 'pending') {
          challenge.status = 'processing';
          this.look(challenge.kind, authorization.name, id, account.jwk).then(() => {
            challenge.status = authorization.status = 'valid';
          }, (error) => {
            challenge.status = authorization.status = 'invalid';
            challenge.error = { type: `urn:ietf:params:acme:error:${error.type}`, detail: error.detail };
          });
        }
        return { status: 200, headers: waits, json: { type: challenge.kind, status: challenge.status, token: id, url: this.at('challenge', id) } };
      }
      case 'finalize': {
        if (this.orderJson(missing(order)).status !== 'ready') throw new Problem(403, 'orderNotReady', order.status);
        order.chain = this.sign(Buffer.from(payload.csr, 'base64url'), order.names);
        order.status = 'processing';
        return { status: 200, headers: waits, json: this.orderJson(order) };
      }
      case 'certificate':
        if (missing(order).status !== 'valid') throw new Problem(403, 'orderNotReady', order.status);
        return { status: 200, headers: { 'Content-Type': 'application/pem-certificate-chain' }, body: order.chain };
      default: throw new Problem(404, 'malformed', `no ${kind}`);
    }
  }

  /** The answer to one request, whatever it is. */
  async answer(request, body) {
    const [, kind, id] = request.url.split('/');
    const step = kind === 'order' && id ? 'order-again' : kind;
    const asked = { n: this.requests.length + 1, step, method: request.method, path: request.url, at: new Date().toISOString().slice(17, 23) };
    this.requests.push(asked);
    let given = await this.before(asked);
    if (given) return given;
    if (kind === 'directory') {
      given = { status: 200, json: { newNonce: this.at('nonce', ''), newAccount: this.at('account', ''), newOrder: this.at('order', ''),
        ...(this.window && { renewalInfo: `http://127.0.0.1:${this.port}/renewal` }), meta: this.meta } };
    } else if (kind === 'nonce') {
      given = { status: 200, headers: { 'Replay-Nonce': this.nonce() } };
    } else if (kind === 'renewal') {
      given = { status: 200, headers: { 'Retry-After': '21600' },
        json: { suggestedWindow: { start: new Date(this.window.start).toISOString(), end: new Date(this.window.end).toISOString() } } };
    } else {
      const headers = { 'Replay-Nonce': this.nonce() };
      try {
        const signed = this.verify(`http://127.0.0.1:${this.port}${request.url}`, body);
        asked.payload = signed.payload;
        given = await this.act(kind, id, signed);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (error.type !== 'badNonce') this.problems.push(`${step}: ${error.message}`);
        given = { status: error.status, headers: error.headers, json: { type: `urn:ietf:params:acme:error:${error.type}`, detail: error.detail } };
      }
      given.headers = { ...headers, ...given.headers };
    }
    return (await this.after(asked)) || given;
  }
}

/** Starts one for the test `t`. */
async function startAcme(t) {
  const fake = new FakeAcme(tempDir(t));
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (part) => { body += part; });
    request.on('end', async () => {
      try {
        const given = await fake.answer(request, body);
        if (given === 'drop') return request.socket.destroy();
        if (given === 'hang') return undefined;
        if (given.raw) return request.socket.end(given.raw);
        const text = given.json ? JSON.stringify(given.json) : given.body ?? '';
        response.writeHead(given.status, { ...(given.json && { 'Content-Type': 'application/json' }), ...given.headers });
        return response.end(request.method === 'HEAD' ? '' : text);
      } catch (error) {
        fake.problems.push(String(error.stack));
        return request.socket.destroy();
      }
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  fake.port = server.address().port;
  cleanup(t, () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  }));
  return fake;
}

module.exports = { startAcme, Problem };
