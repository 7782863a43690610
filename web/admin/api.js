// Requests to the server. Paths are relative to the page, so that it works below a prefix too.

/** How long an answer may take. */
const DEADLINE = 15000;

/** Why a request failed: `status` is 0 when there was no answer, `retryAfter` is in seconds. */
export class ApiError extends Error {
    /** With the words of the server, if it had any. */
    constructor(status, code, message, retryAfter = 0) {
        super(message);
        this.status = status;
        this.code = code;
        this.retryAfter = retryAfter;
    }
}

/** The address of a path below /admin/. */
function address(path) {
    return new URL(path, document.baseURI);
}

/**
 * The address of a user's data, `rest` behind the id. Throws for the two ids that no browser can
 * name in a path: it takes "." and ".." for folders however they are written.
 */
export function userPath(id, rest = '') {
    if (id === '.' || id === '..') {
        throw new ApiError(0, 'dots', 'A browser cannot ask for a user whose id is only dots.');
    }
    return `users/${encodeURIComponent(id)}${rest}`;
}

/** One request; the JSON of the answer, or null when it has none. Rejects with an ApiError. */
export async function request(path, { method = 'GET', body, signal } = {}) {
    const abort = new AbortController();
    const stop = () => abort.abort();
    const timer = setTimeout(stop, DEADLINE);
    signal?.addEventListener('abort', stop);
    const init = { method, cache: 'no-store', signal: abort.signal };
    if (body) {
        init.body = JSON.stringify(body);
        init.headers = { 'Content-Type': 'application/json' };
    }
    let answer;
    let text;
    try {
        answer = await fetch(address(path), init);
        text = await answer.text();
    } catch (error) {
        if (signal?.aborted) throw error;
        throw new ApiError(0, 'unreachable', 'The server does not answer.');
    } finally {
        clearTimeout(timer);
        signal?.removeEventListener('abort', stop);
    }
    let json = null;
    try {
        json = text ? JSON.parse(text) : null;
    } catch {
        if (answer.ok) throw new ApiError(answer.status, 'no_json', 'The answer is not JSON.');
    }
    if (answer.ok) return json;
    const { code = 'unknown', message = `The server answered ${answer.status}.` } =
        json?.error ?? {};
    throw new ApiError(answer.status, code, message, Number(answer.headers.get('Retry-After')));
}

/** The answer of the stream of changes, unread. */
export function openStream(init) {
    return fetch(address('events'), init);
}
