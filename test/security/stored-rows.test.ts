// Keys, the life of a session, and visits at once: one test for each requirement, named after it.

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
import { workOf } from '../../src/request.ts'
import { formSecret } from '../../src/session/form-secret.ts'
import { decodeMetadata, encodeMetadata } from '../../src/session/metadata.ts'
import { clock, DAY, PATIENT, SECOND } from '../support/clock.ts'
import { folder } from '../support/folder.ts'
import { adapted, NAME, PRE, SECRET, shaped, stage } from '../support/hostile-requests.ts'
import { stores } from '../support/stores.ts'
import { type Setup, setup } from '../support/visits.ts'

const set =
  (field: string, value: unknown = true) =>
  (s: Session) =>
    s.set(field, value)
const get = (field: string) => (s: Session) => s.get(field)
const fields = (s: Session) => Object.keys(s.fields).sort()
const form = async (_: unknown, request: Request) => formSecret(await workOf(request))
const cookiesOf = (response: Response) => response.headers.getSetCookie()
/** What a visit with this key has in a field. Not by a browser, which forgets its cookie at the absolute end by itself. */
const fieldBy = async (h: Setup, key: unknown, field: string): Promise<unknown> => {
  let value: unknown
  await h.visitor().raw((s) => {
    value = field === 'owner' ? s.owner : s.get(field)
  }, holding(key))
  return value
}
const holding = (key: unknown) => ({ headers: { cookie: `${NAME}=${key}` } })

/** Runs `act` while the system's generator of random numbers is another. What it gave before is used up first. */
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
  test('ID-1: a hundred thousand keys: 43 characters, all different, every bit set in half of them', () => {
    const count = 100_000
    const ones = new Uint32Array(256)
    const seen = new Set<string>()
    for (let i = 0; i < count; i++) {
      const key = newKey()
      assert.ok(shaped(key) && isKey(key))
      seen.add(key)
      const bytes = Buffer.from(key, 'base64url')
      for (let bit = 0; bit < 256; bit++) ones[bit] = (ones[bit] ?? 0) + ((bytes.readUInt8(bit >> 3) >> (bit & 7)) & 1)
    }
    assert.equal(seen.size, count)
    for (const [bit, set] of ones.entries()) assert.ok(Math.abs(set / count - 0.5) < 0.01, `bit ${bit}: ${set}`)
  })
  test('ID-1: the cookie is such a key', async () => {
    const h = await setup()
    const keys = new Set<string>()
    for (let i = 0; i < 200; i++) {
      const visit = h.visitor()
      await visit(set('a'))
      keys.add(visit.browser.cookies.get(NAME) as string)
    }
    assert.equal([...keys].filter(shaped).length, 200)
  })
  test('ID-1: without random numbers there is no session: none is made by other means', async () => {
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
    assert.ok(shaped(newKey()), 'and there is when they are back')
  })
  test('ID-2: a text is a key in one spelling only', () => {
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

  /** All that reached a store's files or a memory store, as one text to search. */
  const lives = async (backend: Backend) => {
    const written: unknown[] = []
    const noting = <A extends unknown[], R>(call: (...args: A) => R) => {
      return (...args: A): R => {
        written.push(args)
        return call(...args)
      }
    }
    const noted = {
      ...backend,
      get: noting(backend.get),
      generate: noting(backend.generate),
      set: noting(backend.set),
      clear: noting(backend.clear),
      touch: noting(backend.touch),
    }
    const h = await setup({ backend: noted, secret: SECRET })
    const held: string[] = []
    const owned: string[] = []
    const visit = h.visitor()
    const hold = () => held.push(...visit.browser.cookies.values())
    await visit(form)
    hold()
    for (const act of [
      set('a'),
      (s: Session) => s.rotateKey(),
      set('b'),
      (s: Session) => s.login('anna'),
      (s: Session) => s.rotateKey(),
    ]) {
      const owner = await visit((s) => {
        act(s)
        return s.owner
      })
      hold()
      if (owner !== undefined) owned.push(...visit.browser.cookies.values())
    }
    h.now.tick(8 * DAY)
    await visit(get('a'))
    const lost = h.visitor()
    await lost(set('a'))
    held.push(...lost.browser.cookies.values())
    assert.ok(new Set(held).size >= 6)
    return { h, held: [...new Set(held)], byOwner: owned, written: JSON.stringify(written) }
  }
  /** The label of an owner's session is kept for his list; of a stranger's, a store knows nothing. */
  const searched = (
    text: string,
    held: readonly string[],
    owned: readonly string[],
    secrets: readonly string[] = [],
  ) => {
    for (const value of held) {
      assert.ok(!text.includes(value), 'no cookie value')
      assert.equal(text.includes(value.slice(0, 12)), owned.includes(value), 'nor its label')
      assert.ok(!text.includes(value.slice(12)), 'nor its secret')
      assert.ok(!text.includes(Buffer.from(value, 'base64url').toString('hex')), 'nor in hex')
    }
    for (const secret of secrets) assert.ok(!text.includes(secret), 'nor the root secret that was configured')
  }
  test('ID-3: what the memory store is given holds no key and no cookie value', async () => {
    const { held, byOwner: owned, written } = await lives(await backendFromUrl('memory:'))
    assert.ok(written.length > 1000)
    searched(written, held, owned, [SECRET])
  })
  test('ID-3: the files of a SQLite store hold no key and no cookie value', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = await backendFromUrl(`sqlite:${path}`)
    t.after(() => backend.close?.())
    const { held, byOwner: owned } = await lives(backend)
    const files = readdirSync(dirname(path))
    assert.ok(files.length >= 2)
    const all = files.map((file) => readFileSync(join(dirname(path), file)))
    const text = all.map((bytes) => bytes.toString('latin1')).join('\0')
    assert.ok(text.includes('anna'), 'the text is what was stored')
    searched(text, held, owned, [SECRET])
    // Keys are stored as bytes: so are those looked for.
    for (const value of held.filter(shaped)) {
      const bytes = Buffer.from(value, 'base64url')
      for (const part of [bytes.subarray(0, 9), bytes.subarray(9)]) assert.ok(!all.some((file) => file.includes(part)))
    }
  })
  test('ID-3: what a store shows of a session opens nothing', async () => {
    const backend = await backendFromUrl('memory:')
    const s = await stage(backend)
    const key = await s.live('one')
    const entry = (await backend.get(s.address(key))) as Entry
    const metadata = decodeMetadata(entry.metadata)
    for (const shown of [s.address(key), hashKey(key), metadata?.currentHash, entry.version, entry.metadata]) {
      assert.equal((await s.see(adapted(`${NAME}=${shown}`))).who, undefined)
      assert.equal((await s.see(adapted(`${NAME}=${key.slice(0, 12)}${String(shown).slice(0, 31)}`))).who, undefined)
    }
    assert.equal((await s.see(adapted(`${NAME}=${key}`))).who, 'one')
  })
  test('ID-4: a key of one application opens nothing in another that shares its store', async () => {
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
      (await handler(adapted(`__Host-Http-${name}=${key}`))).text()
    assert.equal(await ask(app('a'), 'a'), 'a')
    assert.equal(await ask(app('b'), 'b'), 'undefined')
    assert.equal(await ask(app('a', 'other'), 'a'), 'undefined')
    assert.equal(await ask(app('b', 'a'), 'b'), 'a', 'the namespace decides, not the name of the cookie')
  })
  test('ID-4: no two namespaces and labels give one address', () => {
    const pairs = [
      ['a', 'b c'],
      ['a b', 'c'],
      ['', 'a b c'],
      ['a', '1 b'],
      ['a 1', 'b'],
      ['é', 'x'],
      ['e\u0301', 'x'],
      ['1 a', 'x'],
    ] as const
    assert.equal(new Set(pairs.map(([space, label]) => storageKeys(space)(label))).size, pairs.length)
  })
  test('ID-5: a key that nobody gave out is never the key, nor the label, of a new session', async () => {
    const s = await stage()
    for (const planted of ['A'.repeat(43), newKey()]) {
      const visit = s.visitor()
      const response = await visit.raw(set('a'), holding(planted))
      const [cookie = '', ...more] = cookiesOf(response)
      assert.match(cookie, new RegExp(`^${NAME}=[A-Za-z0-9_-]{43};`))
      assert.deepEqual(more, [])
      assert.ok(!cookie.includes(planted.slice(0, 12)))
      assert.equal(await s.backend.get(s.address(planted)), undefined)
      const loggedIn = await s.visitor().raw((own) => own.login('anna'), holding(planted))
      assert.ok(!cookiesOf(loggedIn)[0]?.includes(planted.slice(0, 12)))
      assert.equal(await s.backend.get(s.address(planted)), undefined)
    }
  })
  /** Runs `act` while the next `times` keys to be drawn have one label. A key takes 32 bytes. */
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
  test('ID-6: a fresh key whose place is taken is given up for another, and who was there stays', async () => {
    const h = await setup()
    const [first, second] = [h.visitor(), h.visitor()]
    await withOneLabel(3, async () => {
      assert.equal(await first(set('first')), undefined)
      assert.equal(await second(set('second')), undefined)
    })
    assert.equal(h.calls.generate, 4, 'two of them were taken')
    assert.equal(await first((s) => s.label), LABEL)
    assert.notEqual(await second((s) => s.label), LABEL)
    assert.deepEqual([await first(fields), await second(fields)], [['first'], ['second']])
  })
  test('ID-6: after three that were taken it is an error, and nobody gets a session of another', async () => {
    const h = await setup()
    const [first, second] = [h.visitor(), h.visitor()]
    await withOneLabel(4, async () => {
      await first(set('first'))
      const response = await second.raw(set('second'))
      assert.equal(response.status, 500)
      assert.deepEqual(cookiesOf(response), [])
    })
    const told = h.events.at(-1) as { error?: KeepsakeError }
    assert.equal(told.error?.code, 'key_collision')
    assert.deepEqual(await first(fields), ['first'])
  })
  test('ID-7: keys come from the Cookie header alone, not from the URL, the body or another header', async () => {
    const s = await stage()
    const key = await s.live('one')
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
      assert.equal((await s.see(request)).who, undefined)
      assert.equal(s.total(), reads)
    }
    assert.equal((await s.see(adapted(`${NAME}=${key}`))).who, 'one')
  })
  test('ID-8: texts of all lengths and characters are compared without an error, and only digests are equal, to themselves', () => {
    const texts = Array.from({ length: 101 }, (_, length) => 'x'.repeat(length))
    const mine = hashKey(newKey())
    texts.push(mine, `${mine.slice(0, -1)}\0`, `${mine}\0`, 'x'.repeat(1000), 'é'.repeat(43), '\ud800', '🦊'.repeat(21))
    // The same low bytes in other characters.
    texts.push([...mine].map((letter) => String.fromCharCode(letter.charCodeAt(0) + 0x100)).join(''))
    for (const [i, a] of texts.entries()) {
      for (const [j, b] of texts.entries()) {
        assert.equal(sameHash(a, b), i === j && a.length === 43, `${JSON.stringify(a)} ${JSON.stringify(b)}`)
      }
    }
  })
  test('ID-9: where Cookie headers come as a list, a number or an object, no store is asked for what is no text', async () => {
    const s = await stage()
    const key = await s.live('one')
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
    /** A fresh store. The one in memory tidies up by the clock of the house, so that one makes its own. */
    const kept = async (t: TestContext): Promise<{ backend?: Backend; secret?: typeof SECRET }> =>
      name === 'memory' ? {} : { backend: await opener(t)(), secret: SECRET }
    test('LIFE-1: a login gives a new key; the old one is dead at once, and never sees the account', async (t) => {
      const h = await setup(await kept(t))
      const visit = h.visitor()
      await visit(set('cart'))
      const thief = visit.otherProcess()
      const label = await visit((s) => s.label)
      const seen: unknown[] = []
      // The thief asks at each step of the login.
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
    test('LIFE-2: a login changes the form secret, and keeps the fields that are named and no others', async (t) => {
      const h = await setup(await kept(t))
      const visit = h.visitor()
      const stranger = await visit(form)
      await visit((s) => {
        s.set('cart', 1)
        s.set('planted', 1)
      })
      assert.equal(await visit(form), stranger)
      await visit((s) => s.login('anna', { keep: ['cart'] }))
      const after = await visit(form)
      assert.notEqual(after, stranger)
      assert.deepEqual(await visit(fields), ['cart'])
      await visit((s) => s.invalidate())
      assert.ok(![stranger, after].includes(await visit(form)))
    })
    test('LIFE-3: twenty visits across a renewal keep session and form secret and get one key; at grace + 0 the old is over', async (t) => {
      const h = await setup(await kept(t))
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
      const asked = async (held: unknown) => {
        let owner: string | undefined
        const response = await h.visitor().raw((s) => {
          owner = s.owner
        }, holding(held))
        return [owner, cookiesOf(response).length]
      }
      assert.deepEqual(await asked(key), ['anna', 0])
      h.now.tick(30 * SECOND - 1)
      assert.deepEqual(await asked(old), ['anna', 0], 'and once the new one was used, the old is offered nothing')
      h.now.tick(1)
      assert.deepEqual(await asked(old), [undefined, 0])
      assert.deepEqual(await asked(key), ['anna', 0])
    })
    test('LIFE-4: two renewals at once end in one key, and lose nothing', async (t) => {
      const h = await setup(await kept(t))
      const visit = h.visitor()
      await visit(set('a'))
      const [one, two] = [visit.withSameCookies(), visit.otherProcess()]
      const [first, second] = [h.hold('set'), h.hold('set')]
      const renewals = [one, two].map((tab, i) =>
        tab((s) => {
          s.rotateKey()
          s.set(`tab${i}`, true)
        }),
      )
      await Promise.all([first.arrived, second.arrived])
      second.go()
      first.go()
      await Promise.all(renewals)
      assert.equal(one.browser.cookies.get(NAME), two.browser.cookies.get(NAME))
      assert.notEqual(one.browser.cookies.get(NAME), visit.browser.cookies.get(NAME))
      assert.deepEqual(await one(fields), ['a', 'tab0', 'tab1'])
    })
    test('LIFE-5: a logout ends the entry first, then clears the cookie; where it fails, it says so and clears all the same', async (t) => {
      const h = await setup(await kept(t))
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
      assert.equal(answered, false, 'no answer before the entry is gone')
      const copy = thief.withSameCookies()
      held.go()
      assert.deepEqual(cookiesOf(await logout), [clearing])
      assert.equal(await copy((s) => s.owner), undefined)
    })
    test('LIFE-6: a visit that was under way at a logout brings nothing back, whatever it asks for', async (t) => {
      const late: Record<string, (s: Session) => void> = {
        set: (s) => s.set('late', 1),
        update: (s) => s.update('n', () => 1),
        drop: (s) => s.delete('a'),
        renew: (s) => s.rotateKey(),
        'login again': (s) => s.login('anna'),
        read: (s) => void s.get('a'),
      }
      for (const [does, act] of Object.entries(late)) {
        const h = await setup(await kept(t))
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
        assert.deepEqual(cookiesOf(response), [], `${does}: no cookie`)
        assert.equal(response.status, does === 'read' ? 200 : 409, does)
        assert.deepEqual(await thief(fields), [], does)
        const left = await h.backend.get(storageKeys('sid')(key.slice(0, 12)))
        assert.match(left?.metadata ?? '', /^ended\./, `${does}: nothing but the mark`)
        assert.deepEqual([left?.value, left?.owner], [undefined, undefined])
      }
    })
    test('LIFE-8: idle: alive a millisecond before the end, over at it; a hundred visits touch once at most', async (t) => {
      const h = await setup({ ...(await kept(t)), idleTimeout: 100, absoluteTimeout: 1000 })
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
      assert.equal(await other(get('a')), true, 'the touch counts from the visit that made it')
      h.now.tick(100 * SECOND)
      assert.equal(await other(get('a')), undefined)
      assert.equal(await visit(get('a')), undefined)
    })
    test('LIFE-9: absolute: a session that is never idle ends a millisecond after its last, and a login begins anew', async (t) => {
      const h = await setup({ ...(await kept(t)), idleTimeout: 100, absoluteTimeout: 1000 })
      const [visit, again] = [h.visitor(), h.visitor()]
      for (const one of [visit, again]) await one((s) => s.login('anna'))
      for (let second = 0; second < 999; second += 27) {
        h.now.tick(27 * SECOND)
        assert.equal(await visit((s) => s.owner), 'anna')
        await again((s) => s.login('anna'))
      }
      h.now.tick(SECOND - 1)
      const [renewed] = cookiesOf(await visit.raw((s) => s.rotateKey()))
      assert.match(renewed ?? '', /; Max-Age=1;/, 'the last millisecond counts')
      const key = visit.browser.cookies.get(NAME)
      assert.equal(await fieldBy(h, key, 'owner'), 'anna')
      h.now.tick(1)
      assert.equal(await fieldBy(h, key, 'owner'), undefined)
      assert.equal(await again((s) => s.owner), 'anna')
    })
    test('LIFE-9: absolute: counted from the birth by today’s setting, whatever end the entry was given', async (t) => {
      const h = await setup({ ...(await kept(t)), idleTimeout: 100, absoluteTimeout: 1000 })
      const visit = h.visitor()
      await visit(set('a'))
      const key = visit.browser.cookies.get(NAME) as string
      await h.backend.touch(storageKeys('sid')(key.slice(0, 12)), h.now() + 400 * DAY)
      h.now.tick(1000 * SECOND - 1)
      assert.equal(await fieldBy(h, key, 'a'), true)
      h.now.tick(1)
      assert.equal(await fieldBy(h, key, 'a'), undefined)
    })
    test('LIFE-10: the entry decides, not the cookie and not the tidiness of the store', async (t) => {
      const now = clock()
      const backend = name === 'memory' ? await backendFromUrl('memory:', { now }) : await opener(t)()
      const { sweep: _, ...unswept } = backend
      const h = await setup({ backend: unswept, secret: SECRET, now })
      const visit = h.visitor()
      await visit(set('a'))
      const key = visit.browser.cookies.get(NAME) as string
      const address = storageKeys('sid')(key.slice(0, 12))
      now.tick(14 * DAY)
      assert.ok(await backend.get(address), 'the store has it still')
      const response = await h.visitor().raw((s) => assert.deepEqual(fields(s), []), holding(key))
      assert.deepEqual([response.status, cookiesOf(response)], [200, []])
      assert.equal(h.types.at(-1), 'expired')
    })
    test('LIFE-12: a clock that goes back does not lengthen the absolute life by more than it went', async (t) => {
      const h = await setup({ ...(await kept(t)), idleTimeout: 100, absoluteTimeout: 100 })
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
    test('LIFE-12: a session born more than a minute in the future is a stranger’s; up to a minute, clocks may differ', async (t) => {
      const h = await setup(await kept(t))
      const visit = h.visitor()
      await visit(set('a'))
      const key = visit.browser.cookies.get(NAME)
      const seen = async () => {
        let has: unknown
        await h.visitor().raw((s) => {
          has = s.get('a')
        }, holding(key))
        return has
      }
      h.now.tick(-60 * SECOND)
      assert.equal(await seen(), true)
      h.now.tick(-1)
      assert.equal(await seen(), undefined)
      h.now.tick(1)
      assert.equal(await seen(), true, 'and it was left alone')
    })
    test('CON-1: visits that change different fields both win; of one field, the later one does', async (t) => {
      const h = await setup(await kept(t))
      const visit = h.visitor()
      await visit(set('begun'))
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
        { begun: true, mine: 1, theirs: 1, both: 'late', n: 2 },
      )
    })
    test('CON-2: reads write no data; a value set to what it was is a write all the same', async (t) => {
      const h = await setup(await kept(t))
      const visit = h.visitor()
      await visit(set('a'))
      const key = visit.browser.cookies.get(NAME) as string
      const entry = () => h.backend.get(storageKeys('sid')(key.slice(0, 12)))
      const before = await entry()
      for (let i = 0; i < 1000; i++) await visit(fields)
      assert.deepEqual(await entry(), before)
      await visit(set('a'))
      assert.notEqual((await entry())?.version, before?.version)
    })
    test('CON-3: a touch carries no data, so it cannot undo a write that overtook it', async (t) => {
      const h = await setup(await kept(t))
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
    test('CON-4: what a handler holds is a copy: a change without a save reaches nobody', async (t) => {
      const h = await setup(await kept(t))
      const visit = h.visitor()
      const cart = { items: ['tea'] }
      await visit(set('cart', cart))
      cart.items.push('coffee')
      for (const holder of [visit, visit.otherProcess()]) {
        await assert.rejects(
          holder((s) => {
            s.set('b', 1)
            ;(s.get('cart') as typeof cart).items.push('cake')
          }),
          TypeError,
        )
        assert.throws(() => assert.deepEqual(cart.items, ['tea']))
        assert.deepEqual(await holder(fields), ['cart'])
        assert.deepEqual(await holder((s) => [...s.get('cart').items]), ['tea'])
      }
    })
    test('CON-5: once a logout or a login was answered, no reader finds the old session', async (t) => {
      const open = opener(t)
      const [one, two] = [await open(), await open()]
      const h = await setup({ backend: one, secret: SECRET })
      const elsewhere = sessionManager({ backend: two, storeTimeout: PATIENT, secret: SECRET, now: h.now })(
        async (request) => new Response(String((await session(request)).get('a'))),
      )
      for (let i = 0; i < 50; i++) {
        const visit = h.visitor()
        await visit(set('a'))
        const request = () => new Request('https://app.test/', holding(visitKey))
        const visitKey = visit.browser.cookies.get(NAME)
        assert.equal(await (await elsewhere(request())).text(), 'true')
        await visit((s) => (i % 2 ? s.invalidate() : s.login('anna')))
        assert.equal(await (await elsewhere(request())).text(), 'undefined')
      }
    })
    test('CON-6: whoever follows a redirect at once finds what was saved before it', async (t) => {
      const h = await setup(await kept(t))
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
    test('CON-7: a handler that throws saves nothing; a save that fails is an error without a cookie', async (t) => {
      const h = await setup(await kept(t))
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
  test('LIFE-8: a read never moves the end past the absolute one', async () => {
    const h = await setup({ idleTimeout: 100, absoluteTimeout: 120 })
    const visit = h.visitor()
    await visit(set('a'))
    h.now.tick(60 * SECOND)
    await visit(get('a'))
    const key = visit.browser.cookies.get(NAME)
    h.now.tick(60 * SECOND - 1)
    assert.equal(await fieldBy(h, key, 'a'), true)
    h.now.tick(1)
    assert.equal(await fieldBy(h, key, 'a'), undefined)
  })
  test('LIFE-12: a pre-session made more than a minute in the future is none; up to a minute, clocks may differ', async () => {
    const s = await stage()
    const first = await s.see(adapted(undefined), 'form')
    const header = cookiesOf(first.response)[0]?.split(';')[0]
    const again = async () => (await s.see(adapted(header), 'form')).form === first.form
    assert.ok(header?.startsWith(`${PRE}=`))
    s.now.tick(-60 * SECOND)
    assert.equal(await again(), true)
    s.now.tick(-1)
    assert.equal(await again(), false)
  })
  test('LIFE-12: a clock that goes back does not lengthen the grace of an old key by more than it went', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const old = visit.withSameCookies()
    await visit((s) => s.rotateKey())
    await visit(get('a'))
    h.now.tick(-20 * SECOND)
    h.now.tick(50 * SECOND - 1)
    assert.equal(await old(get('a')), true)
    h.now.tick(1)
    assert.equal(await old(get('a')), undefined)
  })
  test('LIFE-13: a sweep takes at most 50 at a time, is no reason to keep a process alive, and comes once a minute', async () => {
    // A sweep believes the earlier of two clocks, and waits a day.
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
    assert.equal(timers(), before, 'no timer that would keep the process')
    await h.visitor()(set('a'))
    // Its own timers run while something else keeps this process: wait for what they do, not for how long.
    while (limits.length < 3) await new Promise((resolve) => setTimeout(resolve, 5))
    assert.deepEqual(limits, [50, 50, 50])
    for (let i = 0; i < 120; i++) assert.equal(await memory.get(hashKey(String(i))), undefined)
  })
  test('CON-8: a change after the response has left is refused aloud, in a stream as well', async () => {
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
