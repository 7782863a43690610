'use strict';
// That the fuzzer of the whole server finds faults: known ones are put into a copy of presence.c, one
// program has them all, and each is switched on by the environment. How long each took is told;
// FUZZ_PLANT=0 tries the first alone.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { spawnSync } = require('node:child_process');
const { test } = require('../integration/lib');

const ROOT = path.join(__dirname, '../..');
const COPY = path.join(ROOT, 'build/test/planted');
const SECONDS = 200; // each may take

const PRELUDE = `#include "mbedtls_seam.h"
static bool planted(char which)
{
    const char *plant = getenv("PLANT");
    return plant && *plant == which;
}
`;

// what, where it is put (this text must be there once), and what stands there then
const PLANTS = [
  ['a frame whose head lacks one byte is taken as whole',
    'input->left >= 2 && input->left >= ws_head_size(head)',
    "input->left >= 2 && input->left + planted('0') >= ws_head_size(head)"],
  ['a connection that breaks is freed at once, and used again',
    'if (c->number && !c->session.is_stream) server_release_address(server, c->session.address);\n}',
    `if (c->number && !c->session.is_stream) server_release_address(server, c->session.address);
    if (planted('1') && ending == END_DROPPED) {
        server->hub.dead = (struct connection *)c->session.next;
        free(c);
    }
}`],
  ['of three connections of a user one that ends is counted for ever',
    '    user->connections--;\n    p->connections--;\n',
    "    user->connections--;\n    if (!planted('2') || user->connections != 2) p->connections--;\n"],
  ['followers are not told when one of two connections ends',
    '        presence_record(p, user, changes ? TRANSITION_STATUS : TRANSITION_CONNECTIONS);\n        return;',
    `        if (!planted('3') || changes)
            presence_record(p, user, changes ? TRANSITION_STATUS : TRANSITION_CONNECTIONS);
        return;`],
  ['who ends still follows',
    '        connection_unwatch(server, c);\n        hub_drop_agent(c->agent);',
    "        if (!planted('4')) connection_unwatch(server, c);\n        hub_drop_agent(c->agent);"],
];

/** A checkout of its own, with the faults in it. */
function plant() {
  fs.rmSync(COPY, { recursive: true, force: true });
  fs.mkdirSync(path.join(COPY, 'build'), { recursive: true });
  const without = /(^|\/)(node_modules|integration|web\/.*|full|bench)$/;
  for (const name of ['build.sh', 'README.md', 'vendor', 'test', 'web']) {
    fs.cpSync(path.join(ROOT, name), path.join(COPY, name), {
      recursive: true,
      filter: (file) => name === 'web' || !without.test(path.relative(ROOT, file)),
    });
  }
  fs.symlinkSync(path.join(ROOT, 'build/vendor'), path.join(COPY, 'build/vendor'));
  let text = fs.readFileSync(path.join(ROOT, 'presence.c'), 'utf8');
  for (const [what, from, to] of [['the switch', '#include "mbedtls_seam.h"\n', PRELUDE], ...PLANTS]) {
    assert.equal(text.split(from).length, 2, `${what}: presence.c has changed, put it elsewhere`);
    text = text.replace(from, () => to);
  }
  fs.writeFileSync(path.join(COPY, 'presence.c'), text);
}

/** Lets the fuzzer search in the copy; { status, log, seconds }. */
function search(seconds, env) {
  const began = Date.now();
  fs.rmSync(path.join(COPY, 'build/fuzz'), { recursive: true, force: true });
  const { status, error } = spawnSync('./build.sh', ['fuzz', String(seconds), 'server'], {
    cwd: COPY,
    env: { ...process.env, ...env },
    stdio: 'ignore',
  });
  if (error) throw error;
  const file = path.join(COPY, 'build/fuzz/server.log');
  const log = fs.existsSync(file) ? fs.readFileSync(file, 'latin1') : '';
  return { status, log, seconds: Math.round((Date.now() - began) / 1000) };
}

test('the fuzzer of the whole server finds what is planted', { timeout: 1200000 }, async (t) => {
  plant();
  const sound = search(5, {});
  assert.equal(sound.status, 0, `without a fault it finds one, or is not built:\n${sound.log.slice(-3000)}`);
  const only = process.env.FUZZ_PLANT;
  for (const [i, [what]] of PLANTS.entries()) {
    if (only && only !== String(i)) continue;
    await t.test(what, { timeout: (SECONDS + 320) * 1000 }, (t) => {
      const { status, log, seconds } = search(SECONDS, { PLANT: String(i) });
      const found = /fuzz_server: [^\n]*|ERROR: AddressSanitizer[^\n]*|runtime error[^\n]*/.exec(log);
      t.diagnostic(`after ${seconds} s: ${found?.[0].slice(0, 150)}`);
      assert.notEqual(status, 0, `not found in ${SECONDS} s`);
      assert.ok(found, log.slice(-3000));
    });
  }
  fs.rmSync(COPY, { recursive: true, force: true });
});
