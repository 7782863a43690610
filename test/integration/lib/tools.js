'use strict';
// Programs that not every machine has. A test that needs one asks for it, and is skipped with a
// reason that names what to install.

const fs = require('node:fs');
const path = require('node:path');

/** Where a program is, or null. */
function findProgram(name) {
  const folders = [...(process.env.PATH || '').split(':'), '/usr/sbin', '/sbin', '/usr/local/go/bin'];
  for (const folder of folders.filter(Boolean)) {
    const file = path.join(folder, name);
    try {
      fs.accessSync(file, fs.constants.X_OK);
      return file;
    } catch {
      /* not there */
    }
  }
  return null;
}

/** { file } of a program, or { skip } with the reason: the package that has it. */
function needs(name, install) {
  const file = findProgram(name);
  return file ? { file } : { skip: `there is no ${name} here: ${install}` };
}

module.exports = { findProgram, needs };
