'use strict';
// The data directory from the outside.

const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');

/** The file that holds the users: the biggest one. */
function storeFile(dir) {
  const files = fs
    .readdirSync(dir)
    .map((name) => path.join(dir, name))
    .filter((file) => fs.statSync(file).isFile());
  return files.sort((a, b) => fs.statSync(b).size - fs.statSync(a).size)[0];
}

/** Every file of the directory with its content, as one comparable value. */
function contents(dir) {
  return Object.fromEntries(
    fs
      .readdirSync(dir)
      .sort()
      .map((name) => [name, fs.readFileSync(path.join(dir, name)).toString('base64')]),
  );
}

/** Whether this process may mount in a mount namespace of its own. */
function canMount() {
  try {
    execFileSync('unshare', ['-m', 'sh', '-c', 'mount -t tmpfs -o size=64k none /mnt'], {
      stdio: 'ignore',
    });
    return true;
  } catch {
    return false;
  }
}
const cannotMount = canMount() ? false : 'mounting is not permitted here';

/** argv in front of a program: `dir` is a tmpfs of this size for it alone. */
const onTmpfs = (dir, options) => [
  'unshare',
  '-m',
  'sh',
  '-c',
  'mount -t tmpfs -o "$2" none "$1" && shift 2 && exec "$@"',
  'sh',
  dir,
  options,
];

// Where the slots of readers begin in LMDB's lock.mdb, and the bytes of each.
const SLOTS_AT = 128;
const SLOT_SIZE = 64;

/** The readers in lock.mdb that have a transaction: { id, transaction }. */
function readers(dir) {
  const bytes = fs.readFileSync(path.join(dir, 'lock.mdb'));
  const found = [];
  for (let at = SLOTS_AT; at + 16 <= bytes.length; at += SLOT_SIZE) {
    const [transaction, id] = [bytes.readBigUInt64LE(at), bytes.readInt32LE(at + 8)];
    if (id && transaction !== 0xffffffffffffffffn) found.push({ id, transaction });
  }
  return found;
}

module.exports = { readers, SLOTS_AT, SLOT_SIZE, storeFile, contents, cannotMount, onTmpfs };
