// Session keys, the life of a session, and concurrent requests: one test for each requirement, named after it.

import assert from 'node:assert/strict'
import crypto from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { dirname, join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import {
  type Backend,
  backendFromUrl,
  type Entry,
  KeepsakeError,
  type Session,
  session,
  sessionManager,
} from 'keepsake'
import { browser } from 'keepsake/testing'
import { hashKey, isKey, newKey, sameHash, storageKeys } from '../../src/crypto/keys.ts'
import { random } from '../../src/crypto/random.ts'
import { decodeMetadata, encodeMetadata } from '../../src/session/metadata.ts'
import { cookiesOf, fields, form, get, set } from '../support/acts.ts'
import { clock, DAY, PATIENT, SECOND } from '../support/clock.ts'
import { folder } from '../support/folder.ts'
import { isKeyText, NAME, PRE, rawRequest, SECRET, startSite } from '../support/requests.ts'
import { stores } from '../support/stores.ts'
import { type Setup, setup, setupSession } from '../support/visits.ts'

/** A field of the session with this key. Without a browser, because a browser deletes its cookie at the absolute end. */
const fieldBy = async (h: Setup, key: unknown, field: string): Promise<unknown> => {
  let value: unknown
  await h.visitor().raw((s) => {
    value = field === 'owner' ? s.owner : s.get(field)
  }, holding(key))
  return value
}
const holding = (key: unknown) => ({ headers: { cookie: `${NAME}=${key}` } })

/** Runs `act` while `fill` replaces the system's random generator. Buffered random bytes are used first. */
const withRandom = async (fill: (bytes: Buffer) => Buffer, act: () => unknown) => {
  const real = crypto.randomFillSync
  crypto.randomFillSync = fill as typeof real
  syncBuiltinESMExports()
  try {
    await act()
  } finally {
    crypto.randomFillSync = real
    syncBuiltinESMExports()
  }
}

suite('keys', () => {
  test('ID-1: a hundred thousand keys have 43 characters each, are all different, and set every bit in half of them', () => {
    const count = 100_000
    const ones = new Uint32Array(256)
    const seen = new Set<string>()
    for (let i = 0; i < count; i++) {
      const key = newKey()
      assert.ok(isKeyText(key) && isKey(key))
      seen.add(key)
      const bytes = Buffer.from(key, 'base64url')
      for (let bit = 0; bit < 256; bit++) ones[bit] = (ones[bit] ?? 0) + ((bytes.readUInt8(bit >> 3) >> (bit & 7)) & 1)
    }
    assert.equal(seen.size, count)
    for (const [bit, set] of ones.entries()) assert.ok(Math.abs(set / count - 0.5) < 0.01, `bit ${bit}: ${set}`)
  })
  test('ID-1: the value of the session cookie is such a key', async () => {
    const h = await setup()
    const keys = new Set<string>()
    for (let i = 0; i < 200; i++) {
      const visit = h.visitor()
      await visit(set('a'))
      keys.add(visit.browser.cookies.get(NAME) as string)
    }
    assert.equal([...keys].filter(isKeyText).length, 200)
  })
  test('ID-1: if the system gives no random numbers, no session is created', async () => {
    const h = await setup()
    const broken = () => {
      throw new Error('no entropy')
    }
    await withRandom(broken, async () => {
      assert.throws(() => {
        for (let i = 0; i < 200; i++) newKey()
      }, /no entropy/)
      await assert.rejects(h.visitor()(set('a')), /no entropy/)
      await assert.rejects(
        h.visitor()((s) => s.login('anna')),
        /no entropy/,
      )
    })
    assert.equal(h.total(), 0)
    assert.ok(isKeyText(newKey()), 'a key is created when random numbers are back')
  })
  test('ID-2: a key has one valid spelling', () => {
    const key = newKey()
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    const bytes = Buffer.from(key, 'base64url')
    const spellings = [...alphabet]
      .map((last) => key.slice(0, -1) + last)
      .filter((text) => Buffer.from(text, 'base64url').equals(bytes))
    assert.equal(spellings.length, 4, 'four decode to the same bytes')
    assert.deepEqual(spellings.filter(isKey), [key])
    for (const odd of [`${key}=`, ` ${key}`, `${key}\n`, key.slice(1), `${key}A`, key.replace(/.$/, '+'), '']) {
      assert.equal(isKey(odd), false, JSON.stringify(odd))
    }
  })

  /**
   * Runs sessions with all kinds of changes on a backend. Returns the cookie values of the browsers, those of sessions with
   * an owner, and all arguments of the backend's calls as one text.
   */
  const runSessions = async (backend: Backend) => {
    const written: unknown[] = []
    const recorded = <A extends unknown[], R>(call: (...args: A) => R) => {
      return (...args: A): R => {
        written.push(args)
        return call(...args)
      }
    }
    const recording = {
      ...backend,
      get: recorded(backend.get),
      generate: recorded(backend.generate),
      set: recorded(backend.set),
      clear: recorded(backend.clear),
      touch: recorded(backend.touch),
    }
    const h = await setup({ backend: recording, secret: SECRET })
    const cookies: string[] = []
    const visit = h.visitor()
    const noteCookies = () => cookies.push(...visit.browser.cookies.values())
    await visit(form)
    noteCookies()
    for (const act of [
      set('a'),
      (s: Session) => s.rotateKey(),
      set('b'),
      (s: Session) => s.login('anna'),
      (s: Session) => s.rotateKey(),
    ]) {
      await visit(act)
      noteCookies()
    }
    h.now.tick(8 * DAY)
    await visit(get('a'))
    const lost = h.visitor()
    await lost(set('a'))
    cookies.push(...lost.browser.cookies.values())
    assert.ok(new Set(cookies).size >= 6)
    return { cookies: [...new Set(cookies)], written: JSON.stringify(written) }
  }
  /** A backend keeps the label of a key, as its storage key: 72 of 256 bits. The other 184 are nowhere in it. */
  const assertNoKeys = (text: string, cookies: readonly string[]) => {
    for (const value of cookies) {
      assert.ok(!text.includes(value), 'no cookie value')
      if (isKeyText(value)) assert.ok(text.includes(`sid.${value.slice(0, 12)}`), 'the label is the storage key')
      assert.ok(!text.includes(value.slice(12)), 'no secret part of a key')
      assert.ok(!text.includes(Buffer.from(value, 'base64url').toString('hex')), 'no key in hexadecimal')
    }
    assert.ok(!text.includes(SECRET), 'not the configured secret')
  }
  test('ID-3: the memory backend receives no key and no cookie value', async () => {
    const { cookies, written } = await runSessions(await backendFromUrl('memory:'))
    assert.ok(written.length > 1000)
    assertNoKeys(written, cookies)
  })
  test('ID-3: the files of the SQLite backend contain no key and no cookie value', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = await backendFromUrl(`sqlite:${path}`)
    t.after(() => backend.close?.())
    const { cookies } = await runSessions(backend)
    const files = readdirSync(dirname(path))
    assert.ok(files.length >= 2)
    const all = files.map((file) => readFileSync(join(dirname(path), file)))
    const text = all.map((bytes) => bytes.toString('latin1')).join('\0')
    assert.ok(text.includes('anna'), 'the text has the stored entries')
    assertNoKeys(text, cookies)
    // The secret part is not stored as bytes either.
    for (const value of cookies.filter(isKeyText)) {
      const secret = Buffer.from(value, 'base64url').subarray(9)
      assert.ok(!all.some((file) => file.includes(secret)))
    }
  })
  test('ID-3: no value in a backend opens a session', async () => {
    const backend = await backendFromUrl('memory:')
    const s = await startSite(backend)
    const key = await s.createSession('one')
    const entry = (await backend.get(s.storageKey(key))) as Entry
    const metadata = decodeMetadata(entry.metadata)
    for (const stored of [s.storageKey(key), hashKey(key), metadata?.currentHash, entry.version, entry.metadata]) {
      assert.equal((await s.send(rawRequest(`${NAME}=${stored}`))).who, undefined)
      assert.equal(
        (await s.send(rawRequest(`${NAME}=${key.slice(0, 12)}${String(stored).slice(0, 31)}`))).who,
        undefined,
      )
    }
    assert.equal((await s.send(rawRequest(`${NAME}=${key}`))).who, 'one')
  })
  test('ID-4: a key of one application opens nothing in another application with the same backend', async () => {
    const backend = await backendFromUrl('memory:')
    const app = (name: string, namespace?: string) => {
      const options = { backend, cookie: { name }, ...(namespace !== undefined && { namespace }) }
      return sessionManager(options)(async (request) => {
        const s = await session(request)
        if (request.method === 'POST') s.set('who', name)
        return new Response(String(s.get('who')))
      })
    }
    const a = browser(app('a'))
    await a('/', { method: 'POST' })
    const key = a.cookies.get('__Host-Http-a')
    const ask = async (handler: ReturnType<typeof app>, name: string) =>
      (await handler(rawRequest(`__Host-Http-${name}=${key}`))).text()
    assert.equal(await ask(app('a'), 'a'), 'a')
    assert.equal(await ask(app('b'), 'b'), 'undefined')
    assert.equal(await ask(app('a', 'other'), 'a'), 'undefined')
    assert.equal(await ask(app('b', 'a'), 'b'), 'a', 'the namespace counts, not the name of the cookie')
  })
  test('ID-4: different pairs of namespace and label have different storage keys', () => {
    const pairs = [
      ['a', 'b c'],
      ['a b', 'c'],
      ['', 'a b c'],
      ['a', '1 b'],
      ['a 1', 'b'],
      ['é', 'x'],
      ['e\u0301', 'x'],
      ['1 a', 'x'],
      ['a.end', 'x'],
      ['_a', 'x'],
      ['a'.repeat(41), 'x'],
      ['a'.repeat(1000), 'x'],
    ] as const
    const keys = pairs.map(([namespace, label]) => storageKeys(namespace)(label))
    const ends = pairs.map(([namespace, label]) => storageKeys(namespace, 'end.')(label))
    assert.equal(new Set([...keys, ...ends]).size, 2 * pairs.length)
  })
  test('ID-5: a key that keepsake did not issue never becomes the key or the label of a new session', async () => {
    const s = await startSite()
    for (const planted of ['A'.repeat(43), newKey()]) {
      const visit = s.visitor()
      const response = await visit.raw(set('a'), holding(planted))
      const [cookie = '', ...more] = cookiesOf(response)
      assert.match(cookie, new RegExp(`^${NAME}=[A-Za-z0-9_-]{43};`))
      assert.deepEqual(more, [])
      assert.ok(!cookie.includes(planted.slice(0, 12)))
      assert.equal(await s.backend.get(s.storageKey(planted)), undefined)
      const loggedIn = await s.visitor().raw((own) => own.login('anna'), holding(planted))
      assert.ok(!cookiesOf(loggedIn)[0]?.includes(planted.slice(0, 12)))
      assert.equal(await s.backend.get(s.storageKey(planted)), undefined)
    }
  })
  /** Runs `act` while the next `times` keys that are created have the same label. A key takes 32 bytes. */
  const withOneLabel = async (times: number, act: () => Promise<void>) => {
    let fills = 0
    const fill = (pool: Buffer) => {
      fills++
      crypto.randomBytes(pool.length).copy(pool)
      for (let draw = 0; draw < times; draw++) pool.fill(7, 1 + draw * 32, 1 + draw * 32 + 9)
      return pool
    }
    await withRandom(fill, async () => {
      while (fills === 0) random(1)
      await act()
      assert.equal(fills, 1)
    })
  }
  const LABEL = Buffer.alloc(9, 7).toString('base64url')
  test('ID-6: if the storage key of a new key is taken, another key is used, and the existing session stays unchanged', async () => {
    const h = await setup()
    const [first, second] = [h.visitor(), h.visitor()]
    // The first write draws the name of the writer, so that the next draws are keys.
    await h.visitor()(set('earlier'))
    await withOneLabel(3, async () => {
      assert.equal(await first(set('first')), undefined)
      assert.equal(await second(set('second')), undefined)
    })
    assert.equal(h.calls.generate, 5, 'two of four keys were taken')
    assert.equal(await first((s) => s.label), LABEL)
    assert.notEqual(await second((s) => s.label), LABEL)
    assert.deepEqual([await first(fields), await second(fields)], [['first'], ['second']])
  })
  test('ID-6: after three taken keys the request fails, and the existing session stays unchanged', async () => {
    const h = await setup()
    const [first, second] = [h.visitor(), h.visitor()]
    // The first write draws the name of the writer, so that the next draws are keys.
    await h.visitor()(set('earlier'))
    await withOneLabel(4, async () => {
      await first(set('first'))
      const response = await second.raw(set('second'))
      assert.equal(response.status, 500)
      assert.deepEqual(cookiesOf(response), [])
    })
    const last = h.events.at(-1) as { error?: KeepsakeError }
    assert.equal(last.error?.code, 'key_collision')
    assert.deepEqual(await first(fields), ['first'])
  })
  test('ID-7: keys are read only from the Cookie header, not from the URL, the body or another header', async () => {
    const s = await startSite()
    const key = await s.createSession('one')
    const body = new URLSearchParams({ [NAME]: key, sid: key })
    for (const request of [
      new Request(`https://app.test/?${NAME}=${key}&sid=${key}`),
      new Request(`https://app.test/;${NAME}=${key};jsessionid=${key}`),
      new Request('https://app.test/', { method: 'POST', body }),
      ...['x-h3-session', 'x-session-id', 'authorization', 'cookie2', 'set-cookie'].map(
        (name) => new Request('https://app.test/', { headers: { [name]: `${NAME}=${key}` } }),
      ),
    ]) {
      const reads = s.total()
      assert.equal((await s.send(request)).who, undefined)
      assert.equal(s.total(), reads)
    }
    assert.equal((await s.send(rawRequest(`${NAME}=${key}`))).who, 'one')
  })
  test('ID-8: comparing texts of any length and any characters throws no error, and only equal hashes are equal', () => {
    const texts = Array.from({ length: 101 }, (_, length) => 'x'.repeat(length))
    const mine = hashKey(newKey())
    texts.push(mine, `${mine.slice(0, -1)}\0`, `${mine}\0`, 'x'.repeat(1000), 'é'.repeat(43), '\ud800', '🦊'.repeat(21))
    // Characters whose low bytes are the same.
    texts.push([...mine].map((letter) => String.fromCharCode(letter.charCodeAt(0) + 0x100)).join(''))
    for (const [i, a] of texts.entries()) {
      for (const [j, b] of texts.entries()) {
        assert.equal(sameHash(a, b), i === j && a.length === 43, `${JSON.stringify(a)} ${JSON.stringify(b)}`)
      }
    }
  })
  test('ID-9: a Cookie header that is a list, a number or an object causes no backend call', async () => {
    const s = await startSite()
    const key = await s.createSession('one')
    const reads = s.total()
    for (const odd of [[key], [`${NAME}=${key}`], { [NAME]: key }, 0, true]) {
      const headers = { get: () => odd, keys: () => [].values() } as unknown as Headers
      const visit = await sessionManager({ backend: s.backend, storeTimeout: PATIENT, secret: SECRET })
        .open({ headers })
        .catch((error: unknown) => error)
      if (visit instanceof Error) assert.ok(visit instanceof TypeError)
      else assert.deepEqual({ ...(visit as Session).fields }, {})
    }
    assert.equal(s.total(), reads)
  })
})

for (const { name, opener } of stores) {
  suite(`the life of a session, on ${name}`, () => {
    /** Options with a new backend. For memory `setup` makes one, because it sweeps by the clock of `setup`. */
    const freshBackend = async (t: TestContext): Promise<{ backend?: Backend; secret?: typeof SECRET }> =>
      name === 'memory' ? {} : { backend: await opener(t)(), secret: SECRET }
    test('LIFE-1: a login gives a new key; the old key ends at once and never sees the account', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      await visit(set('cart'))
      const thief = visit.otherProcess()
      const label = await visit((s) => s.label)
      const seen: unknown[] = []
      // The thief sends a request at each step of the login.
      const generate = h.hold('generate')
      const clear = h.hold('clear')
      const login = visit((s) => s.login('anna'))
      await generate.arrived
      seen.push(await thief((s) => s.owner))
      generate.go()
      await clear.arrived
      seen.push(await thief((s) => s.owner))
      clear.go()
      await login
      seen.push(await thief((s) => s.owner))
      assert.deepEqual(seen, [undefined, undefined, undefined])
      assert.deepEqual(await thief(fields), [])
      assert.equal(h.types.at(-1), 'ended_key')
      assert.equal(await visit((s) => s.owner), 'anna')
      assert.notEqual(await visit((s) => s.label), label)
    })
    test('LIFE-2: a login changes the form secret and keeps only the named fields', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      const anonymous = await visit(form)
      await visit((s) => {
        s.set('cart', 1)
        s.set('planted', 1)
      })
      assert.equal(await visit(form), anonymous)
      await visit((s) => s.login('anna', { keep: ['cart'] }))
      const after = await visit(form)
      assert.notEqual(after, anonymous)
      assert.deepEqual(await visit(fields), ['cart'])
      await visit((s) => s.invalidate())
      assert.ok(![anonymous, after].includes(await visit(form)))
    })
    test('LIFE-3: twenty requests during a rotation keep session and form secret and get one key; after 30 seconds the old key opens nothing', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      await visit((s) => s.login('anna'))
      const secret = await visit(form)
      const old = visit.browser.cookies.get(NAME)
      const tabs = Array.from({ length: 20 }, () => visit.otherProcess())
      const owners = await Promise.all(
        tabs.map((tab, i) =>
          tab(async (s, request) => {
            if (i % 2) s.rotateKey()
            return `${s.owner} ${await form(s, request)}`
          }),
        ),
      )
      assert.deepEqual(new Set(owners), new Set([`anna ${secret}`]))
      const keys = new Set(tabs.map((tab) => tab.browser.cookies.get(NAME)).filter((key) => key !== old))
      assert.equal(keys.size, 1)
      const [key] = keys
      const ownerBy = async (key: unknown) => {
        let owner: string | undefined
        const response = await h.visitor().raw((s) => {
          owner = s.owner
        }, holding(key))
        return [owner, cookiesOf(response).length]
      }
      assert.deepEqual(await ownerBy(key), ['anna', 0])
      h.now.tick(30 * SECOND - 1)
      assert.deepEqual(
        await ownerBy(old),
        ['anna', 0],
        'after the first use of the new key, the old key is offered nothing',
      )
      h.now.tick(1)
      assert.deepEqual(await ownerBy(old), [undefined, 0])
      assert.deepEqual(await ownerBy(key), ['anna', 0])
    })
    test('LIFE-4: two concurrent rotations end in one key and lose no change', async (t) => {
      const { h, visit } = await setupSession(await freshBackend(t))
      const [one, two] = [visit.withSameCookies(), visit.otherProcess()]
      const [first, second] = [h.hold('set'), h.hold('set')]
      const rotations = [one, two].map((tab, i) =>
        tab((s) => {
          s.rotateKey()
          s.set(`tab${i}`, true)
        }),
      )
      await Promise.all([first.arrived, second.arrived])
      second.go()
      first.go()
      await Promise.all(rotations)
      assert.equal(one.browser.cookies.get(NAME), two.browser.cookies.get(NAME))
      assert.notEqual(one.browser.cookies.get(NAME), visit.browser.cookies.get(NAME))
      assert.deepEqual(await one(fields), ['a', 'tab0', 'tab1'])
    })
    test('LIFE-5: a logout ends the entry first, then clears the cookie; if that fails, the answer is 503 and clears the cookie too', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      await visit((s) => s.login('anna'))
      const thief = visit.withSameCookies()
      h.fail('clear', new Error('gone away'))
      const failed = await visit.raw((s) => s.invalidate())
      assert.equal(failed.status, 503)
      const clearing = `${NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax`
      assert.deepEqual(cookiesOf(failed), [clearing])
      assert.ok(h.types.includes('end_failed'))
      const held = h.hold('clear')
      let answered = false
      const logout = thief
        .raw((s) => s.invalidate())
        .then((response) => {
          answered = true
          return response
        })
      await held.arrived
      await new Promise((resolve) => setImmediate(resolve))
      assert.equal(answered, false, 'no answer before the entry has ended')
      const copy = thief.withSameCookies()
      held.go()
      assert.deepEqual(cookiesOf(await logout), [clearing])
      assert.equal(await copy((s) => s.owner), undefined)
    })
    test('LIFE-6: a request that was in progress at a logout brings nothing back, with any kind of change', async (t) => {
      const changes: Record<string, (s: Session) => void> = {
        set: (s) => s.set('late', 1),
        update: (s) => s.update('n', () => 1),
        delete: (s) => s.delete('a'),
        rotateKey: (s) => s.rotateKey(),
        'login again': (s) => s.login('anna'),
        read: (s) => void s.get('a'),
      }
      for (const [change, act] of Object.entries(changes)) {
        const h = await setup(await freshBackend(t))
        const visit = h.visitor()
        await visit((s) => {
          s.login('anna')
          s.set('a', 1)
        })
        const key = visit.browser.cookies.get(NAME) as string
        const [other, thief] = [visit.otherProcess(), visit.withSameCookies()]
        const { promise: opened, resolve: arrived } = Promise.withResolvers<void>()
        const { promise: gone, resolve: go } = Promise.withResolvers<void>()
        const slow = other.raw(async (s) => {
          arrived()
          await gone
          act(s)
        })
        await opened
        await visit((s) => s.invalidate())
        go()
        const response = await slow
        assert.deepEqual(cookiesOf(response), [], `${change}: no cookie`)
        assert.equal(response.status, change === 'read' ? 200 : 409, change)
        assert.deepEqual(await thief(fields), [], change)
        const left = await h.backend.get(storageKeys('sid')(key.slice(0, 12)))
        assert.match(left?.metadata ?? '', /^ended\./, `${change}: only the mark is left`)
        assert.deepEqual([left?.value, left?.owner], [undefined, undefined])
      }
    })
    test('LIFE-8: a session lives until the last millisecond of its idle time; a hundred requests touch it at most once', async (t) => {
      const h = await setup({ ...(await freshBackend(t)), idleTimeout: 100, absoluteTimeout: 1000 })
      const visit = h.visitor()
      await visit(set('a'))
      const other = visit.withSameCookies()
      h.now.tick(100 * SECOND - 1)
      assert.equal(await visit(get('a')), true)
      for (let i = 0; i < 100; i++) {
        h.now.tick(10)
        await visit(get('a'))
      }
      assert.deepEqual([h.calls.touch, h.calls.set], [1, 0])
      h.now.tick(98_999 + 1000 - 10 * 100)
      assert.equal(await other(get('a')), true, 'the idle time counts from the request that touched it')
      h.now.tick(100 * SECOND)
      assert.equal(await other(get('a')), undefined)
      assert.equal(await visit(get('a')), undefined)
    })
    test('LIFE-9: a session that is never idle ends at its absolute end, and a login starts that time again', async (t) => {
      const h = await setup({ ...(await freshBackend(t)), idleTimeout: 100, absoluteTimeout: 1000 })
      const [visit, again] = [h.visitor(), h.visitor()]
      for (const one of [visit, again]) await one((s) => s.login('anna'))
      for (let second = 0; second < 999; second += 27) {
        h.now.tick(27 * SECOND)
        assert.equal(await visit((s) => s.owner), 'anna')
        await again((s) => s.login('anna'))
      }
      h.now.tick(SECOND - 1)
      const [cookie] = cookiesOf(await visit.raw((s) => s.rotateKey()))
      assert.match(cookie ?? '', /; Max-Age=1;/, 'the last millisecond counts')
      const key = visit.browser.cookies.get(NAME)
      assert.equal(await fieldBy(h, key, 'owner'), 'anna')
      h.now.tick(1)
      assert.equal(await fieldBy(h, key, 'owner'), undefined)
      assert.equal(await again((s) => s.owner), 'anna')
    })
    test('LIFE-9: the absolute end counts from creation by the current setting, even if the entry expires later', async (t) => {
      const h = await setup({ ...(await freshBackend(t)), idleTimeout: 100, absoluteTimeout: 1000 })
      const visit = h.visitor()
      await visit(set('a'))
      const key = visit.browser.cookies.get(NAME) as string
      await h.backend.touch(storageKeys('sid')(key.slice(0, 12)), h.now() + 400 * DAY)
      h.now.tick(1000 * SECOND - 1)
      assert.equal(await fieldBy(h, key, 'a'), true)
      h.now.tick(1)
      assert.equal(await fieldBy(h, key, 'a'), undefined)
    })
    test('LIFE-10: the entry decides whether a session has expired, not the cookie and not a sweep', async (t) => {
      const now = clock()
      const backend = name === 'memory' ? await backendFromUrl('memory:', { now }) : await opener(t)()
      const { sweep: _, ...unswept } = backend
      const { h, visit } = await setupSession({ backend: unswept, secret: SECRET, now })
      const key = visit.browser.cookies.get(NAME) as string
      const storageKey = storageKeys('sid')(key.slice(0, 12))
      now.tick(14 * DAY)
      assert.ok(await backend.get(storageKey), 'the backend still has it')
      const response = await h.visitor().raw((s) => assert.deepEqual(fields(s), []), holding(key))
      assert.deepEqual([response.status, cookiesOf(response)], [200, []])
      assert.equal(h.types.at(-1), 'expired')
    })
    test('LIFE-12: a clock that goes back extends the absolute life by no more than it went back', async (t) => {
      const h = await setup({ ...(await freshBackend(t)), idleTimeout: 100, absoluteTimeout: 100 })
      const visit = h.visitor()
      await visit(set('a'))
      const key = visit.browser.cookies.get(NAME)
      h.now.tick(-50 * SECOND)
      for (let i = 0; i < 149; i++) {
        h.now.tick(SECOND)
        await visit((s) => s.set('n', i))
      }
      h.now.tick(SECOND - 1)
      assert.equal(await fieldBy(h, key, 'a'), true)
      h.now.tick(1)
      assert.equal(await fieldBy(h, key, 'a'), undefined)
    })
    test('LIFE-12: a session that was created more than a minute in the future is not opened; clocks may differ by a minute', async (t) => {
      const { h, visit } = await setupSession(await freshBackend(t))
      const key = visit.browser.cookies.get(NAME)
      const fieldNow = async () => {
        let has: unknown
        await h.visitor().raw((s) => {
          has = s.get('a')
        }, holding(key))
        return has
      }
      h.now.tick(-60 * SECOND)
      assert.equal(await fieldNow(), true)
      h.now.tick(-1)
      assert.equal(await fieldNow(), undefined)
      h.now.tick(1)
      assert.equal(await fieldNow(), true, 'the entry was left unchanged')
    })
    test('CON-1: concurrent requests that change different fields are both saved; of one field, the later change is kept', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      await visit(set('first'))
      const held = h.hold('set')
      const late = visit.otherProcess()((s) => {
        s.set('mine', 1)
        s.set('both', 'late')
        s.update('n', (n = 0) => n + 1)
      })
      await held.arrived
      await visit((s) => {
        s.set('theirs', 1)
        s.set('both', 'early')
        s.update('n', (n = 0) => n + 1)
      })
      held.go()
      await late
      assert.deepEqual(
        { ...((await visit((s) => s.fields)) as object) },
        { first: true, mine: 1, theirs: 1, both: 'late', n: 2 },
      )
    })
    test('CON-2: reads write no data; setting a field to its present value is a write', async (t) => {
      const { h, visit } = await setupSession(await freshBackend(t))
      const key = visit.browser.cookies.get(NAME) as string
      const entry = () => h.backend.get(storageKeys('sid')(key.slice(0, 12)))
      const before = await entry()
      for (let i = 0; i < 1000; i++) await visit(fields)
      assert.deepEqual(await entry(), before)
      await visit(set('a'))
      assert.notEqual((await entry())?.version, before?.version)
    })
    test('CON-3: a touch contains no data, so it cannot undo a concurrent write', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      await visit(set('a', 1))
      h.now.tick(8 * DAY)
      const held = h.hold('touch')
      const read = visit.otherProcess()(get('a'))
      await held.arrived
      await visit(set('a', 2))
      held.go()
      assert.equal(await read, 1)
      assert.equal(await visit(get('a')), 2)
    })
    test('CON-4: a handler gets copies, so a change without a save is visible to no other request', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      const cart = { items: ['tea'] }
      await visit(set('cart', cart))
      cart.items.push('coffee')
      for (const tab of [visit, visit.otherProcess()]) {
        await assert.rejects(
          tab((s) => {
            s.set('b', 1)
            ;(s.get('cart') as typeof cart).items.push('cake')
          }),
          TypeError,
        )
        assert.throws(() => assert.deepEqual(cart.items, ['tea']))
        assert.deepEqual(await tab(fields), ['cart'])
        assert.deepEqual(await tab((s) => [...s.get('cart').items]), ['tea'])
      }
    })
    test('CON-5: after the answer to a logout or a login, no reader finds the old session', async (t) => {
      const open = opener(t)
      const [one, two] = [await open(), await open()]
      const h = await setup({ backend: one, secret: SECRET })
      const otherServer = sessionManager({ backend: two, storeTimeout: PATIENT, secret: SECRET, now: h.now })(
        async (request) => new Response(String((await session(request)).get('a'))),
      )
      for (let i = 0; i < 50; i++) {
        const visit = h.visitor()
        await visit(set('a'))
        const request = () => new Request('https://app.test/', holding(visitKey))
        const visitKey = visit.browser.cookies.get(NAME)
        assert.equal(await (await otherServer(request())).text(), 'true')
        await visit((s) => (i % 2 ? s.invalidate() : s.login('anna')))
        assert.equal(await (await otherServer(request())).text(), 'undefined')
      }
    })
    test('CON-6: a browser that follows a redirect at once finds the changes before it', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      for (let i = 0; i < 300; i++) {
        const response = await visit.raw((s) => {
          s.set('n', i)
          return Response.redirect('https://app.test/next', 303)
        })
        assert.equal(response.status, 303)
        assert.equal(await visit(get('n')), i)
      }
    })
    test('CON-7: a handler that throws saves nothing; a failed save is an error without a cookie', async (t) => {
      const h = await setup(await freshBackend(t))
      const visit = h.visitor()
      await visit(set('a', 1))
      await assert.rejects(
        visit((s) => {
          s.set('a', 2)
          throw new Error('template')
        }),
        /template/,
      )
      assert.equal(await visit(get('a')), 1)
      for (const [call, act] of [
        ['set', set('a', 3)],
        ['generate', (s: Session) => s.login('anna')],
        ['clear', (s: Session) => s.login('anna')],
      ] as const) {
        h.fail(call, new Error('disk full'))
        const response = await visit.raw(act)
        assert.equal(response.status, 503, call)
        assert.deepEqual(cookiesOf(response), [], call)
        assert.doesNotMatch(await response.text(), /disk/)
      }
      assert.equal(await visit(get('a')), 1)
      h.fail('generate', new Error('disk full'))
      assert.deepEqual(cookiesOf(await h.visitor().raw(set('a'))), [])
    })
  })
}

suite('the life of a session', () => {
  test('LIFE-8: a read never moves the expiry past the absolute end', async () => {
    const { h, visit } = await setupSession({ idleTimeout: 100, absoluteTimeout: 120 })
    h.now.tick(60 * SECOND)
    await visit(get('a'))
    const key = visit.browser.cookies.get(NAME)
    h.now.tick(60 * SECOND - 1)
    assert.equal(await fieldBy(h, key, 'a'), true)
    h.now.tick(1)
    assert.equal(await fieldBy(h, key, 'a'), undefined)
  })
  test('LIFE-12: a pre-session that was created more than a minute in the future is not opened; clocks may differ by a minute', async () => {
    const s = await startSite()
    const first = await s.send(rawRequest(undefined), 'form')
    const header = cookiesOf(first.response)[0]?.split(';')[0]
    const again = async () => (await s.send(rawRequest(header), 'form')).form === first.form
    assert.ok(header?.startsWith(`${PRE}=`))
    s.now.tick(-60 * SECOND)
    assert.equal(await again(), true)
    s.now.tick(-1)
    assert.equal(await again(), false)
  })
  test('LIFE-12: a clock that goes back extends the grace period of an old key by no more than it went back', async () => {
    const { h, visit } = await setupSession()
    const old = visit.withSameCookies()
    await visit((s) => s.rotateKey())
    await visit(get('a'))
    h.now.tick(-20 * SECOND)
    h.now.tick(50 * SECOND - 1)
    assert.equal(await old(get('a')), true)
    h.now.tick(1)
    assert.equal(await old(get('a')), undefined)
  })
  test('LIFE-13: a sweep removes at most 50 entries at a time, keeps no process alive, and runs once a minute', async () => {
    // A sweep uses the earlier of two clocks, and removes entries a day after they expired.
    const now = clock(Date.now() - 3 * DAY)
    const memory = await backendFromUrl('memory:', { now })
    const limits: number[] = []
    const h = await setup({
      backend: {
        ...memory,
        sweep: (now, limit) => {
          limits.push(limit)
          return memory.sweep?.(now, limit) ?? 0
        },
      },
      idleTimeout: 10,
      now,
    })
    for (let i = 0; i < 120; i++) {
      const key = hashKey(String(i))
      const metadata = encodeMetadata({ createdAt: now(), currentHash: key, recentVersions: '' })
      memory.generate(key, { value: '{}', metadata, expiresAt: now() + 10 * SECOND, version: 'v' })
    }
    now.tick(DAY + 20 * SECOND)
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    const before = timers()
    await h.visitor()(set('a'))
    assert.equal(timers(), before, 'no timer keeps the process alive')
    await h.visitor()(set('a'))
    // The sweep's timers run while this process is alive for another reason, so wait for the sweeps and not for a time.
    while (limits.length < 3) await new Promise((resolve) => setTimeout(resolve, 5))
    assert.deepEqual(limits, [50, 50, 50])
    for (let i = 0; i < 120; i++) assert.equal(await memory.get(hashKey(String(i))), undefined)
  })
  test('CON-8: a change after the response has left throws, also in a stream', async () => {
    const h = await setup()
    let late: unknown
    const response = await h.visitor().raw((s) => {
      const body = new ReadableStream(
        {
          pull(controller) {
            try {
              s.set('a', 1)
            } catch (error) {
              late = error
            }
            controller.close()
          },
        },
        { highWaterMark: 0 },
      )
      return new Response(body)
    })
    await response.text()
    assert.ok(late instanceof KeepsakeError && late.code === 'too_late')
    assert.equal(h.total(), 0)
  })
})
