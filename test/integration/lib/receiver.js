'use strict';
// Who is told by --webhook-url: an HTTP or HTTPS server of node's that checks what every request
// promises, and remembers it.

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const path = require('node:path');
const { position } = require('./events');
const { checkUser, ISO } = require('./http');
const { cleanup, tempDir } = require('./server');
const { until } = require('./wait');

const SECRET = 'a secret that both sides know';

/** What a change says that is the same from whichever node of a cluster it comes. */
const said = (event) => JSON.stringify({ ...event, user: event.user && { ...event.user, last_seen: null } });

class Receiver {
  constructor(secret = SECRET, clustered = false) {
    this.secret = secret;
    this.clustered = clustered; // deliveries may be cut differently, and there are resets
    this.repeats = 0; // changes that came again
    this.requests = []; // { path, headers, events, answer } in order
    this.changes = []; // every change, once, in the order in which it first came
    this.answer = () => 200; // of a request: status, { status, headers, body }, null: none, ever
    this.problem = null;
    this.known = new Map(); // positions: the delivery in which a change came
    this.seen = new Map(); // deliveries: their events as text
  }

  /** Checks one request and remembers it. */
  take(request, body) {
    const { headers } = request;
    assert.equal(request.method, 'POST');
    assert.equal(headers['content-type'], 'application/json');
    assert.match(headers['user-agent'], /^presence\/\d+\.\d+\.\d+$/);
    const [, seconds, mac] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(headers['x-presence-signature']) || assert.fail('signature');
    const right = crypto.createHmac('sha256', this.secret).update(`${seconds}.`).update(body).digest('hex');
    assert.equal(mac, right, 'signed with the secret');
    assert.ok(Math.abs(Date.now() / 1000 - seconds) < 60);
    const { sent_at: sentAt, events, ...more } = JSON.parse(body);
    assert.deepEqual(more, {});
    assert.match(sentAt, ISO);
    assert.ok(events.length > 0);
    const delivery = headers['x-presence-delivery'];
    const end = this.clustered ? `-${position(events.at(-1).position).sequence}` : '';
    assert.equal(delivery, events[0].position + end, 'named after its first change');
    const text = this.clustered ? events.map(said).join() : JSON.stringify(events);
    assert.equal(this.seen.get(delivery) ?? text, text, 'a delivery is always the same');
    this.seen.set(delivery, text);
    for (const event of events) this.change(event, delivery);
    const taken = { path: request.url, headers, events, delivery };
    this.requests.push(taken);
    return taken;
  }

  /** One change: it comes in one delivery only, or in a cluster says the same in all of them, and
   *  behind those before it. */
  change(event, delivery) {
    assert.deepEqual(Object.keys(event), ['position', 'change', 'user', 'reason']);
    if (this.clustered && event.change === 'reset') {
      assert.deepEqual([event.user, event.reason], [null, null]);
    } else {
      assert.match(event.change, /^(join|leave|status)$/);
      checkUser(event.user);
      assert.equal(event.reason === null, event.change !== 'leave');
    }
    const mark = this.clustered ? said(event) : delivery;
    assert.equal(this.known.get(event.position) ?? mark, mark, event.position);
    if (this.known.has(event.position)) {
      this.repeats++;
      return;
    }
    const last = this.changes.at(-1);
    if (this.clustered && event.change === 'reset' && last && position(last.position).epoch === position(event.position).epoch &&
        position(last.position).sequence > position(event.position).sequence) {
      this.repeats++; // of who could not know that we have what it lacks
      return;
    }
    this.known.set(event.position, mark);
    if (last && position(last.position).epoch === position(event.position).epoch)
      assert.ok(position(last.position).sequence < position(event.position).sequence, `${last.position}, then ${event.position}`);
    this.changes.push(event);
  }

  handle(request, response) {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('error', () => {});
    request.on('end', () => {
      let answer = 500;
      try {
        const taken = this.take(request, Buffer.concat(chunks));
        answer = this.answer(taken);
        taken.answer = answer;
      } catch (error) {
        this.problem ??= error;
      }
      if (answer === null) return;
      const { status, headers = {}, body = '' } = typeof answer === 'number' ? { status: answer } : answer;
      response.writeHead(status, headers);
      response.end(body);
    });
  }

  /** Waits until `check` is true, or throws what was wrong with a request. */
  async until(what, check, options) {
    await until(what, () => this.problem || check(), options);
    if (this.problem) throw this.problem;
  }

  /** Waits for changes and returns those there are, as `join alice` or `leave alice closed`. */
  async told(count, options) {
    await this.until(`${count} changes`, () => this.changes.length >= count, options);
    return this.changes.map((one) => [one.change, one.user?.user_id, one.reason].filter(Boolean).join(' '));
  }

  /** The options of a server that tells this receiver. */
  get args() {
    return ['--webhook-url', this.url, '--webhook-secret-file', this.secretFile];
  }
}

/** Starts one for the test `t`. Options: port; host; tls (options of https.createServer); name (in
 *  its URL); secret; clustered; kind (a class that extends Receiver). Its `close` ends it, and cuts who
 *  is connected. */
async function startReceiver(t, { port = 0, host = '127.0.0.1', tls, name = host, secret, clustered, path: target = '/hook', kind = Receiver } = {}) {
  const receiver = new kind(secret, clustered);
  const handle = (request, response) => receiver.handle(request, response);
  const server = tls ? https.createServer(tls, handle) : http.createServer(handle);
  server.on('tlsClientError', () => {});
  await new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(port, host, resolve);
  });
  receiver.port = server.address().port;
  receiver.url = `${tls ? 'https' : 'http'}://${name}:${receiver.port}${target}`;
  receiver.origin = receiver.url.slice(0, -target.length);
  receiver.secretFile = path.join(tempDir(t), 'webhook-secret');
  fs.writeFileSync(receiver.secretFile, `${receiver.secret}\n`);
  receiver.close = () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });
  cleanup(t, () => {
    server.close();
    server.closeAllConnections();
    if (receiver.problem) throw receiver.problem;
  });
  return receiver;
}

module.exports = { startReceiver, Receiver };
