'use strict';
// Every option of the table in presence.c: its bounds, where it can be given, which place wins, and
// that what --print-config tells can be read again.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, run, tempDir } = require('../integration/lib');

const source = fs.readFileSync(path.join(__dirname, '../../presence.c'), 'utf8');
const body = source.slice(source.indexOf('#define OPTION_TABLE(X)')).split('\n\n')[0].replaceAll('\\\n', ' ');
/** A bound as it stands there: a number, or INT64_C(1) << 40. */
const bound = (written) => {
  const power = /^INT64_C\(1\) << (\d+)$/.exec(written);
  return power ? 2 ** Number(power[1]) : Number(written);
};
const ROWS = [...body.matchAll(/X\((\w+), (\w+), "([^"]+)", +"([^"]*)", (-?\w+), ([^,"]+), +"([^"]*)",/g)]
  .map(([, , kind, name, initial, least, most, argument]) => ({ kind, name, initial, least: Number(least), most: bound(most), argument }));
const NUMBERS = ROWS.filter(({ least, most, kind }) => most > least && !['FLAG', 'LEVEL', 'FORMAT'].includes(kind));

const variable = (name) => `PRESENCE_${name.toUpperCase().replaceAll('-', '_')}`;
const clean = Object.fromEntries(Object.keys(process.env).filter((name) => name.startsWith('PRESENCE_')).map((name) => [name, undefined]));

/** A number as the option takes it. */
const text = ({ kind }, n) => (kind === 'DURATION' ? `${n}ms` : String(n));

/** What --print-config says of these: { status, values, stderr }. */
async function configured({ args = [], env = {}, file }) {
  const config = file ? ['--config', file] : [];
  const { code, stdout, stderr } = await run([...config, ...args, '--print-config'], { env: { ...clean, ...env } });
  const values = new Map();
  for (const line of stdout.split('\n').filter(Boolean)) {
    const [name, ...value] = line.split(' ');
    values.set(name, [...(values.get(name) || []), value.join(' ')]);
  }
  return { code, values, stderr };
}

test('the table of options was read', () => {
  assert.equal(ROWS.length, body.match(/ X\(/g).length);
  assert.ok(ROWS.length >= 50 && NUMBERS.length >= 25, `${ROWS.length} rows, ${NUMBERS.length} numbers`);
});

test('every number is taken up to its bounds and refused beyond, in each of the three places', { timeout: 600000 }, async (t) => {
  const dir = tempDir(t);
  let checks = 0;
  for (const row of NUMBERS) {
    const file = path.join(dir, row.name);
    const places = (value) => {
      fs.writeFileSync(file, `${row.name} ${value}\n`);
      return [{ args: [`--${row.name}`, value] }, { args: [`--${row.name}=${value}`] }, { env: { [variable(row.name)]: value } }, { file }];
    };
    for (const n of [row.least, row.most]) {
      for (const place of places(text(row, n))) {
        const { code, stderr } = await configured(place);
        assert.equal(code, 0, `${row.name} ${n} ${JSON.stringify(place)}: ${stderr}`);
        checks++;
      }
    }
    for (const n of [row.least - 1, row.most + 1]) {
      for (const place of places(text(row, n))) {
        const { code, stderr } = await configured(place);
        assert.equal(code, 2, `${row.name} ${n} ${JSON.stringify(place)}`);
        assert.match(stderr, /^presence: [^\n]+\n$/, 'one line');
        assert.ok(stderr.includes(row.name) || stderr.includes(variable(row.name)), `${row.name} is not named: ${stderr}`);
        checks++;
      }
    }
  }
  t.diagnostic(`${checks} checks`);
});

test('the command line wins over the environment, and that over the file', { timeout: 300000 }, async (t) => {
  const dir = tempDir(t);
  for (const row of NUMBERS) {
    const [one, two, three] = [row.least + 1, row.least + 2, row.least + 3].map((n) => text(row, Math.min(n, row.most)));
    const file = path.join(dir, row.name);
    fs.writeFileSync(file, `${row.name} ${one}\n`);
    const env = { [variable(row.name)]: two };
    const args = [`--${row.name}`, three];
    const shown = async (place) => (await configured(place)).values.get(row.name)?.[0];
    const alone = [];
    for (const value of [one, two, three]) alone.push(await shown({ args: [`--${row.name}`, value] }));
    assert.equal(await shown({ file }), alone[0], row.name);
    assert.equal(await shown({ file, env }), alone[1], row.name);
    assert.equal(await shown({ file, env, args }), alone[2], row.name);
    assert.equal(await shown({ file, args }), alone[2], row.name);
  }
});

test('what --print-config tells is read again as the same', { timeout: 300000 }, async (t) => {
  const samples = {
    LIST: ['127.0.0.1:0', '[::1]:8080'], ORIGINS: ['https://a.example', 'http://b.example:8080'], RANGES: ['10.0.0.0/8', '::1'],
    FILES: ['/no/such', 'k=/no/such either'], FLAG: ['yes'], HOSTS: ['presence.example.com', 'www.presence.example.com'],
  };
  const file = path.join(tempDir(t), 'config');
  for (const row of ROWS) {
    const numbers = NUMBERS.includes(row) ? [text(row, Math.min(row.least + 7, row.most))] : null;
    const choice = ['LEVEL', 'FORMAT'].includes(row.kind) ? [row.initial] : null;
    const named = { 'webhook-url': ['http://127.0.0.1/'], user: ['root'] }[row.name];
    const values = named || samples[row.kind] || numbers || choice || ['a text with = and blanks'];
    const args = values.flatMap((value) => (row.kind === 'FLAG' ? [`--${row.name}`] : [`--${row.name}`, value]));
    const first = await configured({ args });
    assert.equal(first.code, 0, `${row.name}: ${first.stderr}`);
    fs.writeFileSync(file, [...first.values].flatMap(([name, all]) => all.map((value) => `${name} ${value}\n`)).join(''));
    const again = await configured({ file });
    assert.equal(again.code, 0, `${row.name}: ${again.stderr}`);
    assert.deepEqual([...again.values], [...first.values], row.name);
    assert.ok(first.values.get(row.name), `${row.name} is not printed`);
  }
});
