'use strict';
// What must be true of a cluster once it is quiet, whatever happened to it. All of it is decided
// from plain values, so that the checker itself can be tested: each function gives a list of
// problems, in words.

const { slow } = require('./variant');
const { until } = require('./wait');

const LAST_SEEN = 40000; // ms by which nodes may differ: a digest of it is written every 15 s
const MARGIN = 1000; // ms by which a change may be told later than it happened
const SHOWN = 8; // problems of each kind
const number = (text) => Number.parseInt(text.slice(9), 10);

/** A change as all nodes must tell it: who is online was seen at a moment that moves by itself. */
function shown({ position, change, user, reason }) {
  const { last_seen: seen, ...rest } = user;
  return JSON.stringify([position, change, Object.entries(rest).sort(), change === 'leave' ? seen : null, reason]);
}

/** The epochs that more than one node told of: those of the cluster. Who is alone has one of its own. */
function sharedEpochs(logs) {
  const seen = new Map();
  for (const [name, { parts }] of Object.entries(logs))
    for (const { epoch } of parts) seen.set(epoch, (seen.get(epoch) ?? new Set()).add(name));
  return new Set([...seen].filter(([, names]) => names.size > 1).map(([epoch]) => epoch));
}

/** All changes of the shared epochs, once each, by epoch and in order: Map of epoch -> [data]. */
function union(logs, shared = sharedEpochs(logs)) {
  const all = new Map();
  for (const { parts } of Object.values(logs)) {
    for (const { epoch, changes } of parts) {
      if (!shared.has(epoch)) continue;
      if (!all.has(epoch)) all.set(epoch, new Map());
      for (const { sequence, data } of changes) if (!all.get(epoch).has(sequence)) all.get(epoch).set(sequence, data);
    }
  }
  return new Map([...all].map(([epoch, found]) => [epoch, [...found].sort(([a], [b]) => a - b).map(([, data]) => data)]));
}

/** A position has one meaning, and who followed without a hole has missed none. */
function checkPositions(logs) {
  const problems = [];
  const shared = sharedEpochs(logs);
  const all = union(logs, shared);
  for (const [name, { parts }] of Object.entries(logs)) {
    for (const { epoch, from, to, changes } of parts) {
      if (!shared.has(epoch)) continue;
      const own = new Map(changes.map(({ sequence, data }) => [sequence, data]));
      for (const data of all.get(epoch)) {
        const sequence = number(data.position);
        const mine = own.get(sequence);
        if (mine && shown(mine) !== shown(data))
          problems.push(`position ${data.position} has two meanings: ${name} ${shown(mine)}, another ${shown(data)}`);
        if (!mine && sequence > from && sequence <= to)
          problems.push(`${name} was not told ${data.position}, ${data.change} ${data.user.user_id}`);
      }
    }
  }
  return problems;
}

/** In each epoch a user's joins and leaves take turns; what is between them is of one who is there. */
function checkTurns(logs) {
  const problems = [];
  for (const [epoch, changes] of union(logs)) {
    const here = new Map(); // unknown until the first change of an epoch
    for (const { position, change, user } of changes) {
      const was = here.get(user.user_id);
      const right = change === 'join' ? was !== true : was !== false;
      if (!right) problems.push(`${change} ${user.user_id} at ${position} in epoch ${epoch}, who was ${was ? 'online' : 'offline'}`);
      here.set(user.user_id, change !== 'leave');
    }
  }
  return problems;
}

/** Who held a socket throughout has no leave: not in the cluster, and not at a node that was alone
 *  and had her socket then. `held`: user -> the names of the nodes that she was on all the time, or
 *  a list of { name, from, to }, the moments between which she had a socket there. */
function checkHeld(logs, held) {
  const problems = [];
  const shared = sharedEpochs(logs);
  const there = (where, name, at) => (Array.isArray(where)
    ? where.some((one) => one.name === name && one.from < at - MARGIN && one.to > at + MARGIN)
    : where.has(name));
  for (const [name, { parts }] of Object.entries(logs)) {
    for (const { epoch, changes } of parts) {
      for (const { data, at } of changes) {
        const where = data.change === 'leave' && held.get(data.user.user_id);
        if (where && (shared.has(epoch) || there(where, name, at)))
          problems.push(`${data.user.user_id} held a socket throughout, but ${name}${shared.has(epoch) ? '' : ', alone,'} told ${data.position}, leave ${data.reason}`);
      }
    }
  }
  return [...new Set(problems)];
}

/** Who was lost with a node and did not come back has left once, for that reason. Where an epoch
 *  began after it the end may be in the store alone. `lost`: user -> { at }. */
function checkLost(logs, lost, dumps, histories = true) {
  const problems = [];
  const shared = sharedEpochs(logs);
  const leaves = new Map();
  for (const changes of union(logs, shared).values())
    for (const data of changes)
      if (data.change === 'leave' && lost.has(data.user.user_id)) leaves.set(data.user.user_id, [...(leaves.get(data.user.user_id) ?? []), data]);
  const renewed = (at) => Object.values(logs).some(({ parts }) => {
    const epochs = new Set(parts.filter((part) => shared.has(part.epoch) && part.began > at).map(({ epoch }) => epoch));
    const before = parts.filter((part) => part.began <= at).at(-1)?.epoch;
    return [...epochs].some((epoch) => epoch !== before);
  });
  for (const [id, { at }] of lost) {
    const found = leaves.get(id) ?? [];
    if (found.length > 1 || (found.length === 0 && !renewed(at)))
      problems.push(`${id} was lost with its node and has ${found.length} leaves: ${found.map(({ position, reason }) => `${position} ${reason}`)}`);
    for (const [name, lines] of Object.entries(dumps)) {
      const user = lines.find((line) => line.user === id);
      if (!user || user.online_since !== null) problems.push(`${id} was lost with its node, and ${name} has ${JSON.stringify(user)}`);
      const sessions = lines.filter((line) => line.session === id && line.to !== null);
      if (histories && sessions.length !== 1) problems.push(`${id} was lost with its node and has ${sessions.length} ended sessions on ${name}`);
    }
  }
  return problems;
}

/** Who left in order so many times has as many leaves, where no epoch began meanwhile, and no node
 *  was alone: who comes and goes at one that is, is told of by that one. */
function checkLeft(logs, left) {
  const epochs = Object.values(logs).flatMap(({ parts }) => parts.map(({ epoch }) => epoch));
  if (new Set(epochs).size > 1) return [];
  const counts = new Map();
  for (const changes of union(logs).values())
    for (const { change, user } of changes) if (change === 'leave') counts.set(user.user_id, (counts.get(user.user_id) ?? 0) + 1);
  return [...left].filter(([id, count]) => (counts.get(id) ?? 0) !== count)
    .map(([id, count]) => `${id} left ${count} times and has ${counts.get(id) ?? 0} leaves`);
}

/** The dumps of all nodes say the same: when somebody left but for `exact` ms, when who is online was
 *  seen nearly; addresses and samples are each node's own. `online`: those who hold sockets, and
 *  nobody else. */
function checkDumps(dumps, online, { histories = true, exact = 0 } = {}) {
  const problems = [];
  const told = ({ last_seen: seen, address, first_seen: first, sessions, offline_since: offline, to, reason, ...rest }) => {
    return histories ? { ...rest, first, sessions, left: Boolean(offline), ended: Boolean(to), reason } : rest;
  };
  const compared = (line) => line.user !== undefined || line.manual !== undefined || (histories && line.session !== undefined);
  const keyed = (lines) => new Map(lines.filter((line) => !line.end && compared(line))
    .map((line) => [line.user !== undefined ? `user ${line.user}` : line.session !== undefined ? `session of ${line.session} from ${line.from}` : `manual of ${line.manual}`, line]));
  const [[first, lines], ...others] = Object.entries(dumps);
  const wanted = keyed(lines);
  for (const [name, theirs] of others) {
    const found = keyed(theirs);
    for (const key of new Set([...wanted.keys(), ...found.keys()])) {
      const [a, b] = [wanted.get(key), found.get(key)];
      if (!a || !b) {
        problems.push(`${key} is only on ${a ? first : name}`);
        continue;
      }
      const times = ['last_seen', 'offline_since', 'to'].map((field) => Math.abs(Date.parse(a[field] ?? 0) - Date.parse(b[field] ?? 0)));
      const apart = Math.max(...histories ? times : times.slice(0, 1));
      const same = JSON.stringify(told(a)) === JSON.stringify(told(b));
      if (!same) problems.push(`${key}: ${first} ${JSON.stringify(a)}, ${name} ${JSON.stringify(b)}`);
      else if (apart > (histories && !a.online_since ? exact : LAST_SEEN)) problems.push(`${key}: ${apart} ms apart on ${first} and ${name}`);
    }
  }
  for (const [name, theirs] of Object.entries(dumps)) {
    const there = new Set(theirs.filter((line) => line.user !== undefined && line.online_since !== null).map(({ user }) => user));
    for (const id of online ?? []) if (!there.has(id)) problems.push(`${id} holds a socket, and is offline on ${name}`);
    for (const id of online ? there : []) if (!online.has(id)) problems.push(`${id} is a ghost on ${name}`);
  }
  return problems;
}

/** What the webhooks told is what the events tell, but for repeats: each position with one meaning,
 *  in order, and none left out between the first and the last of an epoch, unless a reset says so. */
function checkWebhook(posts, logs) {
  const problems = [];
  const first = new Map(); // position -> the event as it first came
  const last = new Map(); // epoch -> the number that came last for the first time
  const resets = []; // positions: before one of the same epoch changes may be missing
  for (const event of posts) {
    if (event.change === 'reset') {
      resets.push(event.position);
      continue;
    }
    const had = first.get(event.position);
    if (had) {
      if (shown(had) !== shown(event)) problems.push(`the webhook told ${event.position} in two ways: ${shown(had)}, ${shown(event)}`);
      continue;
    }
    const epoch = event.position.slice(0, 8);
    if (number(event.position) <= (last.get(epoch) ?? -1)) problems.push(`the webhook told ${event.position} behind ${last.get(epoch)}`);
    last.set(epoch, number(event.position));
    first.set(event.position, event);
  }
  for (const [epoch, changes] of union(logs)) {
    const numbers = [...first.keys()].filter((one) => one.slice(0, 8) === epoch).map(number);
    const [from, to] = [Math.min(...numbers), Math.max(...numbers)];
    for (const data of changes) {
      const told = first.get(data.position);
      if (told && shown(told) !== shown(data)) problems.push(`the webhook told ${data.position} as ${shown(told)}, the events as ${shown(data)}`);
      const due = data.change !== 'connections' && number(data.position) >= from && number(data.position) <= to;
      const said = resets.some((one) => one.slice(0, 8) === epoch && number(one) >= number(data.position));
      if (due && !told && !said) problems.push(`the webhook left out ${data.position}, ${data.change} ${data.user.user_id}`);
    }
    const known = new Set(changes.map(({ position }) => position));
    for (const position of first.keys())
      if (position.slice(0, 8) === epoch && !known.has(position)) problems.push(`only the webhook told ${position}`);
  }
  return problems;
}

/** Everything at once, by kind. Truth: held, lost, left, online, exact as above, each optional; posts
 *  of a webhook; `histories` false: what the stores have of sessions that ended is not compared. */
const kindsOf = ({ logs, dumps, held = new Map(), lost = new Map(), left = new Map(), online, posts, histories = true, exact }) => ({
  positions: checkPositions(logs), turns: checkTurns(logs), held: checkHeld(logs, held), lost: checkLost(logs, lost, dumps, histories),
  left: checkLeft(logs, left), dumps: checkDumps(dumps, online, { histories, exact }), webhook: posts ? checkWebhook(posts, logs) : [],
});
const problemsOf = (story) => Object.values(kindsOf(story)).flat();

/** Waits until every node shows just these users as online. Who else is there for longer the checker
 *  says: here it is only told. */
async function untilGone(t, cluster, online, within) {
  const gone = async () => {
    for (const node of cluster.living) {
      const ids = (await node.online()).map((user) => user.user_id);
      if (ids.length !== online.size || !ids.every((id) => online.has(id))) return false;
    }
    return true;
  };
  await until('those who are gone to be offline', gone, { within, every: 500 }).catch((error) => t.diagnostic(error.message));
}

/** Checks a quiet cluster, whose stores may take a moment; throws with all that is wrong. */
async function checkCluster(cluster, truth = {}, { within = 10000 * slow } = {}) {
  await cluster.quiet();
  let kinds = {};
  const sound = async () => {
    const dumps = {};
    for (const node of cluster.living) dumps[node.name] = await node.dump();
    kinds = kindsOf({ ...truth, logs: cluster.logs, dumps });
    return Object.values(kinds).every((found) => found.length === 0);
  };
  await until('a cluster without a problem', sound, { within, every: 500 }).catch((error) => {
    const bad = Object.entries(kinds).filter(([, found]) => found.length);
    if (!bad.length) throw error;
    throw new Error(bad.map(([kind, found]) => {
      const more = found.length > SHOWN ? `\n... and ${found.length - SHOWN} more` : '';
      return `${kind}, ${found.length} problems:\n${found.slice(0, SHOWN).join('\n')}${more}`;
    }).join('\n'));
  });
}

module.exports = { problemsOf, untilGone, checkCluster, checkPositions, checkTurns, checkHeld, checkLost, checkLeft, checkDumps, checkWebhook };
