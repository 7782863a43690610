// SPDX-License-Identifier: MIT
/** Types and reference of use-presence-status.js, the React hooks of presence. */

import type { PresenceService, PresenceSnapshot, PresenceUser } from './presence.js';

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

/**
 * How others are: the users with these ids who are known, by id. The same Map until one of them
 * changes, then a new one. Whom the server refuses is not in it (the client's `error` event says
 * why), nor what was known when another user starts. Ids count by value, so a new array in every
 * render is fine. Ids that are null or undefined, not there yet, are left out; what else is no id is
 * left out and told to console.error. On a server the Map is empty.
 */
export function usePresence(
  userIds: string | Iterable<string | null | undefined> | null | undefined,
  service?: PresenceService): ReadonlyMap<string, PresenceUser>;
