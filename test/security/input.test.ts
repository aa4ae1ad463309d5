// Every case of the file of bad inputs, through the middleware: a stranger's visit, and never an error.

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
  adapted,
  guardPrototypes,
  keysIn,
  NAME,
  OTHER_SECRET,
  PRE,
  SECRET,
  type Stage,
  shaped,
  spelt,
  stage,
  standard,
} from '../support/hostile-requests.ts'
import { ratio } from '../support/spent.ts'
import { setup } from '../support/visits.ts'

const clean = guardPrototypes()

type Case = {
  readonly name: string
  readonly kind: string
  readonly value: unknown
  readonly expected: Record<string, unknown>
}

/** The requirement that a kind of case belongs to; of a configuration, by the option that is wrong. */
const rows: Record<string, string | ((one: Case) => string)> = {
  'cookie-header': 'CP-1',
  'session-id': 'ID-2',
  'sealed-token': 'PRE-2',
  'store-record': 'DES-2',
  payload: 'DES-3',
  header: 'ID-7',
  url: 'ID-7',
  config: ({ name }) =>
    /lifetime/i.test(name)
      ? 'LIFE-11'
      : /secret|backend/.test(name)
        ? 'SEC-1'
        : /prefix|__H/.test(name)
          ? 'CK-2'
          : 'CK-3',
  time: 'LIFE-12',
}

const each = (kind: string, run: (one: Case, t: TestContext) => Promise<void>) => {
  const cases = (bad.cases as readonly Case[]).filter((one) => one.kind === kind)
  suite(`${kind}: ${cases.length} cases`, () => {
    for (const one of cases) {
      const row = rows[kind] as string | ((one: Case) => string)
      test(`${typeof row === 'string' ? row : row(one)}: ${one.name}`, async (t) => {
        await run(one, t)
        assert.ok(clean(), 'the prototypes of this process are as they were')
      })
    }
  })
}

const swapped = (text: string) =>
  text.replace(/[a-z]/gi, (letter) => (letter < 'a' ? letter.toLowerCase() : letter.toUpperCase()))

const unknown = (first: string) => `${first}${'x'.repeat(41)}A`

/** The words of the file, filled in for one stage. */
const filled = async (s: Stage) => {
  const [one, two] = [await s.live('one'), await s.live('two')]
  const words: Record<string, string> = {
    $VALID_A: one,
    $VALID_B: two,
    $UNKNOWN_2: unknown('2'),
    $UNKNOWN_3: unknown('3'),
    $UNKNOWN_4: unknown('4'),
    $UNKNOWN: unknown('1'),
    $SWAPPED: swapped(one),
    $ADDRESS: s.address(one),
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
  s.news()
  return { text, one, two }
}

/** Sends a request and holds what came of it against what is expected: which session, how many reads, which event. */
const looked = async (s: Stage, request: Request, { expected }: Case, reads?: number) => {
  const before = s.total()
  const gets = s.calls.get
  const { response, who, fields } = await s.see(request)
  assert.equal(response.status, 200)
  assert.equal(who, expected.opens === null ? undefined : 'one')
  assert.deepEqual(fields, expected.opens === null ? [] : ['who'])
  assert.deepEqual(response.headers.getSetCookie(), [], 'nothing is set, and nothing is cleared')
  assert.equal(s.calls.get - gets, s.total() - before, 'the store is read, and not written')
  assert.equal(s.calls.get - gets, expected.gets ?? reads, 'reads of the store')
  if (reads !== undefined) assert.equal(s.calls.get - gets, reads, 'one read for each key that could be one')
  const news = s.news()
  if (typeof expected.event === 'string') assert.ok(news.includes(expected.event as never), `${news}`)
  else
    assert.deepEqual(
      news.filter((type) => !['plain_cookie', 'unknown_key'].includes(type)),
      [],
    )
  if (typeof expected.times === 'number') {
    const times = await ratio(
      () => s.see(request),
      () => s.see(adapted('a=1')),
    )
    assert.ok(times < expected.times, `${times} times as long as an ordinary visit`)
  }
}

each('cookie-header', async (one) => {
  const s = await stage()
  const { text } = await filled(s)
  const url = (one.expected.url as string | undefined) ?? 'https://app.test/'
  const header = text(spelt(one.value))
  const reads = keysIn(header, url.startsWith('https') ? NAME : 'sid-3000').length
  // Once to warm up what is compiled, where time is measured.
  await s.see(adapted(header, url))
  s.news()
  await looked(s, adapted(header, url, { host: new URL(url).host }), one, reads)
  const real = standard(header, url)
  if (real) await looked(s, real, one, reads)
})

each('session-id', async (one, t) => {
  const raw = (one.value as { $raw?: unknown } | null)?.$raw
  if (raw === undefined && !Object.hasOwn(Object(one.value), '$raw')) {
    const s = await stage()
    const { text } = await filled(s)
    const header = `${NAME}=${text(spelt(one.value))}`
    await looked(s, adapted(header), one, keysIn(header).length)
    const real = standard(header)
    if (real) await looked(s, real, one, keysIn(header).length)
    return
  }
  // No way of ours leads from a request to a key that is no text; and a backend takes it for no entry's.
  const path = `${folder(t)}/sessions.db`
  for (const url of ['memory:', `sqlite:${path}`]) {
    const backend = await backendFromUrl(url)
    const s = await stage(backend)
    await s.live('one')
    let entry: unknown
    try {
      entry = await backend.get(raw as string)
    } catch (error) {
      assert.ok(error instanceof TypeError)
    }
    assert.equal(entry, undefined, url)
    assert.equal(await s.live('two').then(shaped), true, 'and works as before')
    await backend.close?.()
  }
})

const BORN = clock()()

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

const sealed = (change: Change): string => {
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
  const plain = Buffer.from(change.plain ?? JSON.stringify({ form: FORM, at: BORN - age }), 'latin1')
  const context = { purpose, name, audience }
  let token = keys.seal(context, plain)
  // One that has a character in which the two alphabets differ.
  while (change.alphabet && !/[-_]/.test(token)) token = keys.seal(context, plain)
  const bytes = Buffer.from(token, 'base64url')
  const at = (i: number) => (i < 0 ? bytes.length + i : i)
  if (set) bytes[at(set[0])] = set[1]
  if (flip) bytes.writeUInt8(bytes.readUInt8(at(flip[0])) ^ (1 << flip[1]), at(flip[0]))
  let text = bytes.subarray(0, keep ?? bytes.length - (cut ?? 0)).toString(change.alphabet ?? 'base64url')
  if (insert) text = text.slice(0, insert[0]) + insert[1] + text.slice(insert[0])
  if (change.upper) text = text.toUpperCase()
  return text + (append ?? '')
}

each('sealed-token', async ({ value, expected }) => {
  const change = (value as { $token?: Change }).$token
  const token = change ? sealed(change) : spelt(value)
  const s = await stage()
  const header = `a=b; ${PRE}=${token}`
  for (const request of [adapted(header), standard(header)]) {
    if (request === undefined) continue
    const read = await s.see(request)
    assert.equal(read.response.status, 200)
    assert.deepEqual(read.response.headers.getSetCookie(), [], 'whoever asks for no form is told nothing')
    assert.deepEqual(s.news(), [])
  }
  for (const request of [adapted(header), standard(header)]) {
    if (request === undefined) continue
    const { response, form } = await s.see(request, 'form')
    assert.equal(response.status, 200)
    assert.equal(form === FORM, expected.opens, 'the form secret in the token is honoured only where it opens')
    assert.match(form ?? '', /^[\w-]{22}$/)
    const news = s.news()
    // Longer than any cookie is: not read at all, so nothing is told.
    const unread = token === '' || token.length > 4096
    assert.deepEqual(news, expected.opens || unread ? [] : ['invalid_pre_session'])
    if (!expected.opens)
      assert.match(response.headers.getSetCookie()[0] ?? '', new RegExp(`^${PRE}=[\\w-]{90,}; Max-Age`))
  }
  // And it is nothing at all as a session.
  const swappedIn = await s.see(adapted(`${NAME}=${token}`))
  assert.deepEqual([swappedIn.response.status, swappedIn.fields, s.total()], [200, [], 0])
})

type RecordValue = {
  readonly $head?: string
  readonly $headAfter?: string
  readonly $expiresAt?: string | null
  readonly $entry?: string
}

each('store-record', async ({ value, expected }) => {
  const memory = await backendFromUrl('memory:')
  const s = await stage(memory)
  const [one, two] = [await s.live('one'), await s.live('two')]
  const address = s.address(one)
  const good = await memory.get(address)
  const other = await memory.get(s.address(two))
  assert.ok(good && other)
  const special: RecordValue = typeof value === 'object' && value !== null ? (value as RecordValue) : {}
  const oddities: Record<string, unknown> = { NaN: Number.NaN, Infinity: Number.POSITIVE_INFINITY, never: 'never' }
  const record = {
    ...good,
    ...(special.$entry && other),
    ...(special.$head !== undefined && { metadata: special.$head }),
    ...(special.$headAfter !== undefined && { metadata: good.metadata + special.$headAfter }),
    ...(special.$expiresAt !== undefined && { expiresAt: oddities[special.$expiresAt ?? ''] as number }),
  }
  const isValue = typeof value === 'string' || Object.hasOwn(Object(value), '$repeat')
  if (isValue) record.value = spelt(value)
  record.version = 'planted1'
  await memory.clear(address)
  await memory.generate(address, record)
  s.news()
  for (let times = 0; times < 2; times++) {
    const { response, fields } = await s.see(adapted(`${NAME}=${one}`))
    assert.equal(response.status, 200)
    assert.deepEqual(response.headers.getSetCookie(), [])
    assert.deepEqual(fields, expected.opens ? expected.fields : [])
    assert.deepEqual(s.news(), expected.event ? [expected.event] : [], 'told at each visit, and told once')
    assert.equal((await memory.get(address))?.version, 'planted1', 'it is left alone')
  }
  // A write by whoever holds the key: on what opens, and else in a new session.
  const visit = s.visitor()
  const wrote = await visit.raw((own) => own.set('b', 1), { headers: { cookie: `${NAME}=${one}` } })
  assert.equal(wrote.status, 200)
  const [cookie] = wrote.headers.getSetCookie()
  assert.equal(cookie === undefined, expected.opens)
  const after = await memory.get(address)
  // A backend keeps a number for an expiry: what is none comes back as NaN.
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

/** What the file cannot spell. */
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

const made = (value: unknown): unknown => {
  const make = (value as { $make?: string } | null)?.$make
  if (make !== undefined) return (makers[make] as () => unknown)()
  return Object.hasOwn(Object(value), '$repeat') ? spelt(value) : value
}

each('payload', async ({ name, value, expected }, t) => {
  const path = `${folder(t)}/sessions.db`
  for (const url of ['memory:', `sqlite:${path}`]) {
    // Copying so many takes seconds, and is refused before any store is asked.
    if (name === 'a million fields' && url !== 'memory:') continue
    const backend = await backendFromUrl(url)
    const s = await stage(backend)
    const one = await s.live('one')
    const before = await backend.get(s.address(one))
    const payload = made(value)
    const visit = s.visitor()
    let fault: unknown
    const response = await visit.raw(
      (own) => {
        try {
          own.set('p', payload)
        } catch (error) {
          fault = error
        }
      },
      { headers: { cookie: `${NAME}=${one}` } },
    )
    const after = await backend.get(s.address(one))
    assert.deepEqual(response.headers.getSetCookie(), [])
    if (expected.fault === 'not_json') {
      assert.ok(fault instanceof KeepsakeError && fault.code === 'not_json', `${inspect(fault)}`)
      assert.match(fault.message, /^p\b/, 'it says where')
      assert.equal(response.status, 200)
      assert.deepEqual(after, before)
    } else if (expected.fault === 'too_large') {
      assert.equal(response.status, 500)
      const told = s.events.at(-1) as { error?: KeepsakeError }
      assert.equal(told.error?.code, 'too_large')
      assert.deepEqual(after, before, 'what was there stays')
    } else {
      assert.equal(response.status, 200, `${inspect(fault)}`)
      const kept = JSON.parse(after?.value ?? '').p
      // JSON has no minus zero: it is a zero either way.
      if (name === 'minus zero') assert.equal(kept === 0, true)
      else assert.equal(JSON.stringify(kept), JSON.stringify(payload))
    }
    await backend.close?.()
  }
})

each('header', async (one) => {
  const s = await stage()
  const { text } = await filled(s)
  const more = Object.fromEntries(Object.entries(one.value as object).map(([name, value]) => [name, text(value)]))
  await looked(s, adapted(undefined, undefined, more), one)
  await looked(s, new Request('https://app.test/', { headers: more }), one)
})

each('url', async (one) => {
  const s = await stage()
  const { text } = await filled(s)
  await looked(s, adapted(undefined, text(one.value as string)), one)
  await looked(s, new Request(text(one.value as string)), one)
})

each('config', async ({ value, expected }) => {
  const { keepSecret: _, ...without } = await backendFromUrl('memory:')
  const options: Record<string, unknown> = { backend: 'memory:' }
  for (const [name, given] of Object.entries(value as object)) {
    const backendWithout = name === 'backend' && typeof given === 'object'
    options[name] = backendWithout ? without : made(given)
  }
  const construct = () => sessionManager(options as SessionManagerOptions)
  if (expected.accepted) return void construct()
  // Where an application is built there may be no secret: that is said when it starts.
  const start = expected.fault === 'no_secret' ? () => construct().ready() : async () => construct()
  await assert.rejects(start, (error) => {
    assert.ok(error instanceof KeepsakeError, `${inspect(error)} is a KeepsakeError`)
    assert.equal(error.code, expected.fault)
    // A message is one line for a log, and has no password in it.
    assert.ok(!['\r', '\n', '\u001b', 'hunter2', 'complex_password'].some((text) => error.message.includes(text)))
    return true
  })
})

type Time = {
  readonly $clock?: number | readonly number[]
  readonly $at?: number
  readonly $lifetime?: number
  readonly $tz?: string
}

const forms = (backend: Backend, now: () => number, more: Partial<SessionManagerOptions> = {}) =>
  sessionManager({ backend, storeTimeout: PATIENT, now, secret: SECRET, ...more })(async (request) => {
    const s = await session(request)
    const who = s.get('who')
    if (request.url.endsWith('/set')) s.set('who', 'one')
    return Response.json({ who, form: formSecret(await workOf(request)) })
  })

each('time', async ({ value, expected }, t) => {
  const { $clock, $at, $lifetime, $tz } = value as Time
  const path = `${folder(t)}/sessions.db`
  const zone = process.env.TZ
  if ($tz) process.env.TZ = $tz
  try {
    for (const url of ['memory:', `sqlite:${path}`]) {
      const now = clock($at)
      const backend = await backendFromUrl(url, { now })
      const more = $lifetime ? { idleTimeout: $lifetime, absoluteTimeout: Math.max($lifetime, 30 * 86_400) } : {}
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
        assert.ok(delays.length > 0, 'there was a timer to look at')
        assert.ok(Math.max(...delays) <= (expected.longestTimer as number))
        await backend.close?.()
        continue
      }
      const page = forms(backend, now, more)
      const born = await page(new Request('https://app.test/set'))
      assert.equal(born.status, 200)
      const [cookie = ''] = born.headers.getSetCookie()
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
