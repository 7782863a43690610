'use strict';
// Certificates, made at test time: keys by node, certificates by openssl.

const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');

const DAY = 86400000;
const HOSTS = ['localhost', '127.0.0.1', '::1'];

const openssl = (args) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] });

const KINDS = {
  ec: () => crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  p384: () => crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  rsa: () => crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }),
  rsa4096: () => crypto.generateKeyPairSync('rsa', { modulusLength: 4096 }),
};

/** A private key as PEM. */
const makeKey = (kind) => KINDS[kind]().privateKey.export({ type: 'pkcs8', format: 'pem' });

/** YYMMDDHHMMSSZ, as `openssl ca` wants it. */
const stamp = (ms) => `${new Date(ms).toISOString().replace(/[-:T]/g, '').slice(2, 14)}Z`;

const altNames = (hosts) =>
  `subjectAltName=${hosts.map((one) => (/^[\d.]+$|:/.test(one) ? `IP:${one}` : `DNS:${one}`))}`;

/** An authority of its own, and the certificates it issues, in a directory. */
class Authority {
  constructor(dir, name = 'root', parent = null) {
    this.dir = path.join(dir, `authority-${name}`);
    this.parent = parent;
    this.count = 0;
    fs.mkdirSync(this.dir);
    fs.writeFileSync(path.join(this.dir, 'index.txt'), '');
    fs.writeFileSync(path.join(this.dir, 'config'), `[ca]
default_ca = a
[a]
database = ${this.dir}/index.txt
new_certs_dir = ${this.dir}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copyall
[any]
commonName = supplied
`);
    this.keyFile = path.join(this.dir, 'ca.key');
    this.file = path.join(this.dir, 'ca.pem');
    fs.writeFileSync(this.keyFile, makeKey('ec'));
    const usage = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign,cRLSign'];
    if (parent) {
      this.file = parent.issue(`authority-${name}`, { extensions: usage, keyFile: this.keyFile }).leaf;
    } else {
      openssl(['req', '-x509', '-new', '-key', this.keyFile, '-out', this.file, '-days', '300', '-sha256',
        '-subj', `/CN=test authority ${name}`, ...usage.flatMap((one) => ['-addext', one])]);
    }
    this.pem = fs.readFileSync(this.file, 'utf8');
  }

  /** An authority below this one. */
  below(name) {
    return new Authority(path.dirname(this.dir), name, this);
  }

  /** A certificate: { cert, key, leaf, both } are files (whole chain, key, the one certificate,
   *  chain and key in one file), { pem, keyPem, fingerprint } their content. */
  issue(name, { kind = 'ec', hosts = HOSTS, from = Date.now() - DAY, to = Date.now() + 90 * DAY,
    extensions = [altNames(hosts), 'extendedKeyUsage=serverAuth'], keyFile } = {}) {
    const at = (suffix) => path.join(this.dir, `${name.replace(/[^\w.-]/g, '_')}-${this.count}${suffix}`);
    this.count++;
    const key = keyFile || at('.key');
    if (!keyFile) fs.writeFileSync(key, makeKey(kind), { mode: 0o600 });
    const leaf = at('.leaf.pem');
    const request = at('.csr');
    openssl(['req', '-new', '-key', key, '-sha256', '-subj', `/CN=${name}`, '-out', request,
      ...extensions.flatMap((one) => ['-addext', one])]);
    openssl(['ca', '-config', path.join(this.dir, 'config'), '-batch', '-notext', '-keyfile', this.keyFile,
      '-cert', this.file, '-in', request, '-out', leaf, '-startdate', stamp(from), '-enddate', stamp(to)]);
    const pem = fs.readFileSync(leaf, 'utf8') + (this.parent ? this.pem : '');
    const keyPem = fs.readFileSync(key, 'utf8');
    const made = { cert: at('.pem'), key, leaf, both: at('.both.pem'), pem, keyPem, hosts };
    made.fingerprint = new crypto.X509Certificate(pem).fingerprint256;
    fs.writeFileSync(made.cert, pem);
    fs.writeFileSync(made.both, pem + keyPem, { mode: 0o600 });
    return made;
  }
}

/** A certificate that vouches for itself, in these two files. */
function selfSigned(cert, key, { hosts = HOSTS, from = Date.now() - DAY, to = Date.now() + 90 * DAY, dir }) {
  const own = new Authority(dir, `self-${crypto.randomBytes(4).toString('hex')}`);
  const made = own.issue('localhost', { hosts, from, to });
  fs.copyFileSync(made.leaf, cert);
  fs.copyFileSync(made.key, key);
  return made;
}

module.exports = { DAY, Authority, makeKey, selfSigned, openssl };
