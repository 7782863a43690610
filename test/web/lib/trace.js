'use strict';
// Chromium's own trace: how long the tasks of a page's main thread took.

const CATEGORIES = ['toplevel', '__metadata'];

/**
 * Runs `work` under a trace. Tells of the tasks on the main threads of pages: how many there were,
 * and of two measures, `cpu` (what the task itself took of the processor) and `wall` (that and what
 * other processes took meanwhile), the longest in ms and how many were over 50 and over 200 ms.
 * Only `cpu` can be held to a bar on a machine that is shared.
 */
async function traceTasks(chrome, page, work) {
  await chrome.browser.startTracing(page, { categories: CATEGORIES });
  await work();
  await page.evaluate(() => new Promise((resolve) => { setTimeout(resolve); })); // the last has ended
  const { traceEvents } = JSON.parse(await chrome.browser.stopTracing());
  const mains = new Set(traceEvents
    .filter(({ name, args }) => name === 'thread_name' && args.name === 'CrRendererMain')
    .map(({ pid, tid }) => `${pid}/${tid}`));
  const tasks = traceEvents.filter(({ name, ph, pid, tid }) => ph === 'X'
    && name === 'ThreadControllerImpl::RunTask' && mains.has(`${pid}/${tid}`));
  const measure = (key) => {
    const times = tasks.map((task) => (task[key] ?? 0) / 1000);
    return {
      longest: Math.round(times.reduce((a, b) => Math.max(a, b), 0)),
      over50: times.filter((ms) => ms > 50).length,
      over200: times.filter((ms) => ms > 200).length,
    };
  };
  return { count: tasks.length, cpu: measure('tdur'), wall: measure('dur') };
}

module.exports = { traceTasks };
