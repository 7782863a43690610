/* Starts the application in the page. */

import { createApp } from 'vue';
import { presenceService } from 'presence-client';
import { getToken } from '../ask.js';
import App from './App.vue';

presenceService.configure({ apiUrl: document.documentElement.dataset.presence, getToken });
createApp(App).mount('#root');
