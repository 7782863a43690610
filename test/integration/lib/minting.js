'use strict';
// What a token has to be that the README's sample in some language mints: held to the real server.

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { start, tempDir } = require('./server');
const { connect } = require('./client');
const { request } = require('./http');
const { bearer } = require('./tokens');
const { dice } = require('./random');
const { LANGUAGES, minting, runProgram } = require('./snippets');

/** Ids that a careless encoder gets wrong, and random ones of what such ids are made of. */
function hardIds(seed, count) {
  const below = dice(seed);
  const pieces = ['a', 'Z', '0', '"', '\\', '\\\\', '/', '<', '&', "'", ' ', '%', '%2F', '\u20ac', '\u00e9', 'e\u0301', '\u{1f600}', '\u2028', '\u202e', '{', '}', ',', '[', '\\u0041', '\\"', '=', '+', '-', '#', '\ufeff'];
  const ids = ['alice', '42', 'Zo\u00eb \u{1f600}', 'a"b\\c/d', "O'Hara & <S\u00f6hne>", '","admin":true,"x":"', 'x'.repeat(128)];
  for (let i = 0; i < count; i++) {
    let id = '';
    for (let n = 1 + below(20); n > 0; n--) id += pieces[below(pieces.length)];
    if (!/^[ -]/.test(id) && id.trim() === id) ids.push(id); // an argument that is none of the program's own
  }
  return ids.filter((id) => Buffer.byteLength(id) <= 128);
}

/** Mints by the README's sample, with the secret's file as openssl, an editor on Windows and one
 *  that adds no line end leave it, and holds the tokens to what they are for. */
async function holdMinting(t, language) {
  const secrets = ['\n', '\r\n', ''].map((end) => {
    const dir = tempDir(t);
    fs.writeFileSync(path.join(dir, 'jwt-secret'), crypto.randomBytes(32).toString('hex') + end);
    return dir;
  });
  const server = await start(t, { args: secrets.flatMap((dir) => ['--jwt-secret-file', path.join(dir, 'jwt-secret')]) });
  const text = LANGUAGES[language].program(minting(language));
  const seed = crypto.randomInt(2 ** 32);
  const ids = hardIds(seed, 20);
  for (const [i, dir] of secrets.entries()) {
    const users = i ? ids.slice(0, 2) : ids;
    const tokens = (await runProgram(language, dir, text, users)).split('\n');
    assert.equal(tokens.length, users.length + 1);
    for (const [k, user] of [...users, 'lonely'].entries()) {
      const what = `${language}, seed ${seed}, ${JSON.stringify(user)}`;
      const client = await connect(server, user, { protocols: ['presence.v1', `token.${tokens[k]}`] }).catch((error) => assert.fail(`${what}: ${error}`));
      assert.equal(client.hello.user_id, user, what);
      const asks = async (id) => (await request(server, 'GET', `/api/presence/${encodeURIComponent(id)}`, bearer(tokens[k]))).status;
      assert.deepEqual([await asks('bob'), await asks('carol'), await asks('alice.')], user === 'lonely' ? [403, 403, 403] : [404, 403, 403], what);
      assert.equal((await request(server, 'GET', '/admin/users', bearer(tokens[k]))).status, 403, what);
      const { exp } = JSON.parse(Buffer.from(tokens[k].split('.')[1], 'base64url'));
      assert.ok(exp > Date.now() / 1000 + 11 * 3600 && exp < Date.now() / 1000 + 13 * 3600, what);
      client.socket.terminate();
    }
  }
}

module.exports = { holdMinting };
