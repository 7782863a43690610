'use client';
// SPDX-License-Identifier: MIT
/* React 18 and 19, StrictMode and server rendering: see use-presence-status.d.ts. Starting and
 * stopping presence is up to whoever knows about login and logout. */

import { useCallback, useMemo, useSyncExternalStore } from 'react';
import { presenceService } from './presence.js';

/** What a server renders, and a browser while it takes over the server's page. */
const NOTHING = Object.freeze({
  state: 'idle', connected: false, userId: null, attempt: 0, status: 'online', lastChange: null,
});

/** The snapshot of a presence client; renders again when it changes. */
export function usePresenceStatus(service = presenceService) {
  const subscribe = useCallback((changed) => service.on('change', changed), [service]);
  const snapshot = useCallback(() => service.getSnapshot(), [service]);
  return useSyncExternalStore(subscribe, snapshot, () => NOTHING);
}

const NOBODY = new Map();

/** Ids out of what was given; what is none of them is 0, and left out when it is not there yet. */
function idsOf(given) {
  if (typeof given === 'string') return [given];
  try {
    return [...given ?? []].filter((id) => (id ?? null) !== null)
      .map((id) => (typeof id === 'string' ? id : 0));
  } catch {
    return [0];
  }
}

/** Users by id, as known now; a new Map whenever that changes, once for all of a message. */
function follow(ids, service) {
  const read = () => new Map(ids.map((id) => [id, service.getUser(id)]).filter(([, user]) => user));
  let users = read();
  let planned = false;
  const subscribe = (changed) => {
    const update = () => {
      planned = false;
      const now = read();
      if (now.size === users.size && [...now].every(([id, user]) => users.get(id) === user)) return;
      users = now;
      changed();
    };
    const plan = () => {
      if (!planned) queueMicrotask(update); // behind the others of this message
      planned = true;
    };
    const ends = ids.map((id) => {
      try {
        return service.watch([id], plan, plan);
      } catch (error) { // one that cannot be must not take the page down
        console.error(`usePresence: ${error.message}`);
        return () => {};
      }
    });
    ends.push(service.on('change', () => { // when another user starts, all is forgotten
      if ([...users.keys()].some((id) => !service.getUser(id))) plan();
    }));
    plan(); // what has changed since it was rendered
    return () => ends.forEach((end) => end());
  };
  return { get: () => users, subscribe };
}

/** The users with these ids; renders again when one of them changes. */
export function usePresence(userIds, service = presenceService) {
  const key = JSON.stringify(idsOf(userIds));
  const store = useMemo(() => follow(JSON.parse(key), service), [key, service]);
  return useSyncExternalStore(store.subscribe, store.get, () => NOBODY);
}
