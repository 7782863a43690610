'use strict';
// Bundles test pages, with one of the two versions of React. Only tests need this: what is shipped
// in web/ is used as it is.

const path = require('node:path');
const { WEB } = require('./world');

const MODULES = path.join(__dirname, '../../node_modules');

/** The bundle of a file (or of `source`, as text) as text. `react` is react18 or react19; `node` is
 *  true for what node runs, and then the result is CommonJS. */
async function bundle(file, { react = 'react19', source, node = false, production = false } = {}) {
  const dom = react.replace('react', 'react-dom');
  const result = await require('esbuild').build({
    ...(source === undefined
      ? { entryPoints: [file] }
      : {
          stdin: {
            contents: source,
            resolveDir: path.dirname(file),
            sourcefile: file,
            loader: 'jsx',
          },
        }),
    bundle: true,
    write: false,
    format: node ? 'cjs' : 'esm',
    platform: node ? 'node' : 'browser',
    target: 'es2022',
    jsx: 'automatic',
    jsxDev: false,
    nodePaths: [MODULES],
    alias: {
      react: path.join(MODULES, react),
      'react-dom': path.join(MODULES, dom),
      'presence-client/react': path.join(WEB, 'use-presence-status.js'),
      'presence-client': path.join(WEB, 'presence.js'),
    },
    define: { 'process.env.NODE_ENV': JSON.stringify(production ? 'production' : 'development') },
    logLevel: 'silent',
  });
  return result.outputFiles[0].text;
}

module.exports = { bundle };
