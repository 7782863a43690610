'use strict';
// Chromium's own trace: how long the tasks of a page's main thread took.

const CATEGORIES = ['toplevel', '__metadata'];

/**
 * Runs `work` under a trace. Gives { count, longest, over50, over200 } of the tasks on the main
 * threads of pages, in ms of the clock on the wall.
 */
async function traceTasks(chrome, page, work) {
  await chrome.browser.startTracing(page, { categories: CATEGORIES });
  await work();
  const { traceEvents } = JSON.parse(await chrome.browser.stopTracing());
  const mains = new Set(traceEvents
    .filter(({ name, args }) => name === 'thread_name' && args.name === 'CrRendererMain')
    .map(({ pid, tid }) => `${pid}/${tid}`));
  const tasks = traceEvents
    .filter(({ name, ph, pid, tid }) => ph === 'X' && name === 'ThreadControllerImpl::RunTask'
      && mains.has(`${pid}/${tid}`))
    .map(({ dur }) => dur / 1000);
  return {
    count: tasks.length,
    longest: Math.round(tasks.reduce((a, b) => Math.max(a, b), 0)),
    over50: tasks.filter((ms) => ms > 50).length,
    over200: tasks.filter((ms) => ms > 200).length,
  };
}

module.exports = { traceTasks };
