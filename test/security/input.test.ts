// Every case of bad-inputs.json through the middleware: it gives an anonymous request, and never an error.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { inspect } from 'node:util'
import {
  type Backend,
  backendFromUrl,
  KeepsakeError,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { hashKey } from '../../src/crypto/keys.ts'
import { keyRing } from '../../src/crypto/seal.ts'
import { workOf } from '../../src/request.ts'
import { formSecret } from '../../src/session/form-secret.ts'
import bad from '../data/bad-inputs.json' with { type: 'json' }
import { clock, DAY, PATIENT } from '../support/clock.ts'
import { folder } from '../support/folder.ts'
import {
  expand,
  guardPrototypes,
  isKeyText,
  keysIn,
  NAME,
  OTHER_SECRET,
  PRE,
  rawRequest,
  realRequest,
  SECRET,
  type Site,
  startSite,
} from '../support/requests.ts'
import { ratio } from '../support/spent.ts'
import { setup } from '../support/visits.ts'

const clean = guardPrototypes()

type Case = {
  readonly name: string
  readonly kind: string
  readonly value: unknown
  readonly expected: Record<string, unknown>
}

/** The requirement of a kind of case. For a configuration the wrong option decides. */
const requirements: Record<string, string | ((one: Case) => string)> = {
  'cookie-header': 'CP-1',
  'session-id': 'ID-2',
  'sealed-token': 'PRE-2',
  'store-record': 'DES-2',
  payload: 'DES-3',
  header: 'ID-7',
  url: 'ID-7',
  config: ({ name }) =>
    /timeout/i.test(name)
      ? 'LIFE-11'
      : /secret|backend/.test(name)
        ? 'SEC-1'
        : /prefix|__H/.test(name)
          ? 'CK-2'
          : 'CK-3',
  time: 'LIFE-12',
}

const testEach = (kind: string, run: (one: Case, t: TestContext) => Promise<void>) => {
  const cases = (bad.cases as readonly Case[]).filter((one) => one.kind === kind)
  suite(`${kind}: ${cases.length} cases`, () => {
    for (const one of cases) {
      const requirement = requirements[kind] as string | ((one: Case) => string)
      test(`${typeof requirement === 'string' ? requirement : requirement(one)}: ${one.name}`, async (t) => {
        await run(one, t)
        assert.ok(clean(), 'the prototypes of this process are unchanged')
      })
    }
  })
}

const swapCase = (text: string) =>
  text.replace(/[a-z]/gi, (letter) => (letter < 'a' ? letter.toLowerCase() : letter.toUpperCase()))

const unknownKey = (first: string) => `${first}${'x'.repeat(41)}A`

/** Creates two sessions. `text` replaces the words of the file, such as `$VALID`, by their keys. */
const fillIn = async (s: Site) => {
  const [one, two] = [await s.createSession('one'), await s.createSession('two')]
  const words: Record<string, string> = {
    $VALID_A: one,
    $VALID_B: two,
    $UNKNOWN_2: unknownKey('2'),
    $UNKNOWN_3: unknownKey('3'),
    $UNKNOWN_4: unknownKey('4'),
    $UNKNOWN: unknownKey('1'),
    $SWAPPED: swapCase(one),
    $STORAGE_KEY: s.storageKey(one),
    $LABEL_OTHER_SECRET: `${one.slice(0, 12)}${'x'.repeat(30)}A`,
    $LABEL: one.slice(0, 12),
    $DIGEST: hashKey(one),
    $VALID: one,
  }
  const text = (template: string) => {
    let filled = template
    for (const [word, value] of Object.entries(words)) filled = filled.replaceAll(word, value)
    return filled
  }
  s.newEvents()
  return { text, one, two }
}

/** Sends a request and checks the result: the session, the number of reads, and the event. */
const check = async (s: Site, request: Request, { expected }: Case, reads?: number) => {
  const before = s.total()
  const gets = s.calls.get
  const { response, who, fields } = await s.send(request)
  assert.equal(response.status, 200)
  assert.equal(who, expected.opens === null ? undefined : 'one')
  assert.deepEqual(fields, expected.opens === null ? [] : ['who'])
  assert.deepEqual(response.headers.getSetCookie(), [], 'no cookie is set or cleared')
  assert.equal(s.calls.get - gets, s.total() - before, 'the backend is only read')
  assert.equal(s.calls.get - gets, expected.gets ?? reads, 'reads of the backend')
  if (reads !== undefined) assert.equal(s.calls.get - gets, reads, 'one read for each possible key')
  const news = s.newEvents()
  if (typeof expected.event === 'string') assert.ok(news.includes(expected.event as never), `${news}`)
  else
    assert.deepEqual(
      news.filter((type) => !['plain_cookie', 'unknown_key'].includes(type)),
      [],
    )
  if (typeof expected.times === 'number') {
    const times = await ratio(
      () => s.send(request),
      () => s.send(rawRequest('a=1')),
    )
    assert.ok(times < expected.times, `${times} times as long as an ordinary request`)
  }
}

testEach('cookie-header', async (one) => {
  const s = await startSite()
  const { text } = await fillIn(s)
  const url = (one.expected.url as string | undefined) ?? 'https://app.test/'
  const header = text(expand(one.value))
  const reads = keysIn(header, url.startsWith('https') ? NAME : 'sid-3000').length
  // One request to compile the code, because the next one may be measured.
  await s.send(rawRequest(header, url))
  s.newEvents()
  await check(s, rawRequest(header, url, { host: new URL(url).host }), one, reads)
  const real = realRequest(header, url)
  if (real) await check(s, real, one, reads)
})

testEach('session-id', async (one, t) => {
  const raw = (one.value as { $raw?: unknown } | null)?.$raw
  if (raw === undefined && !Object.hasOwn(Object(one.value), '$raw')) {
    const s = await startSite()
    const { text } = await fillIn(s)
    const header = `${NAME}=${text(expand(one.value))}`
    await check(s, rawRequest(header), one, keysIn(header).length)
    const real = realRequest(header)
    if (real) await check(s, real, one, keysIn(header).length)
    return
  }
  // No request leads to a key that is not a string. A backend must not find an entry for such a key either.
  const path = `${folder(t)}/sessions.db`
  for (const url of ['memory:', `sqlite:${path}`]) {
    const backend = await backendFromUrl(url)
    const s = await startSite(backend)
    await s.createSession('one')
    let entry: unknown
    try {
      entry = await backend.get(raw as string)
    } catch (error) {
      assert.ok(error instanceof TypeError)
    }
    assert.equal(entry, undefined, url)
    assert.equal(await s.createSession('two').then(isKeyText), true, 'the backend still works')
    await backend.close?.()
  }
})

const CREATED_AT = clock()()

type Change = {
  readonly set?: readonly [number, number]
  readonly flip?: readonly [number, number]
  readonly cut?: number
  readonly keep?: number
  readonly append?: string
  readonly insert?: readonly [number, string]
  readonly alphabet?: 'base64'
  readonly upper?: true
  readonly name?: string
  readonly purpose?: string
  readonly audience?: string
  readonly secret?: string
  readonly age?: number
  readonly plain?: string
}

const FORM = 'AbCdEfGhIjKlMnOpQrStUv'

const sealToken = (change: Change): string => {
  const {
    name = PRE,
    purpose = 'pre-session',
    audience = 'sid',
    age = 0,
    set,
    flip,
    cut,
    keep,
    append,
    insert,
  } = change
  const keys = keyRing([change.secret === undefined ? SECRET : OTHER_SECRET])
  const plain = Buffer.from(change.plain ?? JSON.stringify({ form: FORM, at: CREATED_AT - age }), 'latin1')
  const context = { purpose, name, audience }
  let token = keys.seal(context, plain)
  // Seal until the token has a character that differs between the two alphabets.
  while (change.alphabet && !/[-_]/.test(token)) token = keys.seal(context, plain)
  const bytes = Buffer.from(token, 'base64url')
  const position = (i: number) => (i < 0 ? bytes.length + i : i)
  if (set) bytes[position(set[0])] = set[1]
  if (flip) bytes.writeUInt8(bytes.readUInt8(position(flip[0])) ^ (1 << flip[1]), position(flip[0]))
  let text = bytes.subarray(0, keep ?? bytes.length - (cut ?? 0)).toString(change.alphabet ?? 'base64url')
  if (insert) text = text.slice(0, insert[0]) + insert[1] + text.slice(insert[0])
  if (change.upper) text = text.toUpperCase()
  return text + (append ?? '')
}

testEach('sealed-token', async ({ value, expected }) => {
  const change = (value as { $token?: Change }).$token
  const token = change ? sealToken(change) : expand(value)
  const s = await startSite()
  const header = `a=b; ${PRE}=${token}`
  for (const request of [rawRequest(header), realRequest(header)]) {
    if (request === undefined) continue
    const read = await s.send(request)
    assert.equal(read.response.status, 200)
    assert.deepEqual(read.response.headers.getSetCookie(), [], 'a request without a form gets no cookie')
    assert.deepEqual(s.newEvents(), [])
  }
  for (const request of [rawRequest(header), realRequest(header)]) {
    if (request === undefined) continue
    const { response, form } = await s.send(request, 'form')
    assert.equal(response.status, 200)
    assert.equal(form === FORM, expected.opens, 'the form secret of the token is used only if the token opens')
    assert.match(form ?? '', /^[\w-]{22}$/)
    const news = s.newEvents()
    // A value longer than any cookie is not read, so there is no event.
    const unread = token === '' || token.length > 4096
    assert.deepEqual(news, expected.opens || unread ? [] : ['invalid_pre_session'])
    if (!expected.opens)
      assert.match(response.headers.getSetCookie()[0] ?? '', new RegExp(`^${PRE}=[\\w-]{90,}; Max-Age`))
  }
  // The token opens nothing as a session.
  const asSession = await s.send(rawRequest(`${NAME}=${token}`))
  assert.deepEqual([asSession.response.status, asSession.fields, s.total()], [200, [], 0])
})

type RecordValue = {
  readonly $metadata?: string
  readonly $metadataAfter?: string
  readonly $expiresAt?: string | null
  readonly $entry?: string
}

testEach('store-record', async ({ value, expected }) => {
  const memory = await backendFromUrl('memory:')
  const s = await startSite(memory)
  const [one, two] = [await s.createSession('one'), await s.createSession('two')]
  const storageKey = s.storageKey(one)
  const good = await memory.get(storageKey)
  const other = await memory.get(s.storageKey(two))
  assert.ok(good && other)
  const special: RecordValue = typeof value === 'object' && value !== null ? (value as RecordValue) : {}
  const oddities: Record<string, unknown> = { NaN: Number.NaN, Infinity: Number.POSITIVE_INFINITY, never: 'never' }
  const record = {
    ...good,
    ...(special.$entry && other),
    ...(special.$metadata !== undefined && { metadata: special.$metadata }),
    ...(special.$metadataAfter !== undefined && { metadata: good.metadata + special.$metadataAfter }),
    ...(special.$expiresAt !== undefined && { expiresAt: oddities[special.$expiresAt ?? ''] as number }),
  }
  const isValue = typeof value === 'string' || Object.hasOwn(Object(value), '$repeat')
  if (isValue) record.value = expand(value)
  record.version = 'planted1'
  await memory.clear(storageKey)
  await memory.generate(storageKey, record)
  s.newEvents()
  for (let times = 0; times < 2; times++) {
    const { response, fields } = await s.send(rawRequest(`${NAME}=${one}`))
    assert.equal(response.status, 200)
    assert.deepEqual(response.headers.getSetCookie(), [])
    assert.deepEqual(fields, expected.opens ? expected.fields : [])
    assert.deepEqual(s.newEvents(), expected.event ? [expected.event] : [], 'one event for each request')
    assert.equal((await memory.get(storageKey))?.version, 'planted1', 'the entry is left unchanged')
  }
  // A write with this key goes to the session if it opens, and to a new session otherwise.
  const visit = s.visitor()
  const written = await visit.raw((own) => own.set('b', 1), { headers: { cookie: `${NAME}=${one}` } })
  assert.equal(written.status, 200)
  const [cookie] = written.headers.getSetCookie()
  assert.equal(cookie === undefined, expected.opens)
  const after = await memory.get(storageKey)
  // A backend keeps the expiry as a number: any other value comes back as NaN.
  const kept = after && { ...after, expiresAt: Number(record.expiresAt) }
  if (!expected.opens) assert.deepEqual(kept, { ...record, expiresAt: Number(record.expiresAt) })
  else
    assert.deepEqual(Object.keys(JSON.parse(after?.value ?? '')).sort(), [...(expected.fields as string[]), 'b'].sort())
})

const nested = (depth: number, wrap: (inner: unknown) => unknown): unknown => {
  let value: unknown = 1
  for (let i = 0; i < depth; i++) value = wrap(value)
  return value
}

/** Values that JSON cannot contain. */
const makers: Record<string, () => unknown> = {
  bigint: () => 10n,
  circle: () => {
    const circle: Record<string, unknown> = {}
    circle.self = circle
    return circle
  },
  function: () => () => 1,
  symbol: () => Symbol('x'),
  'symbol key': () => ({ [Symbol('x')]: 1 }),
  date: () => new Date(0),
  map: () => new Map([['a', 1]]),
  regexp: () => /x/,
  toJSON: () => ({ toJSON: () => 'x' }),
  nan: () => Number.NaN,
  infinity: () => Number.POSITIVE_INFINITY,
  'nan within': () => [1, Number.NaN],
  undefined: () => undefined,
  hole: () => new Array(3),
  promise: () => Promise.resolve(1),
  proxy: () => new Proxy(new Date(0), {}),
  'deep array': () => nested(100_000, (inner) => [inner]),
  'deep object': () => nested(100_000, (inner) => ({ inner })),
  '65 deep': () => nested(65, (inner) => [inner]),
  '64 deep': () => nested(64, (inner) => [inner]),
  'own __proto__': () => JSON.parse('{"__proto__":{"admin":true}}'),
  'at the limit': () => 'x'.repeat(65_536 - '{"who":"one","p":""}'.length),
  'over the limit': () => 'x'.repeat(65_537 - '{"who":"one","p":""}'.length),
  'a million fields': () => Object.fromEntries(Array.from({ length: 1_000_000 }, (_, i) => [`f${i}`, 1])),
  '31 bytes': () => new Uint8Array(31).map((_, i) => i * 7),
  '32 equal bytes': () => new Uint8Array(32).fill(7),
  'secret twice': () => [SECRET, SECRET],
  'secret in two spellings': () => [SECRET, Buffer.from(SECRET, 'base64url')],
  'good and short': () => [SECRET, 'abc'],
}

const buildValue = (value: unknown): unknown => {
  const make = (value as { $make?: string } | null)?.$make
  if (make !== undefined) return (makers[make] as () => unknown)()
  return Object.hasOwn(Object(value), '$repeat') ? expand(value) : value
}

testEach('payload', async ({ name, value, expected }, t) => {
  const path = `${folder(t)}/sessions.db`
  for (const url of ['memory:', `sqlite:${path}`]) {
    // Copying a million fields takes seconds, and they are refused before any backend call.
    if (name === 'a million fields' && url !== 'memory:') continue
    const backend = await backendFromUrl(url)
    const s = await startSite(backend)
    const one = await s.createSession('one')
    const before = await backend.get(s.storageKey(one))
    const payload = buildValue(value)
    const visit = s.visitor()
    let thrown: unknown
    const response = await visit.raw(
      (own) => {
        try {
          own.set('p', payload)
        } catch (error) {
          thrown = error
        }
      },
      { headers: { cookie: `${NAME}=${one}` } },
    )
    const after = await backend.get(s.storageKey(one))
    assert.deepEqual(response.headers.getSetCookie(), [])
    if (expected.error === 'not_json') {
      assert.ok(thrown instanceof KeepsakeError && thrown.code === 'not_json', `${inspect(thrown)}`)
      assert.match(thrown.message, /^p\b/, 'the message has the path')
      assert.equal(response.status, 200)
      assert.deepEqual(after, before)
    } else if (expected.error === 'too_large') {
      assert.equal(response.status, 500)
      const last = s.events.at(-1) as { error?: KeepsakeError }
      assert.equal(last.error?.code, 'too_large')
      assert.deepEqual(after, before, 'the stored session stays')
    } else {
      assert.equal(response.status, 200, `${inspect(thrown)}`)
      const stored = JSON.parse(after?.value ?? '').p
      // JSON has no minus zero, so either zero is right.
      if (name === 'minus zero') assert.equal(stored === 0, true)
      else assert.equal(JSON.stringify(stored), JSON.stringify(payload))
    }
    await backend.close?.()
  }
})

testEach('header', async (one) => {
  const s = await startSite()
  const { text } = await fillIn(s)
  const more = Object.fromEntries(Object.entries(one.value as object).map(([name, value]) => [name, text(value)]))
  await check(s, rawRequest(undefined, undefined, more), one)
  await check(s, new Request('https://app.test/', { headers: more }), one)
})

testEach('url', async (one) => {
  const s = await startSite()
  const { text } = await fillIn(s)
  await check(s, rawRequest(undefined, text(one.value as string)), one)
  await check(s, new Request(text(one.value as string)), one)
})

testEach('config', async ({ value, expected }) => {
  const { keepSecret: _, ...without } = await backendFromUrl('memory:')
  const options: Record<string, unknown> = { backend: 'memory:' }
  for (const [name, given] of Object.entries(value as object)) {
    const backendWithout = name === 'backend' && typeof given === 'object'
    options[name] = backendWithout ? without : buildValue(given)
  }
  const construct = () => sessionManager(options as SessionManagerOptions)
  if (expected.accepted) return void construct()
  // While a build loads the application, the secret may be missing, so ready() throws and not the constructor.
  const start = expected.error === 'no_secret' ? () => construct().ready() : async () => construct()
  await assert.rejects(start, (error) => {
    assert.ok(error instanceof KeepsakeError, `${inspect(error)} is a KeepsakeError`)
    assert.equal(error.code, expected.error)
    // A message is one line of a log and contains no password.
    assert.ok(!['\r', '\n', '\u001b', 'hunter2', 'complex_password'].some((text) => error.message.includes(text)))
    return true
  })
})

type Time = {
  readonly $clock?: number | readonly number[]
  readonly $at?: number
  readonly $idleTimeout?: number
  readonly $tz?: string
}

const formPage = (backend: Backend, now: () => number, more: Partial<SessionManagerOptions> = {}) =>
  sessionManager({ backend, storeTimeout: PATIENT, now, secret: SECRET, ...more })(async (request) => {
    const s = await session(request)
    const who = s.get('who')
    if (request.url.endsWith('/set')) s.set('who', 'one')
    return Response.json({ who, form: formSecret(await workOf(request)) })
  })

testEach('time', async ({ value, expected }, t) => {
  const { $clock, $at, $idleTimeout, $tz } = value as Time
  const path = `${folder(t)}/sessions.db`
  const zone = process.env.TZ
  if ($tz) process.env.TZ = $tz
  try {
    for (const url of ['memory:', `sqlite:${path}`]) {
      const now = clock($at)
      const backend = await backendFromUrl(url, { now })
      const more = $idleTimeout
        ? { idleTimeout: $idleTimeout, absoluteTimeout: Math.max($idleTimeout, 30 * 86_400) }
        : {}
      if (expected.longestTimer !== undefined) {
        const [timeout, interval] = [globalThis.setTimeout, globalThis.setInterval]
        const delays: number[] = []
        const spied = (real: typeof setTimeout) =>
          ((act: () => void, delay = 0) => {
            delays.push(delay)
            return real(act, delay)
          }) as typeof setTimeout
        globalThis.setTimeout = spied(timeout)
        globalThis.setInterval = spied(interval as never) as never
        try {
          const h = await setup({ backend, ...more, storeTimeout: 3600 })
          h.hold('generate').go()
          await h.visitor()((s) => s.set('a', 1))
        } finally {
          globalThis.setTimeout = timeout
          globalThis.setInterval = interval
        }
        assert.ok(delays.length > 0, 'a timer was started')
        assert.ok(Math.max(...delays) <= (expected.longestTimer as number))
        await backend.close?.()
        continue
      }
      const page = formPage(backend, now, more)
      const created = await page(new Request('https://app.test/set'))
      assert.equal(created.status, 200)
      const [cookie = ''] = created.headers.getSetCookie()
      assert.match(cookie, /; Max-Age=\d+; /)
      const ask = async () => {
        const request = new Request('https://app.test/', { headers: { cookie: cookie.split(';')[0] as string } })
        return ((await (await page(request)).json()) as { who?: string }).who
      }
      const steps = [$clock ?? 0].flat()
      if (typeof expected.extra === 'number') {
        now.tick(steps[0] as number)
        let lived = 0
        for (; (await ask()) === 'one' && lived < 40 * DAY; lived += DAY / 2) now.tick(DAY / 2)
        assert.ok(lived <= 30 * DAY + expected.extra + DAY / 2, `${lived}`)
        assert.equal(await ask(), undefined)
      } else {
        let alive: unknown
        for (const step of steps) {
          now.tick(step)
          alive = await ask()
        }
        assert.equal(alive === 'one', expected.alive)
      }
      await backend.close?.()
    }
  } finally {
    if (zone === undefined) delete process.env.TZ
    else process.env.TZ = zone
  }
})
