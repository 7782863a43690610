/* Presence for Svelte, as stores: copy it into your application. */

import { readable } from 'svelte/store';
import { presenceService } from 'presence-client';

/** The users with these ids: a Map, who is known, by id. */
export const watchUsers = (ids, service = presenceService) => readable(new Map(), (set) => {
  const users = new Map();
  return service.watch(ids, (user) => set(new Map(users.set(user.user_id, user))));
});

/** What the client is doing: { state, connected, userId, attempt, ... }. */
export const presenceStatus = readable(presenceService.getSnapshot(), (set) => {
  set(presenceService.getSnapshot());
  return presenceService.on('change', set);
});
