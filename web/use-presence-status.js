/* React: usePresenceStatus() is what the presence client is doing, kept up to date. For React 18
 * and 19, StrictMode and server rendering. It only watches: starting and stopping presence is up
 * to whoever knows about login and logout. See use-presence-status.d.ts. */

import { useCallback, useSyncExternalStore } from 'react';
import { presenceService } from './presence.js';

/** What a server renders, and a browser while it takes over the server's page. */
const NOTHING = Object.freeze({
  state: 'idle', connected: false, userId: null, attempt: 0, status: 'online', lastChange: null,
});
const onServer = () => NOTHING;

/** The snapshot of a presence client; renders again when it changes. */
export function usePresenceStatus(service = presenceService) {
  const subscribe = useCallback((changed) => service.on('change', changed), [service]);
  const snapshot = useCallback(() => service.getSnapshot(), [service]);
  return useSyncExternalStore(subscribe, snapshot, onServer);
}
