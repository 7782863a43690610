/* One request to the application's own backend (server.js): the JSON of the answer, or an Error with
 * its text. */
export async function ask(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: { 'Content-Type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/** What presence needs of the application: a token of whoever is logged in. */
export const getToken = async () => (await ask('POST', '/token')).token;

/** The states of presence in words. */
export const WORDS = {
  idle: 'not started',
  connecting: 'connecting',
  connected: 'online',
  reconnecting: 'connection lost, try',
  suspended: 'no connection; still trying, but slowly',
  stopped: 'not present',
};
