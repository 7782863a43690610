// SPDX-License-Identifier: MIT
/** Types and reference of presence.js, the browser client of presence. */

/** What a connection can say of its user. */
export type PresenceStatus = 'online' | 'away' | 'busy';

/**
 * Where the client is:
 *
 * - `idle`: nothing was started yet
 * - `connecting`: the first try is under way
 * - `connected`: the server counts this connection, so the user is online
 * - `reconnecting`: the connection is lost; waits for the next try, or tries
 * - `suspended`: `maxReconnectAttempts` tries came to nothing; goes on trying, slowly
 * - `stopped`: by `stopPresence()`, or for good: a close with 4403, or `giveUp`
 */
export type PresenceState =
  | 'idle' | 'connecting' | 'connected' | 'reconnecting' | 'suspended' | 'stopped';

/** How a connection ended. */
export interface PresenceClose {
  /** The close code (RFC 6455 section 7.4); 1006 when there was no close frame. */
  readonly code: number;
  /** The server's reason, an error code and perhaps a colon and words, or this side's own words. */
  readonly reason: string;
  /** Whether both sides closed. */
  readonly wasClean: boolean;
}

/** Everything of one moment. The same object until something changes. */
export interface PresenceSnapshot {
  /** Where the client is. */
  readonly state: PresenceState;
  /** `state` is `connected`. While it is not, what was known of anybody may be stale. */
  readonly connected: boolean;
  /** The user whose presence was started; null in `idle` and `stopped`. */
  readonly userId: string | null;
  /** Which try after the last connection is waited for or under way; 0 when connected. */
  readonly attempt: number;
  /** The status that the server has, or will have once connected. */
  readonly status: PresenceStatus;
  /** When `state` last changed, in ms since 1970 by this machine's clock; null at first. */
  readonly lastChange: number | null;
}

/** A user who is watched: the server's words (presence-protocol(7)), and `stale`. */
export interface PresenceUser {
  /** Who it is. */
  readonly user_id: string;
  /** Whether the user counts as online. */
  readonly online: boolean;
  /** `offline` when that is false. */
  readonly status: PresenceStatus | 'offline';
  /** `live` with a connection, `cached` without one but believed online, else `stored`. */
  readonly source: 'live' | 'cached' | 'stored';
  /** Open connections of this user. */
  readonly connections: number;
  /** Since when online, in RFC 3339; null when offline. */
  readonly connected_at: string | null;
  /** When last heard from; null for one never seen. */
  readonly last_seen: string | null;
  /** What the user says beside a manual status. */
  readonly message?: string;
  /** Why the user went offline. */
  readonly reason?: string;
  /** This client is not connected: it was like this, and may be otherwise now. */
  readonly stale: boolean;
}

/** Options of a status. */
export interface StatusOptions {
  /** The user's status on all connections, kept by the server, not of this connection alone. */
  manual?: boolean;
  /** With `manual`: a text of at most 140 characters. */
  message?: string | null;
  /** With `manual`: seconds after which it ends. */
  expiresIn?: number | null;
}

/** A user whom the server does not follow for this client. */
export interface WatchError {
  /** `forbidden` by the token; `too_many_watched`: more than --max-watch, asked for again when
   *  another is unwatched; `message_too_large`: --max-message is below what the id needs. */
  readonly code: string;
  /** The server's words. */
  readonly message: string;
  /** Who it is about. */
  readonly userId: string;
}

/** A clock and its timers. Times are in milliseconds. */
export interface PresenceClock {
  /** A clock that never goes back; its zero does not matter. */
  now(): number;
  /** The time of day, since 1970. */
  time(): number;
  setTimeout(work: () => void, ms: number): any;
  clearTimeout(id: any): void;
}

/** What is needed of a page's `window` or `document`. Members that are missing are not used. */
export interface PresencePage {
  addEventListener?(type: string, listener: (event: any) => void): void;
  removeEventListener?(type: string, listener: (event: any) => void): void;
  /** Of a `document`. */
  readonly visibilityState?: string;
  /** Of a `window`. */
  readonly location?: { readonly origin: string; readonly href: string };
}

/** Options. One that is undefined or null keeps its default (or what was configured before). */
export interface PresenceOptions {
  /**
   * Where the server is, such as `https://presence.example.com` or, behind a proxy that forwards
   * a path, `https://example.com/presence`. http becomes ws, https wss; path and query are kept.
   * Default: the page's own origin.
   */
  apiUrl?: string | null;
  /**
   * Gives the user's token (a JWT), or nothing if the server needs none. Asked before every try,
   * so keep a token while it is good; asked again at once when the server says 4401 to a connection
   * that has lasted longer than `reconnectDelay` (it ran out), but not twice in a row: until a
   * connection was stable, the second loss waits. A token that was refused is not sent again, not
   * even when others came between (100 are remembered). When it throws, rejects or gives what is no
   * text, that is an `error` event, and the try counts as failed.
   */
  getToken?: ((userId: string) => string | null | undefined
    | Promise<string | null | undefined>) | null;
  /**
   * Tries after a loss before the client is `suspended`. Default 5; `Infinity` is fine. They and the
   * delays begin anew when a connection has been stable: for 10 s, or up to the first probe that was
   * answered.
   */
  maxReconnectAttempts?: number | null;
  /** Stop for good where the client would be `suspended`. Default false. */
  giveUp?: boolean | null;
  /**
   * The first delay, doubled with each try; at least 100. Default 1000 ms. Up to a tenth is added
   * at random. After a line that broke without a close frame a large server (its `spread_ms`, 0 to
   * 100 connections) wants the first try later by a random part of some seconds.
   */
  reconnectDelay?: number | null;
  /** The longest delay, before the tenth. Default 30000 ms. */
  maxReconnectDelay?: number | null;
  /** How often a suspended client tries; `Infinity`: only when the page wakes up. Default 30000 ms,
   *  with up to a tenth added. */
  probeDelay?: number | null;
  /** How long a try may take: token, socket and the server's hello. Default 10000 ms. */
  connectTimeout?: number | null;
  /** How long the answer to a probe may take before the socket is replaced. Default 5000 ms. */
  probeTimeout?: number | null;
  /** Ms between two probes of a quiet line, at least 100; 0 for none. Default: what the server's
   *  hello says. */
  heartbeatInterval?: number | null;
  /**
   * How long a page is hidden before its `online` becomes `away`. Default 300000 ms; `Infinity`
   * for never.
   */
  awayAfter?: number | null;
  /**
   * `true` writes every step to the console; a function gets it instead. Default false: only what
   * has to be mended before presence can work, once, such as a getToken that is missing or an
   * origin that the server is to allow.
   */
  debug?: boolean | ((step: string) => void) | null;
  /** The WebSocket class. Default: the global one; before Node 22, which has none, that of `ws`. */
  WebSocket?: (new (url: string, protocols?: string[]) => any) | null;
  /** Clock and timers, for tests; members that are missing keep their default. */
  clock?: Partial<PresenceClock> | null;
  /** A number from 0 to 1 for the random part of delays. Default: `Math.random()`. */
  random?: (() => number) | null;
  /** Where `online`, `offline`, `pagehide` and `pageshow` happen. Default: the global object. */
  window?: PresencePage | null;
  /** Where `visibilitychange`, `freeze` and `resume` happen. Default: the global one, if any. */
  document?: PresencePage | null;
}

/** What the events carry, by name. */
export interface PresenceEvents {
  /** The server counts this connection: the user is online. */
  connected: {
    readonly userId: string;
    /** The server's name of this connection, as in /admin/users/{id}. */
    readonly connectionId: string;
    /** Such as `presence/0.1.0`. */
    readonly server: string;
  };
  /** A connection has ended, or presence has ended for good (`willReconnect` is false then). */
  disconnected: {
    readonly code: number;
    readonly reason: string;
    readonly willReconnect: boolean;
  };
  /** Try number `attempt` follows in `delay` ms. */
  reconnecting: {
    readonly attempt: number;
    readonly delay: number;
    readonly maxAttempts: number;
  };
  /** The tries are used up; from now on one every `probeDelay`, the first in `delay` ms. */
  suspended: {
    readonly delay: number;
  };
  /**
   * Something is wrong that an application may want to know. `code` is an error code of the
   * protocol (such as `token_expired`, `kicked`, `too_many_connections`), and `message` then what
   * the server says is wrong, or one of
   *
   * - `token_failed`: getToken threw, rejected, or gave what is no token
   * - `token_unchanged`: getToken gave a token that was refused
   * - `socket_failed`: no WebSocket could be made (a token with blanks, http from an https page)
   * - `gave_up`: the tries are used up, and `giveUp` is set
   * - `message_too_large`: an id or a manual status that no message holds which the server takes
   * - `debug_failed`, `random_failed`, `clock_failed`, `page_failed`: an option threw or gave what
   *   cannot be; `debug` is off then, and our own clock or random goes on
   *
   * `final`: the client is stopped. Otherwise it goes on by itself.
   */
  error: {
    readonly code: string;
    readonly message: string;
    readonly final: boolean;
  };
  /** The snapshot has changed; this is the new one. */
  change: PresenceSnapshot;
}

/** Listens to an event as EventTarget does; `detail` is what it carries. */
export type PresenceListener<K extends keyof PresenceEvents> =
  | ((event: CustomEvent<PresenceEvents[K]>) => void)
  | { handleEvent(event: CustomEvent<PresenceEvents[K]>): void };

/** The presence of one user in one page. */
export class PresenceService extends EventTarget {
  /** @throws TypeError when there is no such option, or its value cannot be. */
  constructor(options?: PresenceOptions);

  /**
   * Changes options; those not named stay. What is under way is not disturbed: it counts from the
   * next try on, `apiUrl`, `window` and `document` from the next `startPresence()`.
   * @throws TypeError when there is no such option, or its value cannot be.
   */
  configure(options: PresenceOptions): void;

  /**
   * Makes the user online and keeps them so until `stopPresence()`. For the user who is present
   * already it does nothing but try at once if the line is down; another one is stopped first. The
   * socket is made a microtask later: starting, stopping and starting in one go makes one.
   * @param userId 1 to 128 bytes of UTF-8 without control characters, not `.` or `..`.
   * @throws TypeError when the id or `apiUrl` cannot be, or there is no WebSocket.
   */
  startPresence(userId: string): void;

  /**
   * Closes the connection cleanly: without another tab or device the user is offline at once. No
   * socket, timer or listener is left. Fine when nothing was started. The status is forgotten.
   */
  stopPresence(): void;

  /**
   * Asks getToken for a new token and connects anew with it: what it allows has changed, say by a
   * new friend. The user stays online meanwhile, if that takes no longer than the server's
   * `--grace`; the state is `reconnecting` for a moment. The same happens by itself shortly before a
   * token ends. Nothing changes when there is no other token; while not connected the next try asks
   * anyway.
   */
  renewToken(): void;

  /**
   * Sets the status of this connection, again after every reconnect. `online`, the first one, is
   * `away` while the page has been hidden for `awayAfter`; the others stay what they are.
   * @throws TypeError when it is none.
   */
  setStatus(status: PresenceStatus, options?: StatusOptions): void;
  /**
   * With `manual` it is the user's manual status, which goes before that of connections: sent
   * once, when connected; null ends it. What is wrong with it is an `error` event.
   * @throws TypeError when it is none.
   */
  setStatus(status: PresenceStatus | 'invisible' | null,
    options: StatusOptions & { manual: true }): void;

  /**
   * Follows users, from the next connection on if there is none: `callback` gets each one's state
   * as soon as it is known, then every change. When the connection is lost it gets what was known
   * as `stale`; after a reconnect what the server says then, changed or not. Watches of one id
   * share what is known. Callbacks come in microtasks, never from within a call.
   *
   * `stopPresence()` keeps watches; `startPresence()` begins anew with them: what one user saw is
   * not told when another has started. Ids go out in messages of at most 3,400 bytes, as fast as the
   * limits in the server's hello allow. The server refuses a message as a whole, so who is in one
   * with a refused id is asked for again, which takes a moment longer.
   * @param onError gets each user whom the server refuses; there is an `error` event too.
   * @returns a function that ends it; whom nobody watches any more is unwatched.
   * @throws TypeError when an id cannot be.
   */
  watch(ids: string | Iterable<string>, callback: (user: PresenceUser) => void,
    onError?: (error: WatchError) => void): () => void;

  /** What is known of a user who is watched; null before that. */
  getUser(id: string): PresenceUser | null;

  /** Whether the server counts this connection now. */
  isConnected(): boolean;

  /** The user whose presence was started, connected or not; null in `idle` and `stopped`. */
  getCurrentUserId(): string | null;

  /** Everything of this moment; the same object as before when nothing has changed. */
  getSnapshot(): PresenceSnapshot;

  /** Where the client is. */
  readonly state: PresenceState;

  /** How the last connection or try ended; null before the first did. */
  readonly lastClose: PresenceClose | null;

  /**
   * Calls `listener` with what an event carries. An error in it does not disturb the client. Events
   * come in order, also when a listener starts, stops or wakes the client: what that leads to is
   * told behind what happened before.
   * @returns a function that takes the listener away.
   */
  on<K extends keyof PresenceEvents>(
    type: K, listener: (detail: PresenceEvents[K]) => void): () => void;

  addEventListener<K extends keyof PresenceEvents>(
    type: K, listener: PresenceListener<K> | null,
    options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof PresenceEvents>(
    type: K, listener: PresenceListener<K> | null,
    options?: boolean | EventListenerOptions): void;
}

/** The instance that most pages need. `configure()` it before the first `startPresence()`. */
export const presenceService: PresenceService;
