'use strict';
// Bundles test pages, with one of the two versions of React, or with Vue or Svelte, whose files
// their own compilers read. Only tests need this: what is shipped in web/ is used as it is.

const fs = require('node:fs');
const path = require('node:path');
const { WEB } = require('./world');

const MODULES = path.join(__dirname, '../../node_modules');

/** Reads .vue files, as Vite's plugin does: script and template as one module. */
const vue = {
  name: 'vue',
  setup(build) {
    build.onLoad({ filter: /\.vue$/ }, ({ path: file }) => {
      const { parse, compileScript } = require('vue/compiler-sfc');
      const { descriptor } = parse(fs.readFileSync(file, 'utf8'), { filename: file });
      return { contents: compileScript(descriptor, { id: path.basename(file), inlineTemplate: true }).content };
    });
  },
};

/** Reads .svelte files. */
const svelte = {
  name: 'svelte',
  setup(build) {
    build.onLoad({ filter: /\.svelte$/ }, async ({ path: file }) => {
      const { compile } = await import('svelte/compiler');
      const { js, warnings } = compile(fs.readFileSync(file, 'utf8'), { filename: file, generate: 'client' });
      return { contents: js.code, warnings: warnings.map(({ message }) => ({ text: message })) };
    });
  },
};

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
    plugins: [vue, svelte],
    alias: {
      react: path.join(MODULES, react),
      'react-dom': path.join(MODULES, dom),
      'presence-client/react': path.join(WEB, 'use-presence-status.js'),
      'presence-client': path.join(WEB, 'presence.js'),
    },
    define: {
      __VUE_OPTIONS_API__: 'false',
      __VUE_PROD_DEVTOOLS__: 'false',
      __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: 'false',
      'process.env.NODE_ENV': JSON.stringify(production ? 'production' : 'development'),
    },
    logLevel: 'silent',
  });
  if (result.warnings.length) throw new Error(result.warnings.map(({ text }) => text).join('; '));
  return result.outputFiles[0].text;
}

module.exports = { bundle };
