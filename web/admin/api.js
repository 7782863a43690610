// SPDX-License-Identifier: MIT
// Requests to the server. Paths are relative to the page, so that it works below a prefix too.

const DEADLINE = 15000; // ms that an answer may take
let ahead = 0; // ms that the server's clock is ahead of this one's
let token = ''; // of an admin, where there is no password; a cookie does it otherwise
let refused = () => {}; // called at a 401

export const setToken = (text) => { token = text; };
export const onRefused = (work) => { refused = work; };

// Ms by a clock that nobody sets, unlike Date's.
export const steady = () => performance.timeOrigin + performance.now();

// The time by the server's clock.
export const atServer = () => steady() + ahead;

// `status` is 0 when there was no answer, `retryAfter` is in seconds.
const failure = (status, message, retryAfter = 0) =>
  Object.assign(new Error(message), { status, retryAfter });

// Throws for "." and "..", which browsers take for folders always.
export function userPath(id, rest = '') {
  if (/^\.\.?$/.test(id)) throw failure(0, 'a browser cannot ask for an id that is only dots');
  return `users/${encodeURIComponent(id)}${rest}`;
}

const open = (path, init) => fetch(new URL(path, document.baseURI), { cache: 'no-store', ...init,
  headers: token ? { ...init.headers, Authorization: `Bearer ${token}` } : init.headers });

export const openStream = (init) => open('events', init);

// The JSON of the answer, or null when it has none. Rejects with a failure.
export async function request(path, { method = 'GET', body, signal } = {}) {
  const signals = [signal, AbortSignal.timeout(DEADLINE)].filter(Boolean);
  const init = { method, signal: AbortSignal.any(signals),
    ...(body && { body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } }) };
  const began = steady();
  let answer;
  let text;
  try {
    answer = await open(path, init);
    text = await answer.text();
  } catch {
    throw failure(0, 'the server does not answer');
  }
  let json = null;
  try {
    if (text) json = JSON.parse(text);
  } catch {
    if (answer.ok) throw failure(answer.status, 'the answer is not JSON');
  }
  const at = Date.parse(json?.generated_at);
  if (at) ahead = Math.min(0, at - began) || Math.max(0, at - steady());
  if (answer.ok) return json;
  if (answer.status === 401) refused();
  throw failure(answer.status, json?.error?.message ?? `the server answered ${answer.status}`,
    Number(answer.headers.get('Retry-After')));
}
