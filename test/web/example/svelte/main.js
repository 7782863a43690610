/* Starts the application in the page. */

import { mount } from 'svelte';
import { presenceService } from 'presence-client';
import { getToken } from '../ask.js';
import App from './App.svelte';

presenceService.configure({ apiUrl: document.documentElement.dataset.presence, getToken });
mount(App, { target: document.getElementById('root') });
