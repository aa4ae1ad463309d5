// The eight functions of keepsake/session, by their rows in docs/parity.md, on every backend that stores entries.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Backend, getCookie, sessionManager } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import {
  clear,
  clearHeaders,
  generate,
  ofHeader,
  ofHeaderOrCreate,
  ofKey,
  set,
  toCookieHeaders,
} from 'keepsake/session'
import { code } from '../support/assert.ts'
import { clock, PATIENT, SECOND } from '../support/clock.ts'
import { stores } from '../support/stores.ts'

const NAME = 'sid'
const WEEK = 604_800
const headersOf = (cookie: string) => new Headers({ cookie })
const notFound = { ok: false, error: 'not_found' }

for (const { name, opener } of stores) {
  suite(`the functions of keepsake/session on ${name}`, () => {
    test('O1, O20: ofKey returns a session that is not modified, or not_found, or not_set', async (t) => {
      const backend = await opener(t)()
      const made = await generate(backend, { user: 'anna' })
      const found = await ofKey(backend, made.key)
      assert.ok(found.ok)
      assert.equal(found.value.key, made.key)
      assert.deepEqual({ ...(found.value.value as object) }, { user: 'anna' })
      assert.equal(found.value.modified, false)
      assert.deepEqual(await ofKey(backend, 'A'.repeat(43)), notFound)
      const unset = await generate(backend, undefined)
      assert.deepEqual(await ofKey(backend, unset.key), { ok: false, error: 'not_set' })
      await set(backend, unset, { value: 'now' as never })
      assert.ok((await ofKey(backend, unset.key)).ok)
    })
    test('O7: the right label with another secret is not_found', async (t) => {
      const backend = await opener(t)()
      const { key } = await generate(backend, 1)
      assert.deepEqual(await ofKey(backend, `${key.slice(0, 12)}${'A'.repeat(31)}`), notFound)
    })
    test('O6, O23: generate stores the session at once, modified, for the default period of the backend', async (t) => {
      const backend = await opener(t)()
      const made = await generate(backend, 'x')
      assert.deepEqual({ ...made, key: '' }, { key: '', value: 'x', expiryPeriod: WEEK, modified: true })
      const { defaultPeriod: _, ...other } = backend
      assert.equal((await generate(other, 'x')).expiryPeriod, WEEK)
      assert.equal((await generate({ ...backend, defaultPeriod: 5 }, 'x')).expiryPeriod, 5)
    })
    test('O8: expiryPeriod is the seconds that are left, and a session expires after its period', async (t) => {
      const backend = await opener(t)()
      const now = clock(Date.now())
      const { key } = await generate(backend, 'x', { expiry: 10, now })
      now.tick(4 * SECOND)
      const found = await ofKey(backend, key, { now })
      assert.equal(found.ok && found.value.expiryPeriod, 6)
      now.tick(6 * SECOND - 1)
      assert.ok((await ofKey(backend, key, { now })).ok)
      now.tick(1)
      assert.deepEqual(await ofKey(backend, key, { now }), notFound)
    })
    test('O9: a session with an expiry of zero or less has expired at once, without an error', async (t) => {
      const backend = await opener(t)()
      for (const expiry of [0, -1, -WEEK]) {
        const made = await generate(backend, 'x', { expiry })
        assert.deepEqual(await ofKey(backend, made.key), notFound)
        const other = await generate(backend, 'x')
        await set(backend, other, { expiry })
        assert.deepEqual(await ofKey(backend, other.key), notFound)
      }
      await assert.rejects(generate(backend, 'x', { expiry: Number.NaN }), code('invalid_option'))
    })
    test('a backend gets whole milliseconds, rounded up, and never a time after the last date', async (t) => {
      const backend = await opener(t)()
      const seen: number[] = []
      const watched: Backend = {
        ...backend,
        generate(key, entry) {
          seen.push(entry.expiresAt)
          return backend.generate(key, entry)
        },
        set(key, change, version) {
          seen.push(change.expiresAt ?? Number.NaN)
          return backend.set(key, change, version)
        },
      }
      // Ahead of the clock with which backends remove expired entries.
      const time = Date.now() + 60_000
      const now = () => time + 0.25
      for (const [expiry, expected] of [
        [1 / 3, time + 334],
        [1e-6, time + 1],
        [1e300, 8.64e15],
      ] as const) {
        const made = await generate(watched, 'x', { expiry, now })
        assert.ok((await set(watched, made, { expiry, now })).ok)
        assert.ok((await ofKey(watched, made.key, { now })).ok)
        assert.deepEqual(seen.splice(0), [expected, expected])
      }
      for (const expiry of [0, -1e300]) {
        const made = await generate(watched, 'x', { expiry, now })
        assert.deepEqual(await ofKey(watched, made.key, { now }), notFound, 'the session has expired')
      }
    })
    test('O21: ofHeader returns undefined without the cookie, and the error of an invalid one', async (t) => {
      const backend = await opener(t)()
      const { key } = await generate(backend, 'x')
      assert.deepEqual(await ofHeader(backend, NAME, new Headers()), { ok: true, value: undefined })
      assert.deepEqual(await ofHeader(backend, NAME, headersOf(`other=${key}`)), { ok: true, value: undefined })
      assert.deepEqual(await ofHeader(backend, NAME, headersOf(`${NAME}=rubbish`)), notFound)
      const found = await ofHeader(backend, NAME, headersOf(`a=1; ${NAME}=${key}`))
      assert.equal(found.ok && found.value?.value, 'x')
    })
    test('O22: ofHeaderOrCreate creates a session without the cookie, and on every error', async (t) => {
      const backend = await opener(t)()
      const { key } = await generate(backend, 'old')
      const known = await ofHeaderOrCreate(backend, NAME, 'new', headersOf(`${NAME}=${key}`))
      assert.deepEqual([known.value, known.key, known.modified], ['old', key, false])
      for (const headers of [new Headers(), headersOf(`${NAME}=rubbish`), headersOf(`${NAME}=${'A'.repeat(43)}`)]) {
        const made = await ofHeaderOrCreate(backend, NAME, 'new', headers, { expiry: 60 })
        assert.deepEqual([made.value, made.expiryPeriod, made.modified], ['new', 60, true])
        assert.notEqual(made.key, 'A'.repeat(43))
        assert.ok((await ofKey(backend, made.key)).ok)
      }
    })
    test('O24: set writes the value and the expiry, or only the expiry without a value', async (t) => {
      const backend = await opener(t)()
      const now = clock(Date.now())
      const made = await generate(backend, 'x', { expiry: 10, now })
      const found = await ofKey<string>(backend, made.key, { now })
      assert.ok(found.ok)
      assert.deepEqual(await set(backend, found.value, { value: 'y', expiry: 20, now }), { ok: true, value: undefined })
      assert.deepEqual([found.value.value, found.value.expiryPeriod, found.value.modified], ['y', 20, true])
      await set(backend, found.value, { now })
      const again = await ofKey(backend, made.key, { now })
      assert.deepEqual(again.ok && [again.value.value, again.value.expiryPeriod], ['y', WEEK])
    })
    test('O24: set without a value keeps the value of a concurrent set', async (t) => {
      const backend = await opener(t)()
      const made = await generate(backend, 'x')
      const other = await ofKey<string>(backend, made.key)
      assert.ok(other.ok)
      await set(backend, other.value, { value: 'theirs' })
      await set(backend, made, { expiry: 60 })
      const found = await ofKey(backend, made.key)
      assert.equal(found.ok && found.value.value, 'theirs')
    })
    test('O10, O30: set on a session that was cleared or has expired is not_found, and revives nothing', async (t) => {
      const backend = await opener(t)()
      const now = clock(Date.now())
      const cleared = await generate(backend, 'x', { now })
      const late = await ofKey<string>(backend, cleared.key, { now })
      assert.ok(late.ok)
      await clear(backend, cleared)
      assert.deepEqual(await set(backend, late.value, { value: 'y', now }), notFound)
      assert.deepEqual([late.value.value, late.value.modified], ['x', false])
      assert.deepEqual(await set(backend, cleared, { value: 'y', now }), notFound)
      const expired = await generate(backend, 'x', { expiry: 1, now })
      now.tick(SECOND)
      assert.deepEqual(await set(backend, expired, { value: 'y', now }), notFound)
      assert.deepEqual(await ofKey(backend, expired.key, { now }), notFound)
    })
    test('O11, O25: clear ends the session, empties the object, keeps its key, and may be repeated', async (t) => {
      const backend = await opener(t)()
      const made = await generate(backend, 'x')
      const { key } = made
      await clear(backend, made)
      await clear(backend, made)
      assert.deepEqual({ ...made }, { key, value: undefined, expiryPeriod: 0, modified: true })
      assert.deepEqual(await ofKey(backend, key), notFound)
    })
    test('O19: values are frozen copies', async (t) => {
      const backend = await opener(t)()
      const value = { items: ['tea'] }
      const made = await generate(backend, value)
      value.items.push('x')
      assert.throws(() => (made.value as typeof value).items.push('x'), TypeError)
      const found = await ofKey<typeof value>(backend, made.key)
      assert.deepEqual(found.ok && found.value.value?.items, ['tea'])
      await assert.rejects(generate(backend, new Date(0)), code('not_json'))
    })
  })
}

suite('the headers of keepsake/session', async () => {
  const [store] = stores
  const made = async () => {
    const backend = await (store as (typeof stores)[number]).opener(undefined as never)()
    return { backend, session: await generate(backend, 'x', { expiry: 60 }) }
  }
  test('O26, O27: a modified session gives Set-Cookie and Vary, with safe attributes', async () => {
    const { session } = await made()
    assert.deepEqual(toCookieHeaders(NAME, session), [
      ['Set-Cookie', `${NAME}=${session.key}; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax`],
      ['Vary', 'Cookie'],
    ])
    assert.deepEqual(
      toCookieHeaders(NAME, session, {
        discard: true,
        path: '/app',
        domain: 'a.example',
        secure: false,
        httpOnly: false,
      }),
      [
        ['Set-Cookie', `${NAME}=${session.key}; Path=/app; Domain=a.example; SameSite=Lax`],
        ['Vary', 'Cookie'],
      ],
    )
  })
  test('O26: an unmodified session gives only Vary', async () => {
    const { backend, session } = await made()
    const found = await ofKey(backend, session.key)
    assert.deepEqual(found.ok && toCookieHeaders(NAME, found.value), [['Vary', 'Cookie']])
  })
  test('O26, O28: a cleared session deletes the cookie, without its key', async () => {
    const { backend, session } = await made()
    await clear(backend, session)
    const removal = ['Set-Cookie', `${NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax`]
    assert.deepEqual(toCookieHeaders(NAME, session), [removal, ['Vary', 'Cookie']])
    assert.deepEqual(clearHeaders(NAME), [removal])
    assert.deepEqual(clearHeaders(NAME, { path: '/app', domain: 'a.example' }), [
      ['Set-Cookie', `${NAME}=; Max-Age=0; Path=/app; Domain=a.example; Secure; HttpOnly; SameSite=Lax`],
    ])
  })
  test('CK-2: every function refuses an impossible cookie name, also without a cookie', async () => {
    const backend = memoryBackend()
    const one = await generate(backend, 1)
    for (const name of [
      '',
      ' ',
      'a b',
      'a=b',
      'a;b',
      'a\r\nb',
      'sïd',
      'x'.repeat(257),
      5 as never,
      undefined as never,
    ]) {
      for (const headers of [new Headers(), new Headers({ cookie: 'a=b; =c' })]) {
        await assert.rejects(ofHeader(backend, name, headers), { code: 'invalid_option' })
        await assert.rejects(ofHeaderOrCreate(backend, name, 1, headers), { code: 'invalid_option' })
      }
      assert.throws(() => toCookieHeaders(name, one), { code: 'invalid_option' })
      assert.throws(() => clearHeaders(name), { code: 'invalid_option' })
      const page = sessionManager({ backend, storeTimeout: PATIENT })(async (request) =>
        Response.json(await getCookie(request, name, { sealed: false })),
      )
      await assert.rejects(async () => page(new Request('https://app.test/')), { code: 'invalid_option' })
    }
    for (const name of ['__session', '_ga', 'host', '__Host-sid']) {
      const now = clock(Date.now())
      assert.deepEqual(
        await ofHeader(backend, name, new Headers({ cookie: `${name}=${one.key}` }), { now }),
        await ofKey(backend, one.key, { now }),
      )
    }
  })
  test('an entry without valid JSON is not_found, and no error quotes it', async () => {
    const backend = memoryBackend()
    const { key } = await generate(backend, 'hunter2', {})
    const broken = {
      ...backend,
      get: async (at: string) => {
        const entry = await backend.get(at)
        return entry && { ...entry, value: '{"password":hunter2}' }
      },
    }
    assert.deepEqual(await ofKey(broken, key), notFound)
  })
  test('CK-2: a name that a browser would refuse is refused', async () => {
    const { session } = await made()
    for (const [name, options] of [
      ['__Host-sid', { path: '/app' }],
      ['__Host-sid', { domain: 'a.example' }],
      ['__Secure-sid', { secure: false }],
      ['__Host-Http-sid', { httpOnly: false }],
      ['__host-sid', {}],
      ['Host__sid', {}],
      ['sid; Domain=evil.test', {}],
      ['', {}],
    ] as const) {
      assert.throws(() => toCookieHeaders(name, session, options), code('invalid_option'), name)
    }
    for (const name of ['__Host-sid', '__Secure-sid', '__Http-sid', '__Host-Http-sid']) toCookieHeaders(name, session)
  })
})
