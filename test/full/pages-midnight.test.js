'use strict';
// The admin page at both ends of a day, where what was just now was yesterday, or ends tomorrow.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const nodeTest = require('node:test');
const { runFile } = require('../integration/lib/run-file');

const files = fs.readdirSync(path.join(__dirname, '../web')).filter((name) => /^admin-.*\.test\.js$/.test(name));

for (const PAGE_TIME of ['00:00', '00:30', '23:59']) {
  for (const name of files) {
    nodeTest(`${name} at ${PAGE_TIME}`, { timeout: 300000 }, async (t) => {
      const { code, output } = await runFile(t, `web/${name}`, { PAGE_TIME });
      assert.equal(code, 0, output.slice(-5000));
    });
  }
}
