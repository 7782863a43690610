/* Starts the application in the page. */

import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { App } from './app.jsx';
import { configurePresence } from './auth.jsx';

configurePresence({ apiUrl: document.documentElement.dataset.presence });
createRoot(document.getElementById('root')).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
