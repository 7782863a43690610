'use strict';
// Variants: release
// The README's samples that mint a token and ask who is online, run as they stand there. What has to
// be compiled first is in test/full/mint.test.js.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, tempDir, connect, bearer, tokenKey } = require('./lib');
const { LANGUAGES, minting, asking, runProgram, lacks } = require('./lib/snippets');
const { holdMinting } = require('./lib/minting');

for (const language of Object.keys(LANGUAGES).filter((one) => !LANGUAGES[one].slow)) {
  test(`a token minted by the README's ${language} is that of its user and friends`, { skip: lacks(language) }, (t) => holdMinting(t, language));
}

for (const language of ['Node', 'Python']) {
  test(`the README's ${language} asks who of the friends is online`, { skip: lacks(language) }, async (t) => {
    const key = tokenKey(t);
    const dir = tempDir(t);
    fs.copyFileSync(key.file, path.join(dir, 'jwt-secret'));
    const server = await start(t, { args: key.args });
    for (const user of ['bob', 'dora', 'stranger']) await connect(server, user, bearer(await key.user(user)));
    const ask = asking(language).replace('127.0.0.1:8080', `127.0.0.1:${server.port}`);
    const out = await runProgram(language, dir, `${minting(language)}\n\nfriends = ['bob', 'carol', 'dora']\n${ask}`
      .replace(/^friends = /m, language === 'Node' ? 'const friends = ' : 'friends = '));
    assert.deepEqual(JSON.parse(out.replaceAll("'", '"')), ['bob', 'dora']);
  });
}
