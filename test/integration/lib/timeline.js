'use strict';
// Assertions about what happened to a user, by the server's own record.

const assert = require('node:assert/strict');
const { get, segment, sessions } = require('./http');
const { OP, closePayload, frame, rawConnect } = require('./raw');
const { until } = require('./wait');

let markers = 0;

/** After it, everything that happened before it has reached the store: a
 *  marker user has come and gone, and its session is counted in the store: lists have it sooner. */
async function settled(server) {
  const id = `~marker-${process.pid}-${markers++}`;
  const marker = await rawConnect(server, id);
  marker.write(frame(OP.close, closePayload(1000)));
  await marker.closeCode();
  marker.destroy();
  await until('the store to settle', async () => (await get(server, `/admin/users/${segment(id)}`)).json.sessions);
}

/** The user's stays, once the store has settled. */
async function timeline(server, id) {
  await settled(server);
  return sessions(server, id);
}

/** The user came once and never left: one stay, still running. */
async function assertNeverLeft(server, id) {
  const found = await timeline(server, id);
  assert.deepEqual(
    found.map((one) => one.reason),
    [null],
    `stays of ${id}: ${JSON.stringify(found)}`,
  );
}

/** The user came and left once, for this reason. */
async function assertLeftOnce(server, id, reason) {
  const found = await timeline(server, id);
  assert.deepEqual(
    found.map((one) => one.reason),
    [reason],
    `stays of ${id}: ${JSON.stringify(found)}`,
  );
}

module.exports = { settled, timeline, assertNeverLeft, assertLeftOnce };
