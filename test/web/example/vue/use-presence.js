/* Presence for Vue 3: copy it into your application. */

import { onScopeDispose, shallowRef, toValue, watchEffect } from 'vue';
import { presenceService } from 'presence-client';

/** The users with these ids (an array, a ref or a getter of one): a Map, who is known, by id. */
export function usePresence(ids, service = presenceService) {
  const users = shallowRef(new Map());
  watchEffect((onCleanup) => {
    users.value = new Map();
    onCleanup(service.watch(toValue(ids), (user) => {
      users.value = new Map(users.value).set(user.user_id, user);
    }));
  });
  return users;
}

/** What the client is doing: { state, connected, userId, attempt, ... }. */
export function usePresenceStatus(service = presenceService) {
  const status = shallowRef(service.getSnapshot());
  onScopeDispose(service.on('change', (snapshot) => { status.value = snapshot; }));
  return status;
}
