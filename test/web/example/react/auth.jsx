/* Who is logged in, and with it who is present: login or registration starts presence, logout stops
 * it, a reload resumes it. The session is a cookie of the application's own backend (server.js). */

import { createContext, useContext, useEffect, useMemo, useState } from 'react';
import { presenceService } from 'presence-client';
import { ask, getToken } from '../ask.js';

const AuthContext = createContext(null);

/** Tells presence where its server is, and how to get a token of whoever is logged in. Called once,
 *  before the application is rendered. */
export function configurePresence(options) {
  presenceService.configure({ getToken, ...options });
}

/** Gives everything below it `useAuth()`. */
export function AuthProvider({ children }) {
  const [user, setUser] = useState(undefined); // undefined: not known yet, null: nobody

  // after a reload the session is still there
  useEffect(() => {
    let current = true;
    ask('GET', '/session').then(
      (answer) => current && setUser(answer.user),
      () => current && setUser(null),
    );
    return () => {
      current = false;
    };
  }, []);

  // presence is on while somebody is logged in, and only then
  const id = user?.id;
  useEffect(() => {
    if (!id) return undefined;
    presenceService.startPresence(id);
    return () => presenceService.stopPresence();
  }, [id]);

  const auth = useMemo(
    () => ({
      user,
      login: async (name, password) =>
        setUser((await ask('POST', '/login', { name, password })).user),
      register: async (name, password) =>
        setUser((await ask('POST', '/register', { name, password })).user),
      logout: async () => {
        setUser(null); // offline at once, whatever becomes of the request
        await ask('POST', '/logout');
      },
    }),
    [user],
  );
  return <AuthContext.Provider value={auth}>{children}</AuthContext.Provider>;
}

/** { user, login, register, logout } of the AuthProvider above. */
export const useAuth = () => useContext(AuthContext);
