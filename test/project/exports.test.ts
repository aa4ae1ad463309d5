// The public names of each subpath. A new name must be added here too.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'node:test'

const root = resolve(import.meta.dirname, '../..')
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

const names: Record<string, readonly string[]> = {
  keepsake: [
    'KeepsakeError',
    'addFlash',
    'backendFromUrl',
    'cookieSessions',
    'crossOriginProtection',
    'csrfField',
    'csrfTag',
    'csrfToken',
    'deleteCookie',
    'fileSessions',
    'getCookie',
    'memorySessions',
    'readForm',
    'seal',
    'session',
    'sessionManager',
    'setCookie',
    'sqlSessions',
    'takeFlash',
    'unseal',
    'verifyCsrfToken',
  ],
  'keepsake/astro': ['forAstro'],
  'keepsake/cookie': ['cookieBackend'],
  'keepsake/elysia': ['forElysia'],
  'keepsake/express': ['forExpress'],
  'keepsake/fastify': ['forFastify'],
  'keepsake/file': ['fileBackend'],
  'keepsake/h3': ['forH3'],
  'keepsake/hono': ['forHono'],
  'keepsake/koa': ['forKoa'],
  'keepsake/memory': ['memoryBackend'],
  'keepsake/moving': ['copySessions', 'movingBackend'],
  'keepsake/mysql': ['connectMysql', 'mysqlBackend'],
  'keepsake/nest': ['forNest'],
  'keepsake/next': ['forNext'],
  'keepsake/node': ['forNode'],
  'keepsake/nuxt': ['forNuxt'],
  'keepsake/postgres': ['connectPostgres', 'postgresBackend'],
  'keepsake/react-router': ['createSessionStorage', 'forReactRouter', 'sessionContext'],
  'keepsake/redis': ['connectRedis', 'redisBackend'],
  'keepsake/serve': ['logger', 'serve'],
  'keepsake/session': [
    'clear',
    'clearHeaders',
    'generate',
    'ofHeader',
    'ofHeaderOrCreate',
    'ofKey',
    'set',
    'toCookieHeaders',
  ],
  'keepsake/sqlite': ['sqliteBackend'],
  'keepsake/sveltekit': ['forSvelteKit'],
  'keepsake/testing': ['adapterCases', 'backendCases', 'browser'],
}

for (const [path, expected] of Object.entries(names)) {
  test(`${path} exports exactly these names`, async () => {
    assert.deepEqual(Object.keys(await import(path)).sort(), [...expected].sort())
  })
}

test('package.json has exactly these subpaths', () => {
  const paths = Object.keys(manifest.exports).filter((path) => path !== './package.json')
  assert.deepEqual(paths.map((path) => path.replace('.', 'keepsake')).sort(), Object.keys(names).sort())
})

test('there is one runtime dependency', () => {
  assert.deepEqual(Object.keys(manifest.dependencies), ['@fastify/busboy'])
})
