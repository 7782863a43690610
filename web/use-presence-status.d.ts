/** Types and reference of use-presence-status.js, the React hook of presence. */

import type { PresenceService, PresenceSnapshot } from './presence.js';

/**
 * What the presence client is doing: `connected`, `attempt` (which try is waited for), `userId`,
 * `lastChange` (ms since 1970, or null), `state` and `status`. The component renders again when one
 * of them changes, and not otherwise.
 *
 * On a server, and in the first render over a server's page, it is the snapshot of a client that
 * was never started. Works with React 18 and 19, in StrictMode too. It never starts or stops
 * anything.
 *
 * @param service a client of your own; `presenceService` without one.
 */
export function usePresenceStatus(service?: PresenceService): PresenceSnapshot;
