// Floods, sizes, secrets in logs, and records of other versions: one test for each requirement.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { channel } from 'node:diagnostics_channel'
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { suite, test } from 'node:test'
import { inspect, promisify } from 'node:util'
import {
  type Backend,
  backendFromUrl,
  type Entry,
  type EventType,
  KeepsakeError,
  type Session,
  session,
  sessionManager,
} from 'keepsake'
import { newKey } from '../../src/crypto/keys.ts'
import { hkdf, keyRing } from '../../src/crypto/seal.ts'
import { workOf } from '../../src/request.ts'
import { formSecret } from '../../src/session/form-secret.ts'
import { decodeMetadata } from '../../src/session/metadata.ts'
import records from '../data/record-v1.json' with { type: 'json' }
import recordsOf2 from '../data/record-v2.json' with { type: 'json' }
import { cookiesOf, fields, form } from '../support/acts.ts'
import { code } from '../support/assert.ts'
import { clock, DAY, PATIENT, SECOND } from '../support/clock.ts'
import { NAME, OTHER_SECRET, PRE, rawRequest, SECRET, startSite } from '../support/requests.ts'
import { onePass, ratio } from '../support/spent.ts'
import { stores } from '../support/stores.ts'
import { setup } from '../support/visits.ts'

/** Entries that earlier versions wrote, in both formats. */
const keptRecords: readonly {
  readonly state: string
  readonly keys: { readonly previous?: string | undefined; readonly current: string }
  readonly address: string
  readonly fields: object
  readonly owner?: string | undefined
  readonly form?: string | undefined
  readonly entry: Entry
}[] = [...records.records, ...recordsOf2.records]

/** A site with one session, and its key and entry. */
const startWithSession = async (backend: Backend) => {
  const s = await startSite(backend)
  const key = await s.createSession('one')
  return { s, key, entry: (await backend.get(s.storageKey(key))) ?? assert.fail('the session has an entry') }
}

suite('floods', () => {
  test('LIM-1: a hundred thousand anonymous requests, and as many that read the session, cause no backend call, no cookie and no growing heap', async () => {
    const file = join(import.meta.dirname, '../support/anonymous-flood.ts')
    const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', file], { timeout: 600_000 })
    const results = JSON.parse(stdout) as {
      reads: boolean
      calls: number
      cookies: number
      failures: number
      grown: number
    }[]
    for (const { grown, reads, ...rest } of results) {
      assert.deepEqual(rest, { calls: 0, cookies: 0, failures: 0 })
      assert.ok(grown < 20_000, `less than a kilobyte for a thousand requests: ${grown} for 20 000, reads: ${reads}`)
    }
    assert.deepEqual(
      results.map(({ reads }) => reads),
      [false, true],
    )
  })
  test('LIM-2: keys that keepsake did not issue cost one read each and write nothing', async () => {
    const s = await startSite()
    for (let i = 0; i < 10_000; i++) {
      const { response } = await s.send(rawRequest(`${NAME}=${newKey()}`))
      assert.equal(response.headers.has('set-cookie'), false)
      s.newEvents()
      s.events.splice(0)
    }
    assert.deepEqual(s.calls, { get: 10_000, generate: 0, set: 0, clear: 0, touch: 0 })
  })
  test('LIM-3: a logout without a session writes nothing, with or without a read before it', async () => {
    const h = await setup()
    for (let i = 0; i < 2000; i++) {
      const response = await h.visitor().raw((s) => {
        if (i % 2) s.get('a')
        s.invalidate()
      })
      assert.deepEqual([response.status, cookiesOf(response)], [200, []])
    }
    assert.equal(h.total(), 0)
    // A logout with a key that opens nothing clears the cookie in the browser.
    const junk = await h.visitor().raw((s) => s.invalidate(), { headers: { cookie: `${NAME}=${newKey()}` } })
    assert.match(cookiesOf(junk)[0] ?? '', /Max-Age=0/)
    assert.equal(h.total() - h.calls.get, 0)
  })
  test('LIM-4: forms of anonymous visitors are kept in their own cookies', async () => {
    const h = await setup()
    for (let i = 0; i < 500; i++) {
      const [cookie = ''] = cookiesOf(await h.visitor().raw(form))
      assert.ok(cookie.startsWith(`${PRE}=`) && cookie.length < 400)
    }
    assert.equal(h.total(), 0)
  })
})

const deep = (depth: number, open: string, close: string) => open.repeat(depth) + 1 + close.repeat(depth)

suite('sizes', () => {
  test('LIM-5: the default limit is 64 KiB, in bytes of JSON; one more byte is an error, and nothing is saved', async () => {
    const h = await setup()
    const visit = h.visitor()
    const room = 65_536 - '{"a":""}'.length
    assert.equal(await visit((s) => s.set('a', 'x'.repeat(room))), undefined)
    assert.equal(await visit((s) => s.set('a', 'x'.repeat(room + 1))), 500)
    assert.equal(await visit((s) => s.set('a', 'é'.repeat(room / 2))), undefined)
    assert.equal(await visit((s) => s.set('a', 'é'.repeat(room / 2 + 1))), 500)
    assert.equal(await visit((s) => s.set('a', '"'.repeat(room / 2 + 1))), 500)
    assert.equal(await visit((s) => s.get('a').length), room / 2)
    const last = h.events.at(-1) as { error?: KeepsakeError }
    assert.equal(last.error?.code, 'too_large')
    assert.ok((last.error?.message.length ?? 0) < 300, 'the message does not contain the value')
  })
  test('LIM-5: setting four thousand fields one by one takes time in proportion, and fails if they are too large', async () => {
    const h = await setup()
    const setFields = (count: number) =>
      h.visitor()((s) => {
        for (let i = 0; i < count; i++) s.set(`the field ${i}`, i)
      })
    assert.equal(await setFields(1000), undefined)
    assert.equal(await setFields(4000), 500)
    const printOneObject = () => {
      const object: Record<string, number> = {}
      for (let i = 0; i < 4000; i++) object[`the field ${i}`] = i
      return JSON.stringify(object)
    }
    const times = await ratio(() => setFields(4000), printOneObject)
    assert.ok(times < 50, `${times} times as long as printing one object with these fields`)
  })
  test('LIM-5: a value that is nested a hundred thousand deep is refused at once, with arrays and with objects', async () => {
    const h = await setup()
    const shapes = [deep(100_000, '[', ']'), deep(100_000, '{"a":', '}'), deep(50_000, '[{"a":', '}]')]
    await h.visitor()((s) => {
      for (const text of shapes) {
        const value = JSON.parse(text)
        assert.throws(() => s.set('a', value), code('not_json'))
        assert.throws(() => s.update('a', () => value), code('not_json'))
        assert.throws(() => s.set('a', [{ b: value }]), code('not_json'))
      }
      assert.deepEqual(fields(s), [])
    })
    assert.equal(h.total(), 0)
  })
  test('LIM-5: if maxBytes allows it, a session of twenty mebibytes and many lists can be read back', async () => {
    const h = await setup({ maxBytes: 2 ** 26 })
    const visit = h.visitor()
    const length = 20 * 2 ** 20
    await visit((s) => {
      s.set('lists', Array(100).fill([]))
      s.set('text', 'x'.repeat(length))
    })
    assert.equal(await visit((s) => s.get('text')?.length), length)
  })
  test('DES-2: reading a truncated record takes time in proportion to its size', async () => {
    const backend = await backendFromUrl('memory:')
    const { s, key, entry } = await startWithSession(backend)
    const lists = JSON.stringify(Array(100).fill([]))
    for (const text of ['\\"', '"', '\\\\', '[', '{"a":"', '\\u0000']) {
      const value = `{"a":${lists},"b":"${text.repeat(60_000 / text.length)}`
      await backend.clear(s.storageKey(key))
      await backend.generate(s.storageKey(key), { ...entry, value })
      const send = () => s.send(rawRequest(`${NAME}=${key}`))
      const seen = await send()
      assert.deepEqual([seen.response.status, seen.fields], [200, []])
      const times = await ratio(send, onePass(value))
      assert.ok(times < 50, `${text}: ${times} times as long as one pass over the record`)
    }
  })
  for (const { name, opener } of stores) {
    test(`LIM-5: a value in ${name} that is nested a hundred thousand deep gives an anonymous request, not a stack overflow`, async (t) => {
      const backend = await opener(t)()
      const s = await startSite(backend)
      for (const text of [deep(100_000, '[', ']'), deep(100_000, '{"a":', '}')]) {
        const key = await s.createSession('one')
        const entry = await backend.get(s.storageKey(key))
        assert.ok(entry)
        const change = { value: `{"who":"one","a":${text}}`, metadata: entry.metadata, version: 'planted1' }
        assert.equal(await backend.set(s.storageKey(key), change, entry.version), undefined)
        s.newEvents()
        for (const act of [
          (own: Session) => own.get('a'),
          (own: Session) => own.fields,
          (own: Session) => own.set('b', 1),
          (own: Session) => own.update('a', (a) => a ?? 1),
          (own: Session) => own.rotateKey(),
        ]) {
          const response = await s.visitor().raw((own) => void act(own), { headers: { cookie: `${NAME}=${key}` } })
          assert.equal(response.status, 200)
        }
        assert.ok(s.newEvents().includes('corrupt_entry'))
        assert.equal((await backend.get(s.storageKey(key)))?.version, 'planted1')
      }
    })
  }
})

suite('secrets, logs and errors', () => {
  test('SEC-2: each purpose has its own key, derived from one secret', () => {
    const root = Buffer.from(SECRET, 'base64url')
    const keys = ['seal', 'kid', 'csrf'].map((purpose) => hkdf(root, `keepsake/v1/${purpose}`, 32).toString('hex'))
    assert.equal(new Set([...keys, root.toString('hex')]).size, 4)
    const token = keyRing([SECRET]).seal({ purpose: 'pre-session', name: PRE }, Buffer.from('x'))
    const bytes = Buffer.from(token, 'base64url')
    // The id in a token is not a part of the key that sealed it.
    assert.equal(bytes.subarray(1, 5).toString('hex'), keys[1]?.slice(0, 8))
    assert.ok(!keys[0]?.includes(bytes.subarray(1, 5).toString('hex')))
  })

  test('SEC-3: no printed object of keepsake and no console output contains a key, a secret, a token or a field', async (t) => {
    const printed: string[] = []
    const show = (thing: unknown) => {
      printed.push(
        inspect(thing, { depth: 8, showHidden: true, getters: false }),
        inspect(thing),
        String(thing),
        JSON.stringify(thing) ?? '',
      )
      if (thing instanceof Error)
        printed.push(thing.stack ?? '', inspect(thing.cause, { depth: 8 }), String(thing.cause))
    }
    for (const method of ['log', 'info', 'warn', 'error', 'debug', 'trace', 'dir'] as const) {
      t.mock.method(console, method, (...things: unknown[]) => void printed.push(inspect(things, { depth: 8 })))
    }
    const showWarning = (warning: Error) => show(warning)
    process.on('warning', showWarning)
    t.after(() => process.off('warning', showWarning))
    const published: unknown[] = []
    const subscriber = (message: unknown) => published.push(message)
    channel('keepsake').subscribe(subscriber)
    t.after(() => channel('keepsake').unsubscribe(subscriber))

    const h = await setup({ secret: [SECRET, OTHER_SECRET], maxBytes: 200 })
    const secrets = new Set<string>([SECRET, OTHER_SECRET])
    const visit = h.visitor()
    const PAYLOAD = 'the payload of this session'
    secrets.add(PAYLOAD)
    const showAround = async (act: (s: Session, request: Request) => unknown) => {
      const before = [...visit.browser.cookies.values()]
      const response = await visit
        .raw(async (s, request) => {
          show(s)
          await act(s, request)
          show(s)
          show(Object.entries(Object.getOwnPropertyDescriptors(s)))
          secrets.add((await form(s, request)).padEnd(12, '\0'))
        })
        .catch((error: unknown) => {
          show(error)
          return new Response()
        })
      printed.push(await response.clone().text())
      for (const cookie of [...before, ...visit.browser.cookies.values()]) secrets.add(cookie)
      return response
    }
    await showAround(form)
    await showAround((s) => s.set('a', PAYLOAD))
    await showAround((s) => s.rotateKey())
    await showAround((s) => s.get('a'))
    await showAround((s) => s.login('anna', { keep: ['a'] }))
    await showAround((s) => s.set('b', 'x'.repeat(200)))
    await showAround((s) => {
      for (const value of [10n, { [PAYLOAD]: 1, x: () => 1 }, [PAYLOAD, Number.NaN], new Date()]) {
        try {
          s.set('c', value)
        } catch (error) {
          if (value instanceof Date || Array.isArray(value) || typeof value === 'bigint') show(error)
        }
      }
    })
    for (const call of ['get', 'set', 'clear', 'generate'] as const) {
      h.fail(call, new Error('the message of the driver'))
      await showAround((s) => (call === 'generate' || call === 'clear' ? s.login('bert') : s.set('a', PAYLOAD)))
    }
    // Keys that a visitor sends must not be printed either: an unknown one, one with a wrong secret, and two of two sessions.
    const invalid = [newKey(), `${String(visit.browser.cookies.get(NAME)).slice(0, 12)}${newKey().slice(12)}`]
    const other = h.visitor()
    await other((s) => s.set('a', 1))
    const pair = [visit.browser.cookies.get(NAME), other.browser.cookies.get(NAME)] as [string, string]
    for (const key of [...invalid, ...pair]) secrets.add(key)
    for (const keys of [...invalid.map((key) => [key]), pair]) {
      const cookie = keys.map((key) => `${NAME}=${key}`).join('; ')
      await h.visitor().raw((s) => show(s), { headers: { cookie } })
    }
    assert.deepEqual(h.types.slice(-3), ['unknown_key', 'wrong_secret', 'ambiguous_cookies'])
    h.now.tick(8 * DAY)
    h.fail('touch', new Error('read only'))
    await showAround((s) => s.get('a'))
    await showAround((s) => s.invalidate())
    await showAround(form)
    secrets.add('junk-of-a-visitor')
    await h.visitor().raw(form, { headers: { cookie: `${PRE}=junk-of-a-visitor` } })
    const manager = sessionManager({ backend: h.backend, storeTimeout: PATIENT, secret: SECRET })
    const opened = await manager.open({ headers: new Headers() })
    for (const thing of [manager, manager(() => new Response()), opened, ...h.events, ...published]) show(thing)
    for (const options of [
      { secret: `${SECRET.slice(0, 20)}!` },
      { secret: [SECRET, SECRET] },
      { secret: `secret${SECRET}` },
      { secret: SECRET.slice(0, 30) },
      { cookie: { name: 'a b' } },
      { backend: `postgres://user:${SECRET}@db/x` },
    ]) {
      try {
        sessionManager({ backend: h.backend, ...options } as never)
        assert.fail('must throw')
      } catch (error) {
        show(error)
      }
    }
    secrets.add(SECRET.slice(0, 20)).add(SECRET.slice(0, 30))

    const text = printed.join('\n')
    const counts = [h.events.length, published.length, printed.length, secrets.size]
    assert.ok(
      counts.every((count) => count >= 10),
      `there is enough to search: ${counts}`,
    )
    for (const secret of secrets) {
      const whole = secret.replaceAll('\0', '')
      // Labels are shown on purpose, so only the part of a key after its label is secret. A form secret may be a label.
      const hidden = /^[\w-]{43}$/.test(whole) && whole !== SECRET && whole !== OTHER_SECRET ? whole.slice(12) : whole
      if (hidden.length < 13) continue
      assert.ok(!text.includes(hidden), `${hidden} was printed`)
      assert.ok(!text.includes(Buffer.from(hidden).toString('hex')))
    }
    assert.ok(text.includes('the message of the driver'), 'the cause is printed')
  })

  test('SEC-4: no event and no message contains a visitor’s input, so a visitor cannot forge a line in a log', async () => {
    const s = await startSite()
    const key = await s.createSession('one')
    const odd = '\u001b[31m\r\nFAKE LINE'
    for (const header of [
      `${NAME}=${odd}`,
      `${PRE}=${odd}`,
      `${odd}=${key}`,
      `${NAME}=${key.slice(0, 12)}${odd}`,
      `${NAME}=${newKey()}; ${PRE}=${odd}`,
    ]) {
      await s.send(rawRequest(header), 'form')
    }
    assert.ok(s.events.length >= 4)
    assert.ok(!inspect(s.events, { depth: 8 }).includes('FAKE'))
    for (const event of s.events as { label?: string }[]) assert.match(event.label ?? 'none', /^[\w-]{1,12}$/)
  })
  test('SEC-4: the name of a field is quoted in the message that refuses its value', async () => {
    const h = await setup()
    await h.visitor()((s) => {
      for (const name of ['a\r\nFAKE LINE', 'a\u001b[31m', 'x'.repeat(100_000)]) {
        for (const act of [
          () => s.set(name, 10n),
          () => s.set('b', { [name]: 10n }),
          () => s.update(name, () => 10n),
        ]) {
          assert.throws(act, (error) => {
            assert.ok(error instanceof KeepsakeError && error.code === 'not_json')
            assert.ok(
              !['\r', '\n', '\u001b'].some((odd) => error.message.includes(odd)),
              JSON.stringify(error.message.slice(0, 80)),
            )
            return true
          })
        }
      }
    })
  })

  test('SEC-5: each notable event is reported once, with its label', async () => {
    const h = await setup()
    const newEvents = () => {
      const events = h.events.splice(0) as { type: EventType; label?: string }[]
      h.types.splice(0)
      return events.map(({ type, label }) => [type, label])
    }
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    const label = (await visit((s) => s.label)) as string
    assert.deepEqual(newEvents(), [['created', label]])
    const first = visit.browser.cookies.get(NAME) as string
    const unknown = newKey()
    const send = (cookie: string, act = (s: Session) => void s.get('a')) =>
      h.visitor().raw(act, { headers: { cookie } })
    await send(`${NAME}=${unknown}`)
    assert.deepEqual(newEvents(), [['unknown_key', unknown.slice(0, 12)]])
    await send(`${NAME}=${label}${'x'.repeat(30)}A`)
    assert.deepEqual(newEvents(), [['wrong_secret', label]])
    await visit((s) => s.rotateKey())
    assert.deepEqual(newEvents(), [['renewed', label]])
    await visit((s) => s.get('a'))
    h.now.tick(30 * SECOND)
    await send(`${NAME}=${first}`)
    assert.deepEqual(newEvents(), [['retired_key', label]])
    const other = h.visitor()
    await other((s) => s.set('a', 1))
    newEvents()
    const key = visit.browser.cookies.get(NAME)
    await send(`${NAME}=${other.browser.cookies.get(NAME)}; ${NAME}=${key}`)
    assert.deepEqual(newEvents(), [['ambiguous_cookies', label]])
    await h.visitor().raw(form, { headers: { cookie: `${PRE}=junk` } })
    assert.deepEqual(newEvents(), [['invalid_pre_session', undefined]])
    h.fail('get', new Error('down'))
    await visit((s) => s.get('a'))
    assert.equal(newEvents().filter(([type]) => type === 'store_error').length, 1)
    await visit((s) => s.login('anna'))
    const ownedLabel = await visit((s) => s.label)
    assert.deepEqual(newEvents(), [['login', ownedLabel]])
    await visit((s) => s.invalidate())
    assert.deepEqual(newEvents(), [['invalidated', ownedLabel]])
    h.now.tick(14 * DAY)
    await other((s) => s.get('a'))
    assert.deepEqual(
      newEvents().map(([type]) => type),
      ['expired'],
    )
  })
  test('SEC-5: a rotation that several concurrent requests ask for is reported once', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    await Promise.all(Array.from({ length: 10 }, () => visit.otherProcess()((s) => s.rotateKey())))
    assert.equal(h.types.filter((type) => type === 'renewed').length, 1)
  })
  test('SEC-5: a listener that throws or rejects breaks no request and does not end the process', async () => {
    const rejections: unknown[] = []
    const unhandled = (error: unknown) => rejections.push(error)
    const before = process.listeners('unhandledRejection')
    process.removeAllListeners('unhandledRejection')
    process.on('unhandledRejection', unhandled)
    try {
      for (const onEvent of [
        () => {
          throw new Error('logger is down')
        },
        async () => {
          throw new Error('logger is down')
        },
      ]) {
        const h = await setup({ onEvent })
        const visit = h.visitor()
        assert.equal(await visit((s) => s.set('a', 1)), undefined)
        assert.equal(await visit((s) => s.get('a')), 1)
        const anonymous = await h.visitor().raw((s) => s.get('a'), { headers: { cookie: `${NAME}=${newKey()}` } })
        assert.equal(anonymous.status, 200)
      }
      for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve))
      assert.deepEqual(rejections, [])
    } finally {
      process.removeAllListeners('unhandledRejection')
      for (const listener of before) process.on('unhandledRejection', listener)
    }
  })
  test('SEC-6: every error of keepsake is a KeepsakeError with a code and a sentence', async () => {
    const h = await setup({ maxBytes: 50 })
    const errors: unknown[] = []
    const catchError = async (act: () => unknown) => {
      try {
        await act()
        assert.fail('must throw')
      } catch (error) {
        errors.push(error)
      }
    }
    await catchError(() => sessionManager({ backend: 'memory:', idleTimeout: 0 }))
    await catchError(() => sessionManager({ backend: 'nothing:' }))
    await catchError(() => backendFromUrl('memory:x'))
    await catchError(() => session(new Request('https://app.test/')))
    await h.visitor()(async (s) => {
      await catchError(() => s.set('a', 10n))
      await catchError(() => s.set(1 as never, 1 as never))
      await catchError(() => s.login(''))
    })
    let late: Session | undefined
    await h.visitor()((s) => {
      late = s
    })
    await catchError(() => late?.set('a', 1))
    h.fail('generate', new Error('down'))
    await h.visitor()((s) => s.set('a', 1))
    await h.visitor()((s) => s.set('a', 'x'.repeat(60)))
    errors.push(...(h.events as { error?: unknown }[]).map(({ error }) => error).filter((error) => error !== undefined))
    assert.deepEqual(
      errors.map((error) => (error instanceof KeepsakeError ? error.code : error)),
      [
        'invalid_option',
        'unknown_backend',
        'unknown_backend',
        'no_middleware',
        'not_json',
        'not_json',
        'invalid_owner',
        'too_late',
        'unknown_outcome',
        'too_large',
      ],
    )
    for (const error of errors as KeepsakeError[]) {
      assert.match(error.message, /^[A-Za-z'].{20,400}$/)
      assert.equal(error.name, 'KeepsakeError')
      assert.equal(String(error), `KeepsakeError: ${error.message}`)
    }
  })
  test('SEC-7: a session that cannot be read is empty or an error, and never a part of a session or another session', async () => {
    const memory = await backendFromUrl('memory:')
    const { s, key, entry } = await startWithSession(memory)
    const damages: Partial<typeof entry>[] = [
      { metadata: '' },
      { metadata: '2.x.y' },
      { value: 'null' },
      { value: '"who"' },
      { value: '[{"who":"one"}]' },
      { expiresAt: Number.NaN },
      { expiresAt: 0 },
      { metadata: entry.metadata.replace(/.{43}$/, 'x'.repeat(43)) },
    ]
    for (const change of damages) {
      await memory.clear(s.storageKey(key))
      await memory.generate(s.storageKey(key), { ...entry, owner: 'anna', ...change })
      const seen = await s.send(rawRequest(`${NAME}=${key}`))
      assert.deepEqual([seen.who, seen.owner, seen.fields], [undefined, undefined, []], JSON.stringify(change))
    }
    for (const odd of [null, 'entry', 0, [], {}, { value: '{"who":"one"}' }, { ...entry, metadata: undefined }]) {
      const broken: Backend = { ...memory, get: () => odd as never }
      const page = sessionManager({ backend: broken, storeTimeout: PATIENT, secret: SECRET })(async (request) => {
        const own = await session(request)
        return Response.json([own.get('who'), own.owner])
      })
      // A backend that breaks its contract may cause an error, but never a session.
      const answer = async () => page(rawRequest(`${NAME}=${key}`))
      const response = await answer().catch((error: unknown) => error)
      if (response instanceof Response && response.status === 200) assert.deepEqual(await response.json(), [null, null])
    }
    s.fail('get', new Error('down'))
    const down = sessionManager({ backend: s.backend, storeTimeout: PATIENT, secret: SECRET })(async (request) => {
      const own = await session(request)
      assert.throws(
        () => own.get('who'),
        (error) => error instanceof KeepsakeError && error.code === 'unavailable',
      )
      return new Response()
    })
    assert.equal((await down(rawRequest(`${NAME}=${key}`))).status, 200)
  })
})

suite('records', () => {
  test('DES-1: no source runs stored text: no eval, no Function, no v8 deserializer, no vm', () => {
    const root = resolve(import.meta.dirname, '../../src')
    const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
    assert.ok(files.length > 20)
    const forbidden =
      /\beval\s*\(|\bnew\s+Function\b|[^.\w]Function\s*\(|\bdeserialize\b|['"](node:)?(v8|vm)['"]|\bsetTimeout\(\s*['"`]/
    // Two functions of v8 run nothing: they return the limit of the heap, and whether a string has one byte a character.
    // The default import is allowed for these, because Deno does not have the second one.
    const allowed = /import (\{ getHeapStatistics \}|v8) from 'node:v8'|\bv8\.isStringOneByteRepresentation\b/g
    for (const file of files) {
      const source = readFileSync(join(root, file), 'utf8').replace(allowed, '')
      assert.doesNotMatch(source, forbidden, file)
      assert.doesNotMatch(source, /\bv8[.[]/, file)
    }
    assert.match("import { deserialize } from 'node:v8'".replace(allowed, ''), forbidden)
    assert.match("import v8 from 'node:v8'; v8['x']".replace(allowed, ''), /\bv8[.[]/)
    for (const bad of [
      "eval('1')",
      'new Function("x")',
      ' Function("x")',
      "from 'node:v8'",
      'deserialize(x)',
      "import('vm')",
    ]) {
      assert.match(bad, forbidden)
    }
  })
  test('DES-1: payloads that attack other serializers are plain data', async () => {
    const s = await startSite()
    const visit = s.visitor()
    const gadgets = [
      { rce: '_$$ND_FUNC$$_function(){globalThis.ran=1}()' },
      { json: { value: 1 }, meta: { values: { 'a.__proto__.ran': ['map'] } } },
      { __jsonclass__: ['Function', 'globalThis.ran=1'] },
      { type: 'Buffer', data: [1] },
      JSON.parse('{"$type":"System.IO.FileInfo","then":"x","toJSON":"y","constructor":{"name":"Date"}}'),
      JSON.parse('{"__proto__":{"ran":1},"constructor":{"prototype":{"ran":1}}}'),
    ]
    for (const gadget of gadgets) {
      await visit((own) => own.set('g', gadget))
      assert.equal(await visit((own) => JSON.stringify(own.get('g'))), JSON.stringify(gadget))
    }
    assert.equal((globalThis as { ran?: unknown }).ran, undefined)
    assert.equal(({} as { ran?: unknown }).ran, undefined)
  })
  test('DES-2: keys that name prototypes stay keys: in the backend, in set, in a replay, and after a login', async () => {
    const h = await setup()
    const visit = h.visitor()
    const odd = JSON.parse('{"__proto__":{"admin":true},"constructor":{"prototype":{"admin":true}}}')
    await visit((s) => {
      s.set('__proto__', { admin: true })
      s.set('constructor', odd)
      s.set('n', 0)
    })
    const held = h.hold('set')
    const late = visit.otherProcess()((s) => {
      s.update('__proto__', (was) => ({ ...was, more: 1 }))
      s.delete('constructor')
    })
    await held.arrived
    await visit((s) => s.set('n', 1))
    held.go()
    await late
    await visit((s) => s.login('anna', { keep: ['__proto__', 'n', 'toString'] }))
    const seen = (await visit((s) => [
      Object.keys(s.fields).sort(),
      s.get('admin'),
      (s.fields as { admin?: unknown }).admin,
    ])) as unknown[]
    assert.deepEqual(seen, [['__proto__', 'n'], undefined, undefined])
    assert.deepEqual(await visit((s) => JSON.stringify(s.get('__proto__'))), '{"admin":true,"more":1}')
    assert.equal(({} as { admin?: unknown }).admin, undefined)
  })
  test('DES-3: set refuses a value that JSON cannot keep, with its path, on every backend', async (t) => {
    const circle: Record<string, unknown> = {}
    circle.round = { circle }
    const refused: [unknown, RegExp][] = [
      [{ a: [{ b: 1n }] }, /^f\.a\[0\]\.b is a bigint/],
      [circle, /nested more than 64 deep/],
      [[1, () => 1], /^f\[1\] is a function/],
      [{ 'a b': Number.NaN }, /^f\["a b"\] is NaN/],
      [Number.NEGATIVE_INFINITY, /^f is -Infinity/],
      [[undefined], /^f\[0\] is undefined/],
      [new Map(), /^f is a Map/],
      [new (class Own {})(), /^f is a Own/],
      [Object.create({ inherited: 1 }), /^f is/],
      [new String('x'), /^f is a String/],
    ]
    for (const { opener } of stores) {
      const h = await setup({ backend: await opener(t)(), secret: SECRET })
      const visit = h.visitor()
      await visit((s) => {
        for (const [value, message] of refused) {
          assert.throws(
            () => s.set('f', value),
            (error) => code('not_json')(error) && message.test((error as KeepsakeError).message),
          )
        }
      })
      assert.equal(h.total(), 0)
      // A value that JSON can keep comes back unchanged, also with a lone surrogate.
      const value = {
        lone: '\ud800',
        nul: 'a\0b',
        emoji: '🦊',
        zero: 0,
        no: false,
        none: null,
        list: [[], {}],
        left: undefined,
      }
      await visit((s) => s.set('f', value))
      assert.equal(await visit((s) => JSON.stringify(s.get('f'))), JSON.stringify(value))
    }
  })
  for (const { name, opener } of stores) {
    test(`DES-4: records of formats 1 and 2 still open, from ${name}: keys, fields, owner and form secret`, async (t) => {
      const now = clock(records.writtenAt)
      const backend = name === 'memory' ? await backendFromUrl('memory:', { now }) : await opener(t)()
      const { secret, namespace } = records
      const page = sessionManager({ backend, storeTimeout: PATIENT, secret, namespace, now })(async (request) => {
        const s = await session(request)
        return Response.json({ fields: s.fields, owner: s.owner, form: formSecret(await workOf(request)) })
      })
      const send = async (cookie: string) => {
        const response = await page(new Request('https://app.test/', { headers: { cookie } }))
        return {
          cookies: cookiesOf(response),
          ...((await response.json()) as { fields: object; owner?: string; form: string }),
        }
      }
      assert.ok(records.records.length >= 5)
      for (const { state, keys, address: storageKey, entry, fields, form, owner } of keptRecords) {
        assert.equal(await backend.generate(storageKey, entry), undefined)
        for (const [which, key] of Object.entries(keys)) {
          const seen = await send(`${NAME}=${key}`)
          assert.deepEqual(seen.fields, fields, `${state}, ${which}`)
          assert.equal(seen.owner, owner, state)
          if (form !== undefined) assert.equal(seen.form, form, state)
          // A browser with the key before an offer gets the same new key that the record offered.
          const offered = seen.cookies.map((line) => line.slice(line.indexOf('=') + 1, line.indexOf(';')))
          const isOffer = state === 'offered' && which === 'previous'
          assert.deepEqual(offered, isOffer ? [keys.current] : [], `${state}, ${which}`)
        }
      }
      for (const { name, token, form } of records.preSessions) {
        assert.equal((await send(`${name}=${token}`)).form, form)
      }
      // After the grace period the key before a confirmed one opens nothing.
      now.tick(30 * SECOND)
      const confirmed = records.records.find(({ state }) => state === 'confirmed')
      assert.deepEqual((await send(`${NAME}=${confirmed?.keys.previous}`)).fields, {})
      assert.deepEqual((await send(`${NAME}=${confirmed?.keys.current}`)).fields, confirmed?.fields)
    })
    test(`DES-4: a record of a later version opens nothing, is reported as corrupt, and is left unchanged in ${name}`, async (t) => {
      const backend = await opener(t)()
      const { s, key, entry } = await startWithSession(backend)
      for (const metadata of [
        entry.metadata.replace(/^1\./, '2.'),
        entry.metadata.replace(/^1\./, '3.'),
        entry.metadata.replace(/^1\./, '10.'),
        '',
        'x',
        `${entry.metadata}.......x`,
      ]) {
        assert.equal(decodeMetadata(metadata), undefined)
        await backend.clear(s.storageKey(key))
        const next: Entry = { ...entry, metadata, version: 'tomorrow' }
        await backend.generate(s.storageKey(key), next)
        s.newEvents()
        const seen = await s.send(rawRequest(`${NAME}=${key}`))
        assert.deepEqual([seen.response.status, seen.who, cookiesOf(seen.response)], [200, undefined, []])
        assert.deepEqual(s.newEvents(), ['corrupt_entry'])
        const written = await s.visitor().raw((own) => own.set('b', 1), { headers: { cookie: `${NAME}=${key}` } })
        assert.equal(cookiesOf(written).length, 1, 'a write creates another session')
        assert.deepEqual(await backend.get(s.storageKey(key)), next)
      }
    })
  }
})
