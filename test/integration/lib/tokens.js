'use strict';
// Tokens made by an independent library (jose), and the key files the server checks them with.

const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { tempDir } = require('./server');

const seconds = () => Math.floor(Date.now() / 1000);

/** A key of one algorithm: `file` is what the server gets, `args` its option, `sign` makes tokens. */
class TokenKey {
  constructor(dir, { alg = 'HS256', kid, secret, pair } = {}) {
    Object.assign(this, { alg, kid });
    const base = path.join(dir, `${alg}-${kid || 'key'}-${crypto.randomBytes(3).toString('hex')}`);
    if (alg === 'HS256') {
      this.secret = secret || crypto.randomBytes(24).toString('base64url'); // 32 bytes
      this.file = `${base}.secret`;
      fs.writeFileSync(this.file, `${this.secret}\n`, { mode: 0o600 });
      this.signer = Buffer.from(this.secret);
    } else {
      this.pair = pair || (alg === 'RS256'
        ? crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
        : crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }));
      this.file = `${base}.pem`;
      this.publicPem = this.pair.publicKey.export({ type: 'spki', format: 'pem' });
      fs.writeFileSync(this.file, this.publicPem);
      this.signer = this.pair.privateKey;
    }
    const option = alg === 'HS256' ? '--jwt-secret-file' : '--jwt-public-key-file';
    this.args = [option, kid ? `${kid}=${this.file}` : this.file];
  }

  /** A token with these claims, valid for an hour unless they say otherwise. */
  sign(claims = {}, header = {}) {
    const jose = require('jose'); // only where tokens are made: it is half of what a file of tests has to load
    const all = { exp: seconds() + 3600, ...claims };
    for (const name of Object.keys(all)) if (all[name] === undefined) delete all[name];
    return new jose.SignJWT(all)
      .setProtectedHeader({ alg: this.alg, ...(this.kid ? { kid: this.kid } : {}), ...header })
      .sign(this.signer);
  }

  /** A token of this user. */
  user(sub, claims) {
    return this.sign({ sub, ...claims });
  }

  /** A token of an admin. */
  admin(claims) {
    return this.sign({ sub: 'root', admin: true, ...claims });
  }
}

/** A key for the test `t`. */
const tokenKey = (t, options) => new TokenKey(tempDir(t), options);

/** Request options that carry a token. */
const bearer = (token, headers = {}) => ({ headers: { Authorization: `Bearer ${token}`, ...headers } });

/** Three parts made by hand, signed (or not) by `sign(head + '.' + body)`. */
function forge(header, claims, sign = () => '') {
  const part = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
  const text = `${part(header)}.${part(claims)}`;
  return `${text}.${sign(text)}`;
}

/** How the server sees a user's key: what HS256 over `text` with this secret gives. */
const hmac = (secret) => (text) => crypto.createHmac('sha256', secret).update(text).digest('base64url');

module.exports = { TokenKey, tokenKey, bearer, forge, hmac, seconds };
