'use strict';
require('./lib/react').testReact('react18');
