/* A small application: a form to log in or register, and a page for those who did, with their
 * friends. */

import { useState } from 'react';
import { usePresence, usePresenceStatus } from 'presence-client/react';
import { WORDS } from '../ask.js';
import { AuthProvider, useAuth } from './auth.jsx';

/** What presence is doing, for everybody to see. */
export function Indicator() {
  const { state, connected, userId, attempt, lastChange } = usePresenceStatus();
  return (
    <p role="status" data-state={state} className={connected ? 'good' : 'bad'}>
      {userId ? `${userId}: ` : ''}
      {WORDS[state]}
      {state === 'reconnecting' ? ` ${attempt}` : ''}
      {lastChange ? `, since ${new Date(lastChange).toLocaleTimeString()}` : ''}
    </p>
  );
}

/** Who of the friends is online. */
function Friends({ ids }) {
  const users = usePresence(ids);
  return (
    <ul>
      {ids.map((id) => (
        <li key={id} data-user={id}>
          {id}: {users.get(id)?.status ?? 'not known'}
        </li>
      ))}
    </ul>
  );
}

/** Name and password, for a login or a registration. */
function LoginForm() {
  const { login, register } = useAuth();
  const [error, setError] = useState('');
  /** Hands the form to `how`. */
  const submit = async (event, how) => {
    event.preventDefault();
    const form = new FormData(event.target.closest('form'));
    setError('');
    try {
      await how(form.get('name'), form.get('password'));
    } catch (problem) {
      setError(problem.message);
    }
  };
  return (
    <form onSubmit={(event) => submit(event, login)}>
      <label>
        Name <input name="name" required />
      </label>
      <label>
        Password <input name="password" type="password" required />
      </label>
      <button type="submit">Log in</button>
      <button type="button" onClick={(event) => submit(event, register)}>
        Register
      </button>
      {error ? <p role="alert">{error}</p> : null}
    </form>
  );
}

/** The form, or the page of whoever is logged in. */
function Page() {
  const { user, logout } = useAuth();
  if (user === undefined) return <p>One moment ...</p>;
  if (user === null) return <LoginForm />;
  return (
    <>
      <h1>Hello {user.id}</h1>
      <Friends ids={user.friends} />
      <button type="button" onClick={logout}>
        Log out
      </button>
    </>
  );
}

/** All of it. */
export function App() {
  return (
    <AuthProvider>
      <Page />
      <Indicator />
    </AuthProvider>
  );
}
