// An option that is undefined counts as absent, because applications compute options and read them from their environment.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'node:test'
import {
  backendFromUrl,
  crossOriginProtection,
  csrfField,
  csrfToken,
  deleteCookie,
  fileSessions,
  getCookie,
  KeepsakeError,
  memorySessions,
  readForm,
  session,
  sessionManager,
  setCookie,
  sqlSessions,
  verifyCsrfToken,
} from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { fileBackend } from 'keepsake/file'
import { memoryBackend } from 'keepsake/memory'
import { copySessions, movingBackend } from 'keepsake/moving'
import { mysqlBackend } from 'keepsake/mysql'
import { postgresBackend } from 'keepsake/postgres'
import { redisBackend } from 'keepsake/redis'
import { logger, serve } from 'keepsake/serve'
import { clearHeaders, generate, ofHeaderOrCreate, ofKey, set, toCookieHeaders } from 'keepsake/session'
import { sqliteBackend } from 'keepsake/sqlite'
import { browser } from 'keepsake/testing'
import { folder } from '../support/folder.ts'

const root = resolve(import.meta.dirname, '../..')
const SECRET = 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE'

const nothing = <Name extends string>(...names: Name[]) =>
  Object.fromEntries(names.map((name) => [name, undefined])) as { readonly [N in Name]: undefined }

const place = nothing('domain', 'path', 'httpOnly')
const attributes = { ...place, ...nothing('sameSite', 'partitioned', 'priority') }
const application = {
  ...nothing('secret', 'idleTimeout', 'absoluteTimeout', 'namespace', 'maxBytes', 'storeTimeout', 'schema', 'migrate'),
  ...nothing('maxSessionsPerOwner', 'lastSeenInterval', 'onStoreError', 'autoSweep', 'maxInFlight', 'now', 'onEvent'),
  ...nothing('cookie', 'secure', 'trustProxy', 'persistent'),
}
const random = /=[^;]{22,}|-[0-9a-f]{32}/g

test('sessionManager() with undefined options sends the same cookies as without them', async () => {
  const cookies = nothing('name', 'domain', 'path', 'sameSite', 'partitioned', 'priority')
  const lines: string[] = []
  for (const options of [{}, application, { ...application, cookie: cookies }]) {
    const manager = sessionManager({ ...options, backend: 'memory:' })
    const handler = manager(async (request) => {
      const s = await session(request)
      s.login('anna', nothing('keep', 'idleTimeout', 'absoluteTimeout', 'persistent'))
      return new Response()
    })
    const response = await handler(new Request('https://app.test/'))
    lines.push(response.headers.getSetCookie().join().replaceAll(random, '='))
    assert.equal(await manager.revokeAll('anna', { except: undefined }), 1)
    assert.equal((await manager.open({ headers: new Headers(), url: undefined })).owner, undefined)
  }
  assert.match(lines[0] ?? '', /^__Host-Http-sid=/)
  assert.deepEqual(lines, Array(3).fill(lines[0]))
})

test('the short forms accept undefined options', async (t) => {
  const before = process.cwd()
  process.chdir(folder(t))
  t.after(() => process.chdir(before))
  for (const short of [memorySessions, sqlSessions, fileSessions]) {
    const handler = short(async (request) => Response.json((await session(request)).fields), {
      ...application,
      backend: undefined,
    } as object)
    assert.equal((await handler(new Request('https://app.test/'))).status, 200)
    await handler.close?.()
  }
})

test('cookies, forms, loggers, servers and browsers accept undefined options', async (t) => {
  const manager = sessionManager({ backend: 'memory:' })
  const handler = manager(
    crossOriginProtection(
      async (request) => {
        if (request.method === 'POST') {
          const options = nothing('action', 'csrf', 'maxBytes', 'maxFields', 'maxFileBytes', 'upload')
          return Response.json({ ok: (await readForm(request, undefined, options)).ok })
        }
        const token = await csrfToken(request, nothing('validFor', 'action'))
        assert.ok((await verifyCsrfToken(request, token, nothing('action'))).ok)
        assert.match(await csrfField(request, nothing('validFor', 'action')).then(String), /./)
        assert.equal(await getCookie(request, 'a', { ...place, sealed: undefined }), undefined)
        const own = { ...attributes, ...nothing('sealed', 'maxAge') }
        const response = await setCookie(Response.json({ token }), request, 'a', 'b', own)
        return deleteCookie(response, request, 'b', place)
      },
      nothing('origins', 'onEvent'),
    ),
  )
  const running = await serve(logger(handler, nothing('write')), { port: 0, hostname: undefined })
  t.after(() => running.close())
  const visit = browser(handler, nothing('origin', 'now'))
  const response = await visit('/')
  const { token } = await response.json()
  assert.equal(visit.cookies.size, 2)
  const answer = await visit('/', { method: 'POST', body: new URLSearchParams({ _csrf: token }) })
  assert.deepEqual(await answer.json(), { ok: true })
})

test('backends, and the functions that move sessions between them, accept undefined options', async (t) => {
  const path = folder(t)
  const of = nothing('now', 'onEvent', 'secret', 'namespace', 'absoluteTimeout')
  const memory = memoryBackend(nothing('maxEntries', 'maxBytes', 'now', 'onEvent'))
  const file = fileBackend(join(path, 'files'), nothing('durability', 'onEvent'))
  const sqlite = sqliteBackend(join(path, 'a.db'), nothing('durability'))
  const url = await backendFromUrl('sqlite::memory:', of)
  const query = async () => ({ rows: [] })
  postgresBackend({ query }, nothing('table', 'prepare'))
  mysqlBackend({ execute: async () => [[], []] as const }, nothing('table'))
  redisBackend({ sendCommand: async () => null } as never, nothing('prefix', 'waitReplicas', 'waitTimeout', 'now'))
  cookieBackend({ ...nothing('namespace', 'ends', 'absoluteTimeout', 'now'), secret: SECRET })
  await copySessions(memory, sqlite, nothing('onProgress', 'cursor', 'batch', 'now'))
  movingBackend(memory, sqlite, nothing('startsAt', 'now'))
  for (const backend of [memory, file, sqlite, url]) {
    const made = await generate(backend, { a: 1 }, nothing('now', 'expiry'))
    assert.ok((await ofKey(backend, made.key, nothing('now'))).ok)
    assert.ok((await set(backend, made, nothing('now', 'expiry', 'value'))).ok)
    const headers = new Headers({ cookie: `sid=${made.key}` })
    const found = await ofHeaderOrCreate(backend, 'sid', { a: 2 }, headers, nothing('now', 'expiry'))
    assert.deepEqual(found.value, { a: 1 })
    const line = { ...attributes, ...nothing('secure', 'discard') }
    assert.deepEqual(toCookieHeaders('sid', made, line), toCookieHeaders('sid', made))
    assert.deepEqual(clearHeaders('sid', attributes), clearHeaders('sid'))
    await backend.close?.()
  }
})

test('test/types checks undefined options for every type of options', () => {
  const asked = readFileSync(join(root, 'test/types/application.ts'), 'utf8')
  const files = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.ts$/.test(name),
  )
  const types = files.flatMap((file) =>
    [...readFileSync(join(root, 'src', file), 'utf8').matchAll(/^export type (\w+Options)\b/gm)].map(
      ([, name]) => name,
    ),
  )
  assert.ok(types.length > 20)
  // These two are not exported: a part of SessionManagerOptions, and the options after their check.
  const internal = ['TransportOptions', 'CheckedOptions']
  const unasked = types.filter((name) => !internal.includes(name as string) && !asked.includes(`Undefinable<${name}>`))
  assert.deepEqual(unasked, [])
})

test('an unknown option is refused by every function that has options', async (t) => {
  const backend = memoryBackend()
  const wrong = { unheardOf: 1 } as never
  const handler = () => new Response()
  const calls: Record<string, () => unknown> = {
    sessionManager: () => sessionManager({ backend: 'memory:', ...(wrong as object) }),
    memorySessions: () => memorySessions(handler, wrong),
    sqlSessions: () => sqlSessions(handler, wrong),
    fileSessions: () => fileSessions(handler, wrong),
    backendFromUrl: () => backendFromUrl('memory:', wrong),
    memoryBackend: () => memoryBackend(wrong),
    sqliteBackend: () => sqliteBackend(':memory:', wrong),
    fileBackend: () => fileBackend(join(folder(t), 'sessions'), wrong),
    cookieBackend: () => cookieBackend({ secret: SECRET, ...(wrong as object) }),
    redisBackend: () => redisBackend({ sendCommand: async () => null, isOpen: true } as never, wrong),
    postgresBackend: () => postgresBackend({ query: async () => ({ rows: [] }) } as never, wrong),
    mysqlBackend: () => mysqlBackend({ execute: async () => [[]] } as never, wrong),
    movingBackend: () => movingBackend(backend, memoryBackend(), wrong),
    copySessions: () => copySessions(backend, memoryBackend(), wrong),
    generate: () => generate(backend, 1, wrong),
    ofKey: () => ofKey(backend, 'A'.repeat(43), wrong),
    ofHeaderOrCreate: () => ofHeaderOrCreate(backend, 'sid', 1, new Headers(), wrong),
    set: async () => set(backend, await generate(backend, 1), wrong),
    toCookieHeaders: async () => toCookieHeaders('sid', await generate(backend, 1), wrong),
    clearHeaders: () => clearHeaders('sid', wrong),
    crossOriginProtection: () => crossOriginProtection(handler, wrong),
    logger: () => logger(handler, wrong),
    serve: () => serve(handler, wrong),
    browser: () => browser(handler, wrong),
  }
  const inRequest: Record<string, (request: Request) => unknown> = {
    session: (request) => session(request, wrong),
    login: async (request) => (await session(request)).login('anna', wrong),
    csrfToken: (request) => csrfToken(request, wrong),
    csrfField: (request) => csrfField(request, wrong),
    verifyCsrfToken: (request) => verifyCsrfToken(request, 'token', wrong),
    readForm: (request) => readForm(request, undefined, wrong),
    getCookie: (request) => getCookie(request, 'theme', wrong),
    setCookie: (request) => setCookie(new Response(), request, 'theme', 'dark', wrong),
    deleteCookie: (request) => deleteCookie(new Response(), request, 'theme', wrong),
  }
  for (const [name, call] of Object.entries(inRequest)) {
    calls[name] = () =>
      memorySessions(async (request) => {
        await call(request)
        return new Response()
      })(new Request('https://app.test/'))
  }
  for (const [name, call] of Object.entries(calls)) {
    await assert.rejects(
      async () => call(),
      (error) =>
        error instanceof KeepsakeError && error.code === 'invalid_option' && error.message.includes('unheardOf'),
      name,
    )
  }
})
