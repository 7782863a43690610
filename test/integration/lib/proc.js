'use strict';
// Reads /proc: memory, CPU time, descriptors and sockets of a process.

const fs = require('node:fs');

const TICK_MS = 10; // USER_HZ is 100 on every Linux

function field(pid, file, name) {
  const match = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(
    fs.readFileSync(`/proc/${pid}/${file}`, 'utf8'),
  );
  return Number(match[1]) * 1024;
}

const rss = (pid) => field(pid, 'status', 'VmRSS');
const pss = (pid) => field(pid, 'smaps_rollup', 'Pss');
/** Bytes of its own: without what it shares with the page cache, as a store's map does. */
const own = (pid) => field(pid, 'smaps_rollup', 'Anonymous');
const descriptors = (pid) => fs.readdirSync(`/proc/${pid}/fd`).length;

function statTimes(file) {
  const text = fs.readFileSync(file, 'utf8');
  const rest = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(rest[11]) + Number(rest[12])) * TICK_MS;
}

/** CPU time of the whole process, in ms. */
const cpu = (pid) => statTimes(`/proc/${pid}/stat`);

/** CPU time of every thread, in ms: Map of thread id -> { name, ms }. */
function threads(pid) {
  const found = new Map();
  for (const tid of fs.readdirSync(`/proc/${pid}/task`)) {
    const name = fs.readFileSync(`/proc/${pid}/task/${tid}/comm`, 'utf8').trim();
    found.set(tid, { name, ms: statTimes(`/proc/${pid}/task/${tid}/stat`) });
  }
  return found;
}

/** How many TCP sockets with this local port are in the state (hex). */
function socketsIn(state, port) {
  const local = port.toString(16).toUpperCase().padStart(4, '0');
  return ['/proc/net/tcp', '/proc/net/tcp6']
    .flatMap((file) => {
      try {
        return fs.readFileSync(file, 'utf8').split('\n').slice(1);
      } catch {
        return [];
      }
    })
    .map((line) => line.trim().split(/\s+/))
    .filter((columns) => columns[1] && columns[1].endsWith(`:${local}`) && columns[3] === state)
    .length;
}
const closeWait = (port) => socketsIn('08', port);

/** All processes below `pid`, deepest last. */
function descendants(pid) {
  const found = [];
  const visit = (parent) => {
    let tasks = [];
    try {
      tasks = fs.readdirSync(`/proc/${parent}/task`);
    } catch {
      return;
    }
    for (const tid of tasks) {
      let children = '';
      try {
        children = fs.readFileSync(`/proc/${parent}/task/${tid}/children`, 'utf8');
      } catch {
        /* gone */
      }
      for (const child of children.split(' ').filter(Boolean).map(Number)) {
        found.push(child);
        visit(child);
      }
    }
  };
  visit(pid);
  return found;
}

module.exports = { rss, pss, own, descriptors, cpu, threads, closeWait, descendants };
