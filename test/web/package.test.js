'use strict';
// The npm package: what is in it, that it installs, and that its types are what the code is.

const assert = require('node:assert/strict');
const { execFileSync, spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { after } = require('node:test');
const ts = require('typescript');
const { test: anyTest, release, tempDir, start } = require('../integration/lib');
const { WEB } = require('./lib/world');

const test = (name, body) => anyTest(name, { skip: !release && 'once is enough' }, body);

const MODULES = path.join(__dirname, '../node_modules');
const SHIPPED = [
  'LICENSE',
  'README.md',
  'package.json',
  'presence.d.ts',
  'presence.js',
  'react/package.json', // for what knows no "exports"
  'use-presence-status.d.ts',
  'use-presence-status.js',
];

const npm = (cwd, ...args) =>
  execFileSync('npm', [...args, '--no-audit', '--no-fund'], {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });

const parsed = new Map(); // files of packages, which are the same in every run

/** What tsc says in a directory, which is nothing when all is well. It runs in this process, where
 *  the types of the DOM and of React are read once. */
function tsc(cwd, ...args) {
  const { options, fileNames } = ts.parseCommandLine(['--noEmit', '--strict', '--skipDefaultLibCheck', ...args]);
  const host = ts.createCompilerHost(options);
  const read = host.getSourceFile;
  host.getCurrentDirectory = () => cwd;
  host.getSourceFile = (name, language, ...more) => {
    if (!name.startsWith(MODULES)) return read(name, language, ...more);
    const key = `${name} ${JSON.stringify(language)}`;
    if (!parsed.has(key)) parsed.set(key, read(name, language, ...more));
    return parsed.get(key);
  };
  const program = ts.createProgram(fileNames.map((name) => path.join(cwd, name)), options, host);
  return ts.formatDiagnostics(ts.getPreEmitDiagnostics(program), host);
}

let project = ''; // made once: npm takes seconds
after(() => project && fs.rmSync(project, { recursive: true, force: true }));

/** An empty project with the packed package in it, without asking any registry. */
function install(t) {
  if (!project) {
    project = fs.mkdtempSync(path.join(os.tmpdir(), 'presence-package-'));
    const [{ filename }] = JSON.parse(npm(WEB, 'pack', '--json', '--pack-destination', project));
    fs.writeFileSync(path.join(project, 'package.json'), '{"private":true,"type":"module"}');
    npm(project, 'install', '--offline', `./${filename}`);
  }
  const dir = tempDir(t);
  fs.cpSync(project, dir, { recursive: true });
  return dir;
}

/** The types that TypeScript is to see, with the user's file. */
const CHECKS = [
  ['--module', 'nodenext', '--target', 'es2022', '--lib', 'es2022,dom'],
  [
    '--module',
    'esnext',
    '--moduleResolution',
    'bundler',
    '--target',
    'es2020',
    '--lib',
    'es2020,dom',
  ],
  ['--module', 'esnext', '--moduleResolution', 'node10', '--target', 'es2020', '--lib', 'es2020,dom'],
];

const USER = `
import { presenceService, PresenceService } from 'presence-client';
import type { PresenceOptions, PresenceSnapshot, PresenceState } from 'presence-client';
import type { PresenceUser, StatusOptions, WatchError } from 'presence-client';
import { usePresence, usePresenceStatus } from 'presence-client/react';
import { presenceService as same } from 'presence-client/presence.js';
import { usePresenceStatus as hook } from 'presence-client/use-presence-status.js';

const options: PresenceOptions = {
  apiUrl: 'https://presence.example.com',
  getToken: async (userId: string) => userId.length > 1 ? 'jwt' : null,
  maxReconnectAttempts: Infinity, giveUp: false, reconnectDelay: 1,
  maxReconnectDelay: 2, probeDelay: 3,
  connectTimeout: 4, probeTimeout: 5, heartbeatInterval: null,
  awayAfter: undefined, debug: (step) => step.length,
  WebSocket, clock: { now: () => 1 }, random: Math.random, window, document,
};
presenceService.configure(options);
const own: PresenceService = new PresenceService({ getToken: () => 'plain' });
own.startPresence('alice');
own.setStatus('busy');
const hour: StatusOptions = { manual: true, message: 'in a meeting', expiresIn: 3600 };
own.setStatus('busy', hour);
own.setStatus('invisible', { manual: true });
own.setStatus(null, { manual: true });
const end: () => void = own.watch(['bob'], (one) => one.stale || one.message?.length,
  ({ code, userId }: WatchError) => code + userId);
own.watch(new Set(['bob']), (one: PresenceUser) => one.status === 'offline');
own.watch('bob', console.log)();
const bob: PresenceUser | null = own.getUser('bob');
const others: ReadonlyMap<string, PresenceUser> = usePresence(['bob'], own);
const user: string | null = own.getCurrentUserId();
const yes: boolean = own.isConnected();
const state: PresenceState = own.state;
const code: number | undefined = own.lastClose?.code;
const off: () => void = own.on('reconnecting',
  ({ attempt, delay, maxAttempts }) => attempt + delay + maxAttempts);
own.on('connected', ({ userId, connectionId, server }) => userId + connectionId + server);
own.on('disconnected', (detail) => detail.willReconnect && detail.code && detail.reason);
own.on('suspended', ({ delay }) => delay.toFixed());
own.on('error', (error) => error.final ? error.code : error.message);
own.on('change', (snapshot: PresenceSnapshot) => snapshot.connected);
own.addEventListener('error', (event) => event.detail.code, { once: true });
own.renewToken();
own.stopPresence();
off();
const status: PresenceSnapshot = usePresenceStatus();
const last: number | null = hook(own).lastChange;
export const all = [user, yes, state, code, status.userId, last, same,
  end, bob, usePresence('bob').get('bob')?.stale, others.size];

// @ts-expect-error no such status
own.setStatus('offline');
// @ts-expect-error only a manual one
own.setStatus('invisible');
// @ts-expect-error only a manual one
own.setStatus(null, { message: 'x' });
// @ts-expect-error ids are strings
own.watch([42], () => {});
// @ts-expect-error nothing there to change
own.getUser('bob')!.stale = true;
// @ts-expect-error nothing there to change
others.set('bob', bob);
// @ts-expect-error an id is a string
own.startPresence(42);
// @ts-expect-error no such option
new PresenceService({ url: 'x' });
// @ts-expect-error no such event
own.on('open', () => {});
// @ts-expect-error nothing there to change
own.state = 'connected';
// @ts-expect-error nothing there to change
own.getSnapshot().connected = true;
`;

test('npm pack holds what is shipped, installs into an empty project, and can be imported', (t) => {
  const dir = install(t);
  const installed = path.join(dir, 'node_modules/presence-client');
  const files = fs.readdirSync(installed, { recursive: true });
  assert.deepEqual(files.filter((name) => name !== 'react').sort(), SHIPPED);
  assert.deepEqual(
    fs.readdirSync(path.join(dir, 'node_modules')).filter((one) => !one.startsWith('.')),
    ['presence-client'],
  );
  for (const name of SHIPPED) {
    assert.equal(
      fs.readFileSync(path.join(installed, name), 'utf8'),
      fs.readFileSync(path.join(WEB, name), 'utf8'),
    );
  }
  fs.writeFileSync(
    path.join(dir, 'use.js'),
    `
    import { presenceService, PresenceService } from 'presence-client';
    import * as same from 'presence-client/presence.js';
    console.log(presenceService.state, presenceService instanceof PresenceService,
      same.presenceService === presenceService);`,
  );
  assert.equal(
    execFileSync(process.execPath, ['use.js'], { cwd: dir, encoding: 'utf8' }),
    'idle true true\n',
  );
});

test('it says its licence, in package.json and in every file', () => {
  assert.equal(JSON.parse(fs.readFileSync(path.join(WEB, 'package.json'))).license, 'MIT');
  for (const name of SHIPPED.filter((one) => /\.(js|ts)$/.test(one))) {
    const first = fs.readFileSync(path.join(WEB, name), 'utf8').split('\n').slice(0, 2);
    assert.ok(first.includes('// SPDX-License-Identifier: MIT'), name);
  }
});

test("its LICENSE is the program's", () => {
  const readme = fs.readFileSync(path.join(WEB, '../README.md'), 'utf8');
  const [, text] = /\n## Licence\n\n([^]*?)\n\n(?! )/.exec(readme);
  assert.equal(fs.readFileSync(path.join(WEB, 'LICENSE'), 'utf8').trim(), text.replace(/^ {4}/gm, '').trim());
});

test('what its README shows can be built with it, and is what the examples run', async (t) => {
  const dir = install(t);
  fs.cpSync(path.join(MODULES, 'react19'), path.join(dir, 'node_modules/react'), { recursive: true });
  const blocks = [...fs.readFileSync(path.join(WEB, 'README.md'), 'utf8').matchAll(/^```(jsx?)\n([^]*?)^```/gm)].map(([, kind, code]) => ({ kind, code }));
  assert.ok(blocks.length >= 6);
  const build = ({ kind, code }) => require('esbuild').build({
    stdin: { contents: code, resolveDir: dir, loader: kind },
    bundle: true, write: false, format: 'esm', nodePaths: [MODULES], logLevel: 'silent', jsx: 'automatic',
  });
  for (const block of blocks) await build(block);
  await assert.rejects(build({ kind: 'js', code: "import { presence } from 'presence-client'; presence();" }), /No matching export/);
  for (const name of ['vue/use-presence.js', 'svelte/presence.js']) {
    const text = fs.readFileSync(path.join(__dirname, 'example', name), 'utf8');
    assert.ok(blocks.some(({ code }) => code === text), name);
  }
});

test('in a Node without a WebSocket the error says what to write, and that works', async (t) => {
  const dir = install(t);
  const server = await start(t);
  const run = (code) => {
    fs.writeFileSync(path.join(dir, 'use.js'), `delete globalThis.WebSocket; // as in Node 20\n${code}`);
    const child = spawn(process.execPath, ['use.js'], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const one of [child.stdout, child.stderr]) one.on('data', (more) => { text += more; });
    return new Promise((resolve) => { child.on('close', () => resolve(text)); });
  };
  const rest = `
    presenceService.configure({ apiUrl: 'http://127.0.0.1:${server.port}' });
    presenceService.on('connected', () => { console.log('connected'); presenceService.stopPresence(); });
    presenceService.startPresence('alice');`;
  const said = await run(`import { presenceService } from 'presence-client';${rest}`);
  const [, tool, code] = /there is no WebSocket here; npm install (\w+), then: (import .*)$/m.exec(said) || assert.fail(said);
  fs.cpSync(path.join(MODULES, tool), path.join(dir, 'node_modules', tool), { recursive: true });
  assert.equal(await run(`import { presenceService } from 'presence-client';\n${code}${rest}`), 'connected\n');
});

test("the version is the program's", () => {
  const source = fs.readFileSync(path.join(WEB, '../presence.c'), 'utf8');
  const [, version] = /^#define PRESENCE_VERSION "(.*)"$/m.exec(source);
  assert.equal(JSON.parse(fs.readFileSync(path.join(WEB, 'package.json'))).version, version);
});

test('the installed hook finds its React and the same client', (t) => {
  const dir = install(t);
  fs.cpSync(path.join(MODULES, 'react19'), path.join(dir, 'node_modules/react'), {
    recursive: true,
  });
  fs.writeFileSync(
    path.join(dir, 'use.js'),
    `
    import { usePresenceStatus } from 'presence-client/react';
    import * as same from 'presence-client/use-presence-status.js';
    console.log(typeof usePresenceStatus, same.usePresenceStatus === usePresenceStatus);`,
  );
  assert.equal(
    execFileSync(process.execPath, ['use.js'], { cwd: dir, encoding: 'utf8' }),
    'function true\n',
  );
  const source = fs.readFileSync(path.join(dir, 'node_modules/presence-client/use-presence-status.js'), 'utf8');
  assert.match(source, /^'use client';\n/, 'a component of a client to Next.js');
  // a bundler without "exports" looks into react/package.json
  const folder = path.join(dir, 'node_modules/presence-client/react');
  const { main } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json')));
  assert.equal(fs.existsSync(path.resolve(folder, main)), true);
});

test('where EventTarget, CustomEvent or TextEncoder is missing (React Native) it works all the same', (t) => {
  const dir = tempDir(t);
  for (const name of ['package.json', 'presence.js']) fs.copyFileSync(path.join(WEB, name), path.join(dir, name));
  fs.writeFileSync(
    path.join(dir, 'use.js'),
    `
    for (const name of process.argv.slice(2)) delete globalThis[name];
    const { PresenceService } = await import('./presence.js');
    const sockets = [];
    class WebSocket {
      constructor() { sockets.push(this); }
      send() {}
      close() {}
    }
    const client = new PresenceService({ apiUrl: 'http://a.example', WebSocket, window: {} });
    const heard = [];
    client.on('change', ({ state }) => heard.push(state));
    const off = client.on('change', () => heard.push('twice'));
    process.on('uncaughtException', (error) => heard.push(error.message));
    client.on('connected', () => { throw new Error('mine'); });
    client.addEventListener('connected', ({ type, detail }) => heard.push(type + detail.server));
    client.startPresence('alice');
    off();
    await null;
    await null;
    sockets[0].readyState = 1;
    sockets[0].onmessage({ data: '{"type":"hello","server":"x"}' });
    client.watch('b\u{1f600}b', () => {});
    client.stopPresence();
    await new Promise((resolve) => setTimeout(resolve));
    console.log(heard.join(' '), sockets.length);`,
  );
  for (const missing of [[], ['EventTarget', 'Event', 'CustomEvent', 'TextEncoder'], ['CustomEvent'], ['EventTarget']]) {
    assert.equal(
      execFileSync(process.execPath, ['use.js', ...missing], { cwd: dir, encoding: 'utf8' }),
      'connecting twice connected connectedx stopped mine 1\n',
      missing.join(),
    );
  }
});

test("tsc --strict takes a user's file, and refuses what is wrong in it", (t) => {
  const dir = install(t);
  fs.writeFileSync(path.join(dir, 'user.ts'), USER);
  for (const options of CHECKS) assert.equal(tsc(dir, ...options, 'user.ts'), '');
  fs.writeFileSync(path.join(dir, 'user.ts'), `${USER}\nconst wrong: number = own.isConnected();`);
  assert.match(tsc(dir, ...CHECKS[0], 'user.ts'), /user\.ts\(\d+,\d+\): error TS2322/);
  // the hooks are found by each of two ways where "exports" are not known
  const installed = path.join(dir, 'node_modules/presence-client');
  const file = path.join(installed, 'package.json');
  const whole = fs.readFileSync(file, 'utf8');
  fs.writeFileSync(path.join(dir, 'user.ts'), USER);
  fs.renameSync(path.join(installed, 'react'), path.join(dir, 'react'));
  assert.equal(tsc(dir, ...CHECKS[2], 'user.ts'), '', 'by typesVersions');
  fs.writeFileSync(file, JSON.stringify({ ...JSON.parse(whole), typesVersions: undefined }));
  assert.match(tsc(dir, ...CHECKS[2], 'user.ts'), /Cannot find module 'presence-client\/react'/);
  fs.renameSync(path.join(dir, 'react'), path.join(installed, 'react'));
  assert.equal(tsc(dir, ...CHECKS[2], 'user.ts'), '', 'by the folder');
});

test('the types are sound by themselves, and are those of the code', (t) => {
  const dir = tempDir(t);
  fs.mkdirSync(path.join(dir, 'node_modules/@types'), { recursive: true });
  fs.symlinkSync(path.join(MODULES, '@types/react'), path.join(dir, 'node_modules/@types/react'));
  for (const name of SHIPPED) fs.cpSync(path.join(WEB, name), path.join(dir, name));
  const types = SHIPPED.filter((name) => name.endsWith('.d.ts'));
  assert.equal(tsc(dir, ...CHECKS[0], ...types), '');
  // the code itself; its parameters have no types of their own
  const loose = [
    '--allowJs',
    '--checkJs',
    '--noImplicitAny',
    'false',
    '--useUnknownInCatchVariables',
    'false',
    '--skipLibCheck',
  ];
  assert.equal(tsc(dir, ...CHECKS[0], ...loose, 'presence.js', 'use-presence-status.js'), '');
  fs.renameSync(path.join(dir, 'presence.js'), path.join(dir, 'code.js'));
  // each has every public member of the other, and the code's take what the types say
  fs.writeFileSync(
    path.join(dir, 'same.ts'),
    `
    import { PresenceService as Code, presenceService } from './code.js';
    import type { PresenceService as Types } from './presence.js';
    export const one: Types = new Code({});
    export const other: Types = presenceService;
    type Missing = Exclude<keyof Code, keyof Types>;
    export const none: [Missing] extends [never] ? true : Missing = true;`,
  );
  const options = [...CHECKS[0], ...loose, 'same.ts'];
  assert.equal(tsc(dir, ...options), '');
  fs.appendFileSync(
    path.join(dir, 'presence.d.ts'),
    'export interface PresenceService { more(): void }',
  );
  assert.match(tsc(dir, ...options), /Property 'more' is missing/);
});

test('every option of the code is in the types, and every public member has its words', () => {
  const source = (name) =>
    ts.createSourceFile(
      name,
      fs.readFileSync(path.join(WEB, name), 'utf8'),
      ts.ScriptTarget.Latest,
      true,
    );
  const bare = [];
  const members = {};
  for (const name of SHIPPED.filter((one) => one.endsWith('.d.ts'))) {
    for (const statement of source(name).statements) {
      if (ts.isImportDeclaration(statement)) continue;
      if (!ts.getJSDocCommentsAndTags(statement).length)
        bare.push(`${name}: ${statement.getText().slice(0, 60)}`);
      if (!statement.members) continue;
      members[statement.name.text] = statement.members.map((one) => one.name?.getText());
      for (const one of statement.members) {
        const plain = [
          'code',
          'reason',
          'final',
          'setTimeout',
          'clearTimeout',
          'addEventListener',
          'removeEventListener',
          undefined,
        ];
        if (!ts.getJSDocCommentsAndTags(one).length && !plain.includes(one.name?.getText())) {
          bare.push(`${statement.name.text}.${one.name?.getText()}`);
        }
      }
    }
  }
  assert.deepEqual(bare, []);
  const code = fs.readFileSync(path.join(WEB, 'presence.js'), 'utf8');
  const [, defaults] = /^const DEFAULTS = \{\n(.*?)^\};/ms.exec(code);
  const options = [...defaults.matchAll(/^ {2}(\w+):/gm)].map(([, name]) => name);
  assert.ok(options.length > 15);
  assert.deepEqual([...members.PresenceOptions].sort(), options.sort());
  for (const [, event] of code.matchAll(/#emit\('(\w+)'|\['(\w+)', \{/g))
    if (event) assert.ok(members.PresenceEvents.includes(event), event);
});

// 160 KB, of the client, the hook, the demo and the admin page together.
test('the pages are no more than 160 KB, and need nothing from elsewhere but React', () => {
  const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '.'], {
    cwd: WEB,
    encoding: 'utf8',
  })
    .split('\n')
    .filter(Boolean);
  const pages = files.filter((name) => !/\.json$|\.d\.ts$|^README\.md$|^LICENSE$/.test(name)); // what a browser loads
  const sizes = pages.map((name) => fs.statSync(path.join(WEB, name)).size);
  const total = sizes.reduce((sum, one) => sum + one, 0);
  assert.ok(total > 20000 && total <= 160 * 1024, `${total} bytes`);
  const { dependencies, peerDependencies } = JSON.parse(
    fs.readFileSync(path.join(WEB, 'package.json')),
  );
  assert.deepEqual([dependencies, Object.keys(peerDependencies)], [undefined, ['react']]);
  for (const name of files.filter((one) => one.endsWith('.js'))) {
    for (const [, from] of fs
      .readFileSync(path.join(WEB, name), 'utf8')
      .matchAll(/^(?:import|export) .*from '([^']+)'/gm)) {
      assert.ok(
        from.startsWith('./') ||
          from.startsWith('../') ||
          (from === 'react' && name === 'use-presence-status.js'),
        `${name}: ${from}`,
      );
    }
  }
});
