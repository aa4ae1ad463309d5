// Floods, sizes, secrets in logs, and records of other versions: one test for each requirement, named after it.

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
import { code } from '../support/assert.ts'
import { clock, DAY, PATIENT, SECOND } from '../support/clock.ts'
import { adapted, NAME, OTHER_SECRET, PRE, SECRET, stage } from '../support/hostile-requests.ts'
import { onePass, ratio } from '../support/spent.ts'
import { stores } from '../support/stores.ts'
import { setup } from '../support/visits.ts'

const cookiesOf = (response: Response) => response.headers.getSetCookie()
const fields = (s: Session) => Object.keys(s.fields).sort()
const form = async (_: unknown, request: Request) => formSecret(await workOf(request))

suite('floods', () => {
  test('LIM-1: a hundred thousand strangers, and as many who look: no store call, no cookie, and a heap that does not grow', async () => {
    const file = join(import.meta.dirname, '../support/hostile-strangers.ts')
    const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', file], { timeout: 600_000 })
    const results = JSON.parse(stdout) as {
      looks: boolean
      calls: number
      cookies: number
      failures: number
      grown: number
    }[]
    for (const { grown, looks, ...rest } of results) {
      assert.deepEqual(rest, { calls: 0, cookies: 0, failures: 0 })
      assert.ok(grown < 20_000, `less than a kilobyte for a thousand visits: ${grown} for 20 000, ${looks}`)
    }
    assert.deepEqual(
      results.map(({ looks }) => looks),
      [false, true],
    )
  })
  test('LIM-2: keys that nobody gave out cost one read each, and write nothing', async () => {
    const s = await stage()
    for (let i = 0; i < 10_000; i++) {
      const { response } = await s.see(adapted(`${NAME}=${newKey()}`))
      assert.equal(response.headers.has('set-cookie'), false)
      s.news()
      s.events.splice(0)
    }
    assert.deepEqual(s.calls, { get: 10_000, generate: 0, set: 0, clear: 0, touch: 0 })
  })
  test('LIM-3: a stranger who logs out, with or without a look, writes nothing', async () => {
    const h = await setup()
    for (let i = 0; i < 2000; i++) {
      const response = await h.visitor().raw((s) => {
        if (i % 2) s.get('a')
        s.invalidate()
      })
      assert.deepEqual([response.status, cookiesOf(response)], [200, []])
    }
    assert.equal(h.total(), 0)
    // With a key that opens nothing, the browser is told to forget it, as a logout should.
    const junk = await h.visitor().raw((s) => s.invalidate(), { headers: { cookie: `${NAME}=${newKey()}` } })
    assert.match(cookiesOf(junk)[0] ?? '', /Max-Age=0/)
    assert.equal(h.total() - h.calls.get, 0)
  })
  test('LIM-4: forms of strangers are kept by strangers', async () => {
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
  test('LIM-5: 64 KiB by default, counted in bytes of JSON; one more is an error, and nothing is saved', async () => {
    const h = await setup()
    const visit = h.visitor()
    const room = 65_536 - '{"a":""}'.length
    assert.equal(await visit((s) => s.set('a', 'x'.repeat(room))), undefined)
    assert.equal(await visit((s) => s.set('a', 'x'.repeat(room + 1))), 500)
    assert.equal(await visit((s) => s.set('a', 'é'.repeat(room / 2))), undefined)
    assert.equal(await visit((s) => s.set('a', 'é'.repeat(room / 2 + 1))), 500)
    assert.equal(await visit((s) => s.set('a', '"'.repeat(room / 2 + 1))), 500)
    assert.equal(await visit((s) => s.get('a').length), room / 2)
    const told = h.events.at(-1) as { error?: KeepsakeError }
    assert.equal(told.error?.code, 'too_large')
    assert.ok((told.error?.message.length ?? 0) < 300, 'and what was too large is not in the message')
  })
  test('LIM-5: four thousand fields set one by one take no more than their share of time, and are refused where too large', async () => {
    const h = await setup()
    const setting = (count: number) =>
      h.visitor()((s) => {
        for (let i = 0; i < count; i++) s.set(`the field ${i}`, i)
      })
    assert.equal(await setting(1000), undefined)
    assert.equal(await setting(4000), 500)
    const plainly = () => {
      const object: Record<string, number> = {}
      for (let i = 0; i < 4000; i++) object[`the field ${i}`] = i
      return JSON.stringify(object)
    }
    const times = await ratio(() => setting(4000), plainly)
    assert.ok(times < 50, `${times} times as long as one object with them, printed once`)
  })
  test('LIM-5: a hundred thousand deep is refused at once, whatever it is made of', async () => {
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
  test('LIM-5: where maxBytes allows it, a session of twenty mebibytes and many lists reads back', async () => {
    const h = await setup({ maxBytes: 2 ** 26 })
    const visit = h.visitor()
    const length = 20 * 2 ** 20
    await visit((s) => {
      s.set('lists', Array(100).fill([]))
      s.set('text', 'x'.repeat(length))
    })
    assert.equal(await visit((s) => s.get('text')?.length), length)
  })
  test('DES-2: a record that was cut short costs no more than its share of time', async () => {
    const backend = await backendFromUrl('memory:')
    const s = await stage(backend)
    const key = await s.live('one')
    const entry = await backend.get(s.address(key))
    assert.ok(entry)
    const lists = JSON.stringify(Array(100).fill([]))
    for (const text of ['\\"', '"', '\\\\', '[', '{"a":"', '\\u0000']) {
      const value = `{"a":${lists},"b":"${text.repeat(60_000 / text.length)}`
      await backend.clear(s.address(key))
      await backend.generate(s.address(key), { ...entry, value })
      const see = () => s.see(adapted(`${NAME}=${key}`))
      const seen = await see()
      assert.deepEqual([seen.response.status, seen.fields], [200, []])
      const times = await ratio(see, onePass(value))
      assert.ok(times < 50, `${text}: ${times} times as long as one pass over it`)
    }
  })
  for (const { name, opener } of stores) {
    test(`LIM-5: a value that ${name} has, nested a hundred thousand deep, ends in a stranger, not in a stack overflow`, async (t) => {
      const backend = await opener(t)()
      const s = await stage(backend)
      for (const text of [deep(100_000, '[', ']'), deep(100_000, '{"a":', '}')]) {
        const key = await s.live('one')
        const entry = await backend.get(s.address(key))
        assert.ok(entry)
        const change = { value: `{"who":"one","a":${text}}`, metadata: entry.metadata, version: 'planted1' }
        assert.equal(await backend.set(s.address(key), change, entry.version), undefined)
        s.news()
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
        assert.ok(s.news().includes('corrupt_entry'))
        assert.equal((await backend.get(s.address(key)))?.version, 'planted1')
      }
    })
  }
})

suite('secrets, logs and errors', () => {
  test('SEC-2: one secret gives each purpose a key of its own', () => {
    const root = Buffer.from(SECRET, 'base64url')
    const keys = ['seal', 'kid', 'csrf'].map((purpose) => hkdf(root, `keepsake/v1/${purpose}`, 32).toString('hex'))
    assert.equal(new Set([...keys, root.toString('hex')]).size, 4)
    const token = keyRing([SECRET]).seal({ purpose: 'pre-session', name: PRE }, Buffer.from('x'))
    const bytes = Buffer.from(token, 'base64url')
    // The id in a token is not a piece of the key that sealed it.
    assert.equal(bytes.subarray(1, 5).toString('hex'), keys[1]?.slice(0, 8))
    assert.ok(!keys[0]?.includes(bytes.subarray(1, 5).toString('hex')))
  })

  test('SEC-3: no print of anything of ours, and nothing written to the console, has a key, a secret, a token or a payload', async (t) => {
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
    const warned = (warning: Error) => show(warning)
    process.on('warning', warned)
    t.after(() => process.off('warning', warned))
    const told: unknown[] = []
    const heard = (message: unknown) => told.push(message)
    channel('keepsake').subscribe(heard)
    t.after(() => channel('keepsake').unsubscribe(heard))

    const h = await setup({ secret: [SECRET, OTHER_SECRET], maxBytes: 200 })
    const held = new Set<string>([SECRET, OTHER_SECRET])
    const visit = h.visitor()
    const PAYLOAD = 'the payload of this session'
    held.add(PAYLOAD)
    const seeing = async (act: (s: Session, request: Request) => unknown) => {
      const before = [...visit.browser.cookies.values()]
      const response = await visit
        .raw(async (s, request) => {
          show(s)
          await act(s, request)
          show(s)
          show(Object.entries(Object.getOwnPropertyDescriptors(s)))
          held.add((await form(s, request)).padEnd(12, '\0'))
        })
        .catch((error: unknown) => {
          show(error)
          return new Response()
        })
      printed.push(await response.clone().text())
      for (const cookie of [...before, ...visit.browser.cookies.values()]) held.add(cookie)
      return response
    }
    await seeing(form)
    await seeing((s) => s.set('a', PAYLOAD))
    await seeing((s) => s.rotateKey())
    await seeing((s) => s.get('a'))
    await seeing((s) => s.login('anna', { keep: ['a'] }))
    await seeing((s) => s.set('b', 'x'.repeat(200)))
    await seeing((s) => {
      for (const value of [10n, { [PAYLOAD]: 1, x: () => 1 }, [PAYLOAD, Number.NaN], new Date()]) {
        try {
          s.set('c', value)
        } catch (error) {
          if (value instanceof Date || Array.isArray(value) || typeof value === 'bigint') show(error)
        }
      }
    })
    for (const call of ['get', 'set', 'clear', 'generate'] as const) {
      h.fail(call, new Error('the driver’s own words'))
      await seeing((s) => (call === 'generate' || call === 'clear' ? s.login('bert') : s.set('a', PAYLOAD)))
    }
    // What a visitor sends is no more to be printed than what he was given: unknown, wrong, old, and two at once.
    const sent = [newKey(), `${String(visit.browser.cookies.get(NAME)).slice(0, 12)}${newKey().slice(12)}`]
    const other = h.visitor()
    await other((s) => s.set('a', 1))
    const pair = [visit.browser.cookies.get(NAME), other.browser.cookies.get(NAME)] as [string, string]
    for (const key of [...sent, ...pair]) held.add(key)
    for (const keys of [...sent.map((key) => [key]), pair]) {
      const cookie = keys.map((key) => `${NAME}=${key}`).join('; ')
      await h.visitor().raw((s) => show(s), { headers: { cookie } })
    }
    assert.deepEqual(h.types.slice(-3), ['unknown_key', 'wrong_secret', 'ambiguous_cookies'])
    h.now.tick(8 * DAY)
    h.fail('touch', new Error('read only'))
    await seeing((s) => s.get('a'))
    await seeing((s) => s.invalidate())
    await seeing(form)
    held.add('rubbish-of-a-visitor')
    await h.visitor().raw(form, { headers: { cookie: `${PRE}=rubbish-of-a-visitor` } })
    const manager = sessionManager({ backend: h.backend, storeTimeout: PATIENT, secret: SECRET })
    const opened = await manager.open({ headers: new Headers() })
    for (const thing of [manager, manager(() => new Response()), opened, ...h.events, ...told]) show(thing)
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
        assert.fail('is refused')
      } catch (error) {
        show(error)
      }
    }
    held.add(SECRET.slice(0, 20)).add(SECRET.slice(0, 30))

    const text = printed.join('\n')
    const counts = [h.events.length, told.length, printed.length, held.size]
    assert.ok(
      counts.every((count) => count >= 10),
      `there is something to look through: ${counts}`,
    )
    for (const secret of held) {
      const whole = secret.replaceAll('\0', '')
      // A label is shown on purpose: of a key, what follows it is the secret. A form secret that is a label is one too.
      const hidden = /^[\w-]{43}$/.test(whole) && whole !== SECRET && whole !== OTHER_SECRET ? whole.slice(12) : whole
      if (hidden.length < 13) continue
      assert.ok(!text.includes(hidden), `${hidden} was printed`)
      assert.ok(!text.includes(Buffer.from(hidden).toString('hex')))
    }
    assert.ok(text.includes('the driver’s own words'), 'the cause is there to read')
  })

  test('SEC-4: what a visitor sends gets into no event and no message, so no line of a log is his', async () => {
    const s = await stage()
    const key = await s.live('one')
    const odd = '\u001b[31m\r\nFAKE LINE'
    for (const header of [
      `${NAME}=${odd}`,
      `${PRE}=${odd}`,
      `${odd}=${key}`,
      `${NAME}=${key.slice(0, 12)}${odd}`,
      `${NAME}=${newKey()}; ${PRE}=${odd}`,
    ]) {
      await s.see(adapted(header), 'form')
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

  test('SEC-5: each thing worth knowing is told once, with its label', async () => {
    const h = await setup()
    const news = () => {
      const since = h.events.splice(0) as { type: EventType; label?: string }[]
      h.types.splice(0)
      return since.map(({ type, label }) => [type, label])
    }
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    const label = (await visit((s) => s.label)) as string
    assert.deepEqual(news(), [['created', label]])
    const first = visit.browser.cookies.get(NAME) as string
    const unknown = newKey()
    const sends = (cookie: string, act = (s: Session) => void s.get('a')) =>
      h.visitor().raw(act, { headers: { cookie } })
    await sends(`${NAME}=${unknown}`)
    assert.deepEqual(news(), [['unknown_key', unknown.slice(0, 12)]])
    await sends(`${NAME}=${label}${'x'.repeat(30)}A`)
    assert.deepEqual(news(), [['wrong_secret', label]])
    await visit((s) => s.rotateKey())
    assert.deepEqual(news(), [['renewed', label]])
    await visit((s) => s.get('a'))
    h.now.tick(30 * SECOND)
    await sends(`${NAME}=${first}`)
    assert.deepEqual(news(), [['retired_key', label]])
    const other = h.visitor()
    await other((s) => s.set('a', 1))
    news()
    const key = visit.browser.cookies.get(NAME)
    await sends(`${NAME}=${other.browser.cookies.get(NAME)}; ${NAME}=${key}`)
    assert.deepEqual(news(), [['ambiguous_cookies', label]])
    await h.visitor().raw(form, { headers: { cookie: `${PRE}=junk` } })
    assert.deepEqual(news(), [['invalid_pre_session', undefined]])
    h.fail('get', new Error('down'))
    await visit((s) => s.get('a'))
    assert.equal(news().filter(([type]) => type === 'store_error').length, 1)
    await visit((s) => s.login('anna'))
    const owned = await visit((s) => s.label)
    assert.deepEqual(news(), [['login', owned]])
    await visit((s) => s.invalidate())
    assert.deepEqual(news(), [['invalidated', owned]])
    h.now.tick(14 * DAY)
    await other((s) => s.get('a'))
    assert.deepEqual(
      news().map(([type]) => type),
      ['expired'],
    )
  })
  test('SEC-5: a renewal that several visits asked for at once is told once', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    await Promise.all(Array.from({ length: 10 }, () => visit.otherProcess()((s) => s.rotateKey())))
    assert.equal(h.types.filter((type) => type === 'renewed').length, 1)
  })
  test('SEC-5: a listener that throws, or whose promise is rejected, breaks no request and does not end the process', async () => {
    const rejected: unknown[] = []
    const unhandled = (error: unknown) => rejected.push(error)
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
        const stranger = await h.visitor().raw((s) => s.get('a'), { headers: { cookie: `${NAME}=${newKey()}` } })
        assert.equal(stranger.status, 200)
      }
      for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve))
      assert.deepEqual(rejected, [])
    } finally {
      process.removeAllListeners('unhandledRejection')
      for (const listener of before) process.on('unhandledRejection', listener)
    }
  })
  test('SEC-6: every error that is ours is a KeepsakeError with a code and a sentence', async () => {
    const h = await setup({ maxBytes: 50 })
    const faults: unknown[] = []
    const caught = async (act: () => unknown) => {
      try {
        await act()
        assert.fail('is refused')
      } catch (error) {
        faults.push(error)
      }
    }
    await caught(() => sessionManager({ backend: 'memory:', idleTimeout: 0 }))
    await caught(() => sessionManager({ backend: 'nothing:' }))
    await caught(() => backendFromUrl('memory:x'))
    await caught(() => session(new Request('https://app.test/')))
    await h.visitor()(async (s) => {
      await caught(() => s.set('a', 10n))
      await caught(() => s.set(1 as never, 1 as never))
      await caught(() => s.login(''))
    })
    let late: Session | undefined
    await h.visitor()((s) => {
      late = s
    })
    await caught(() => late?.set('a', 1))
    h.fail('generate', new Error('down'))
    await h.visitor()((s) => s.set('a', 1))
    await h.visitor()((s) => s.set('a', 'x'.repeat(60)))
    faults.push(...(h.events as { error?: unknown }[]).map(({ error }) => error).filter((error) => error !== undefined))
    assert.deepEqual(
      faults.map((fault) => (fault instanceof KeepsakeError ? fault.code : fault)),
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
    for (const fault of faults as KeepsakeError[]) {
      assert.match(fault.message, /^[A-Za-z'].{20,400}$/)
      assert.equal(fault.name, 'KeepsakeError')
      assert.equal(String(fault), `KeepsakeError: ${fault.message}`)
    }
  })
  test('SEC-7: where a session cannot be had there is an empty one or an error, and never another’s or a half of one', async () => {
    const memory = await backendFromUrl('memory:')
    const s = await stage(memory)
    const key = await s.live('one')
    const entry = await memory.get(s.address(key))
    assert.ok(entry)
    const never: Partial<typeof entry>[] = [
      { metadata: '' },
      { metadata: '2.x.y' },
      { value: 'null' },
      { value: '"who"' },
      { value: '[{"who":"one"}]' },
      { expiresAt: Number.NaN },
      { expiresAt: 0 },
      { metadata: entry.metadata.replace(/.{43}$/, 'x'.repeat(43)) },
    ]
    for (const change of never) {
      await memory.clear(s.address(key))
      await memory.generate(s.address(key), { ...entry, owner: 'anna', ...change })
      const seen = await s.see(adapted(`${NAME}=${key}`))
      assert.deepEqual([seen.who, seen.owner, seen.fields], [undefined, undefined, []], JSON.stringify(change))
    }
    for (const odd of [null, 'entry', 0, [], {}, { value: '{"who":"one"}' }, { ...entry, metadata: undefined }]) {
      const broken: Backend = { ...memory, get: () => odd as never }
      const page = sessionManager({ backend: broken, storeTimeout: PATIENT, secret: SECRET })(async (request) => {
        const own = await session(request)
        return Response.json([own.get('who'), own.owner])
      })
      // A backend that breaks its contract may be an error; it is nobody's session.
      const answer = async () => page(adapted(`${NAME}=${key}`))
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
    assert.equal((await down(adapted(`${NAME}=${key}`))).status, 200)
  })
})

suite('records', () => {
  test('DES-1: nothing that was read is ever run: no eval, no Function, no deserializer of v8, no vm, in any source', () => {
    const root = resolve(import.meta.dirname, '../../src')
    const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
    assert.ok(files.length > 20)
    const forbidden =
      /\beval\s*\(|\bnew\s+Function\b|[^.\w]Function\s*\(|\bdeserialize\b|['"](node:)?(v8|vm)['"]|\bsetTimeout\(\s*['"`]/
    // Two questions to v8 that run nothing: how large the heap may be, and how wide the characters of a text are.
    const asked = /import \{ (getHeapStatistics|isStringOneByteRepresentation|, )+ \} from 'node:v8'/g
    for (const file of files) {
      assert.doesNotMatch(readFileSync(join(root, file), 'utf8').replace(asked, ''), forbidden, file)
    }
    assert.match("import { deserialize } from 'node:v8'".replace(asked, ''), forbidden)
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
  test('DES-1: gadgets of other serialisers are data', async () => {
    const s = await stage()
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
  test('DES-2: keys that name prototypes stay keys: from the store, at a set, in a replay, and over a login', async () => {
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
  test('DES-3: what JSON cannot keep is refused at the set, with its path, the same on every store', async (t) => {
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
      // And what it keeps comes back as it was, lone halves of characters too.
      const kept = {
        lone: '\ud800',
        nul: 'a\0b',
        emoji: '🦊',
        zero: 0,
        no: false,
        none: null,
        list: [[], {}],
        left: undefined,
      }
      await visit((s) => s.set('f', kept))
      assert.equal(await visit((s) => JSON.stringify(s.get('f'))), JSON.stringify(kept))
    }
  })
  for (const { name, opener } of stores) {
    test(`DES-4: the records of format 1 still open, from ${name}: keys, fields, owner and form secret`, async (t) => {
      const now = clock(records.writtenAt)
      const backend = name === 'memory' ? await backendFromUrl('memory:', { now }) : await opener(t)()
      const { secret, namespace } = records
      const page = sessionManager({ backend, storeTimeout: PATIENT, secret, namespace, now })(async (request) => {
        const s = await session(request)
        return Response.json({ fields: s.fields, owner: s.owner, form: formSecret(await workOf(request)) })
      })
      const ask = async (cookie: string) => {
        const response = await page(new Request('https://app.test/', { headers: { cookie } }))
        return {
          cookies: cookiesOf(response),
          ...((await response.json()) as { fields: object; owner?: string; form: string }),
        }
      }
      assert.ok(records.records.length >= 5)
      for (const { state, keys, address, entry, fields, form, ...record } of records.records) {
        assert.equal(await backend.generate(address, entry), undefined)
        for (const [which, key] of Object.entries(keys)) {
          const seen = await ask(`${NAME}=${key}`)
          assert.deepEqual(seen.fields, fields, `${state}, ${which}`)
          assert.equal(seen.owner, 'owner' in record ? record.owner : undefined, state)
          if (form !== undefined) assert.equal(seen.form, form, state)
          // Whoever holds the key before an offer is offered the very key that was offered then.
          const offered = seen.cookies.map((line) => line.slice(line.indexOf('=') + 1, line.indexOf(';')))
          const waits = state === 'offered' && which === 'previous'
          assert.deepEqual(offered, waits ? [(keys as { current: string }).current] : [], `${state}, ${which}`)
        }
      }
      for (const { name, token, form } of records.preSessions) {
        assert.equal((await ask(`${name}=${token}`)).form, form)
      }
      // The key before one that was confirmed opens for the rest of its grace.
      now.tick(30 * SECOND)
      const confirmed = records.records.find(({ state }) => state === 'confirmed')
      assert.deepEqual((await ask(`${NAME}=${confirmed?.keys.previous}`)).fields, {})
      assert.deepEqual((await ask(`${NAME}=${confirmed?.keys.current}`)).fields, confirmed?.fields)
    })
    test(`DES-4: a record of a version to come is a stranger’s, is told as corrupt, and is left alone in ${name}`, async (t) => {
      const backend = await opener(t)()
      const s = await stage(backend)
      const key = await s.live('one')
      const entry = await backend.get(s.address(key))
      assert.ok(entry)
      for (const metadata of [
        entry.metadata.replace(/^1\./, '2.'),
        entry.metadata.replace(/^1\./, '10.'),
        '',
        'x',
        `${entry.metadata}.......x`,
      ]) {
        assert.equal(decodeMetadata(metadata), undefined)
        await backend.clear(s.address(key))
        const next: Entry = { ...entry, metadata, version: 'tomorrow' }
        await backend.generate(s.address(key), next)
        s.news()
        const seen = await s.see(adapted(`${NAME}=${key}`))
        assert.deepEqual([seen.response.status, seen.who, cookiesOf(seen.response)], [200, undefined, []])
        assert.deepEqual(s.news(), ['corrupt_entry'])
        const wrote = await s.visitor().raw((own) => own.set('b', 1), { headers: { cookie: `${NAME}=${key}` } })
        assert.equal(cookiesOf(wrote).length, 1, 'what is written begins a session of its own')
        assert.deepEqual(await backend.get(s.address(key)), next)
      }
    })
  }
})
