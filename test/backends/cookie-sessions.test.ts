// Sessions in the client's sealed cookie: what they promise, what they cannot, and the ends that make a logout real.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import {
  type Backend,
  backendFromUrl,
  cookieSessions,
  KeepsakeError,
  type Session,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock, DAY } from '../support/clock.ts'
import { folder } from '../support/folder.ts'
import { setup } from '../support/visits.ts'

const NAME = '__Host-Http-sid'
const secret = newSecret()
const sealed = async (options: { ends?: Backend; secret?: string | string[] } = {}) =>
  setup({ backend: cookieBackend({ secret, namespace: 'sid', ...options }), secret })
const cookieOf = (response: Response) => response.headers.getSetCookie()
const set =
  (field: string, value: unknown = true) =>
  (s: Session) =>
    s.set(field, value)
const get = (field: string) => (s: Session) => s.get(field)
const replay = (token: string | undefined, name = NAME) => ({ headers: { cookie: `${name}=${token}` } })

suite('a session in a cookie', () => {
  test('is read back, changed, logged in and ended like any other', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit((s) => {
      s.set('cart', ['tea'])
      s.set('planted', 1)
    })
    const label = await visit((s) => s.label)
    assert.match(String(label), /^[\w-]{12}$/)
    await visit((s) => s.update('cart', (cart) => [...cart, 'milk']))
    assert.equal(await visit((s) => s.label), label)
    await visit((s) => s.login('anna', { keep: ['cart'] }))
    assert.deepEqual(await visit((s) => [s.owner, { ...s.fields }]), ['anna', { cart: ['tea', 'milk'] }])
    assert.notEqual(await visit((s) => s.label), label)
    const response = await visit.raw((s) => s.invalidate())
    assert.deepEqual(cookieOf(response), [`${NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax`])
    assert.equal(await visit((s) => s.owner), undefined)
  })
  test('a renewal seals anew, under the same label', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('a'))
    const [label, before] = [await visit((s) => s.label), visit.browser.cookies.get(NAME)]
    await visit((s) => s.rotateKey())
    assert.notEqual(visit.browser.cookies.get(NAME), before)
    assert.equal(await visit((s) => s.label), label)
  })
  test('nobody without the secret can read it, and it says nothing in the clear', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('user', 'anastasios'))
    const token = visit.browser.cookies.get(NAME) ?? ''
    assert.ok(!Buffer.from(token, 'base64url').toString('latin1').includes('anastasios'))
  })
  test('ENC-1, CP-5: what is not a token of ours is a stranger, without an error or a cookie', async () => {
    const h = await sealed()
    for (const token of [
      'eyJ1c2VyIjoiYWRtaW4ifQ',
      'eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.',
      'A'.repeat(200),
      '',
      'x y',
    ]) {
      const response = await h.visitor().raw((s) => assert.equal(s.get('user'), undefined), replay(token))
      assert.equal(response.status, 200)
      assert.deepEqual(cookieOf(response), [])
    }
  })
  test('ENC-3: a cookie opens under its own name and in its own namespace alone', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('user', 'anna'))
    const token = visit.browser.cookies.get(NAME)
    const other = async (options: Parameters<typeof cookieSessions>[1], name: string) => {
      let user: unknown
      const page = cookieSessions(async (request) => {
        user = (await session(request)).get('user')
        return new Response()
      }, options)
      await browser(page)('/', replay(token, name))
      return user
    }
    assert.equal(await other({ secret, now: h.now }, NAME), 'anna')
    assert.equal(await other({ secret, cookie: { name: 'other' }, namespace: 'sid' }, '__Host-Http-other'), undefined)
    assert.equal(await other({ secret, namespace: 'tenant-b' }, NAME), undefined)
    assert.equal(await other({ secret: newSecret() }, NAME), undefined)
  })
  test('ENC-6: idle and absolute end are judged from within; a birth still to come opens nothing', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('a'))
    const first = visit.browser.cookies.get(NAME)
    const seen = (token: string | undefined) => {
      let value: unknown
      return h
        .visitor()
        .raw((s) => {
          value = s.get('a')
        }, replay(token))
        .then(() => value)
    }
    h.now.tick(14 * DAY - 1)
    assert.equal(await seen(first), true)
    h.now.tick(1)
    assert.equal(await seen(first), undefined)
    h.now.tick(-14 * DAY)
    assert.equal(await seen(first), true)
    h.now.tick(-60_000)
    assert.equal(await seen(first), true)
    h.now.tick(-1)
    assert.equal(await seen(first), undefined)
    h.now.tick(60_001)
    for (let day = 0; day < 29; day++) {
      h.now.tick(DAY)
      await visit(set('day', day))
    }
    const last = visit.browser.cookies.get(NAME)
    h.now.tick(DAY - 1)
    assert.equal(await seen(last), true)
    h.now.tick(1)
    assert.equal(await seen(last), undefined)
  })
  test('its end moves with a change, or past three quarters of its life; else a read sends nothing', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('a'))
    h.now.tick(10 * DAY)
    assert.deepEqual(cookieOf(await visit.raw(get('a'))), [])
    h.now.tick(0.5 * DAY)
    assert.equal(cookieOf(await visit.raw(get('a'))).length, 1)
    assert.deepEqual(cookieOf(await visit.raw(get('a'))), [])
    h.now.tick(13 * DAY)
    assert.equal(await visit(get('a')), true)
  })
  test('ENC-7: the newest secret seals, all open; what an old one sealed is sealed anew at the next write', async () => {
    const [a, b] = [newSecret(), newSecret()]
    const now = clock()
    const page = (...secrets: string[]) =>
      cookieSessions(
        async (request) => {
          const s = await session(request)
          if (request.url.endsWith('/set')) s.set('user', 'anna')
          return new Response(s.get('user') ?? 'stranger')
        },
        { secret: secrets, now },
      )
    const visit = browser(page(a), { now })
    await visit('/set')
    const text = async (jar: typeof visit, path = '/') => (await jar(path)).text()
    assert.equal(await text(visit.copy(page(b, a))), 'anna')
    assert.equal(await text(visit.copy(page(b))), 'stranger')
    const rotated = visit.copy(page(b, a))
    await rotated('/set')
    assert.equal(await text(rotated.copy(page(b))), 'anna')
  })
  test('CK-4, LIM-5: one that would be too long is refused before anything changes, and the old one stays', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('a', 'x'.repeat(2800)))
    const before = visit.browser.cookies.get(NAME) ?? ''
    const response = await visit.raw(set('b', 'x'.repeat(200)))
    assert.equal(response.status, 500)
    assert.deepEqual(cookieOf(response), [])
    assert.equal(visit.browser.cookies.get(NAME), before)
    const [event] = h.events.slice(-1) as { error: KeepsakeError }[]
    assert.equal(event?.error.code, 'too_large')
    assert.match(event?.error.message ?? '', /at most 4093/)
    assert.equal(((await visit(get('a'))) as string).length, 2800)
    // The most that fits is a cookie of 4093 bytes, all of it.
    let most = 2800
    while ((await h.visitor().raw(set('a', 'x'.repeat(most + 1)))).ok) most++
    const [line = ''] = cookieOf(await h.visitor().raw(set('a', 'x'.repeat(most))))
    assert.ok(line.length > 4080 && line.length <= 4093, `${line.length}`)
  })
  test('ENC-10: the length of a token tells nothing of its content', async () => {
    const h = await sealed()
    const lengths = await Promise.all(
      ['a'.repeat(500), 'abcdefghij'.repeat(50)].map(
        async (value) => cookieOf(await h.visitor().raw(set('v', value)))[0]?.length,
      ),
    )
    assert.equal(lengths[0], lengths[1])
  })
  test('ENC-12: a wrong seal, an expired one and none are answered alike', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('a'))
    const token = visit.browser.cookies.get(NAME) ?? ''
    h.now.tick(15 * DAY)
    const answers = await Promise.all(
      [token, `${token.slice(0, -1)}${token.endsWith('A') ? 'B' : 'A'}`, 'A'.repeat(200)].map(async (value) => {
        const response = await h.visitor().raw(get('a'), replay(value))
        return [response.status, [...response.headers]]
      }),
    )
    assert.deepEqual(answers[0], answers[1])
    assert.deepEqual(answers[1], answers[2])
  })
  test('ENC-9: of two writes at once the later answer wins, whole', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('begun'))
    await Promise.all([visit(set('a')), visit(set('b'))])
    const fields = (await visit((s) => Object.keys(s.fields).length)) as number
    assert.equal(fields, 2)
  })
  test('ENC-8: without ends a cookie that was copied before the logout opens, until its end', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const thief = visit.withSameCookies()
    await visit((s) => s.invalidate())
    assert.equal(await thief((s) => s.owner), 'anna')
    h.now.tick(14 * DAY)
    assert.equal(await thief((s) => s.owner), undefined)
  })
  test('it needs a secret, and the refused start names the command that makes one', async () => {
    const refused = (error: unknown) =>
      error instanceof KeepsakeError && error.code === 'no_secret' && error.message.includes('node -p')
    await assert.rejects(sessionManager({ backend: 'cookie:' }).ready(), refused)
    await assert.rejects(async () => cookieSessions(() => new Response(), {}).ready?.(), refused)
    assert.throws(
      () => cookieBackend({}),
      (error) => error instanceof KeepsakeError && error.code === 'no_secret',
    )
  })
})

suite('a session in a cookie, with ends', () => {
  test('F3: a slow request in flight while the session ends logs nobody in again', async () => {
    const h = await sealed({ ends: memoryBackend() })
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const { promise: wait, resolve: go } = Promise.withResolvers<void>()
    const tab = visit.withSameCookies()
    const slow = tab.raw(async (s) => {
      s.set('late', 1)
      await wait
    })
    await visit((s) => s.invalidate())
    go()
    const response = await slow
    assert.equal(response.status, 409)
    assert.deepEqual(cookieOf(response), [])
    assert.equal(await tab((s) => s.owner), undefined)
    assert.equal(await visit((s) => s.owner), undefined)
  })
  test('F11: a cookie stolen before the logout, or the login, is refused after it', async () => {
    const h = await sealed({ ends: memoryBackend() })
    const visit = h.visitor()
    await visit(set('a'))
    const planter = visit.withSameCookies()
    await visit((s) => s.login('anna'))
    assert.equal(await planter(get('a')), undefined)
    await visit(set('b'))
    const thief = visit.withSameCookies()
    await visit((s) => s.invalidate())
    assert.equal(await thief((s) => s.owner), undefined)
    assert.equal(await thief(get('b')), undefined)
  })
  test('faults 2: a slow login of the same owner ends with its session, as in a store', async () => {
    const h = await sealed({ ends: memoryBackend() })
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const { promise: wait, resolve: go } = Promise.withResolvers<void>()
    const slow = visit.withSameCookies().raw(async (s) => {
      await wait
      s.login('anna')
    })
    await visit((s) => s.invalidate())
    go()
    const response = await slow
    assert.equal(response.status, 409)
    assert.deepEqual(cookieOf(response), [])
  })
  test('by a URL: the ends, and the secret, are in the backend behind the colon', async () => {
    const manager = sessionManager({ backend: 'cookie:sqlite::memory:' })
    const visit = browser(
      manager(async (request) => {
        const s = await session(request)
        if (request.url.endsWith('/login')) s.login('anna')
        if (request.url.endsWith('/logout')) s.invalidate()
        return new Response(s.owner ?? 'stranger')
      }),
    )
    await visit('/login')
    const thief = visit.copy()
    assert.equal(await (await visit('/')).text(), 'anna')
    await visit('/logout')
    assert.equal(await (await thief('/')).text(), 'stranger')
    await manager.close()
    await assert.rejects(
      backendFromUrl('cookie:nothing:'),
      (error) => error instanceof KeepsakeError && error.code === 'unknown_backend',
    )
  })
  test('where the end cannot be kept the logout is an error', async () => {
    const ends = memoryBackend()
    const h = await sealed({ ends: { ...ends, generate: () => Promise.reject(new Error('down')) } })
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const response = await visit.raw((s) => s.invalidate())
    assert.equal(response.status, 503)
    assert.match(cookieOf(response)[0] ?? '', /Max-Age=0/)
    assert.ok(h.types.includes('end_failed'))
  })
})

suite('an end outlives every cookie that it ends', () => {
  type Life = Pick<SessionManagerOptions, 'idleTimeout' | 'absoluteTimeout'>
  /** An application of one deployment; a visit gives the owner, and the cookie that the client holds from then on. */
  const deployed = (options: Omit<SessionManagerOptions, 'secret'>) => {
    const manager = sessionManager({ secret, ...options })
    const handler = manager(async (request) => {
      const s = await session(request)
      const { pathname } = new URL(request.url)
      if (pathname === '/login') s.login('anna')
      if (pathname === '/remember') s.login('anna', { idleTimeout: 100 * 86_400, absoluteTimeout: 300 * 86_400 })
      if (pathname === '/count') s.update('n', (n = 0) => n + 1)
      if (pathname === '/logout') s.invalidate()
      return Response.json({ owner: s.owner ?? null, label: s.label })
    })
    const visit = async (path: string, cookie = '') => {
      const response = await handler(new Request(`https://app.test${path}`, { headers: { cookie } }))
      const [line] = cookieOf(response)
      return { ...(await response.json()), cookie: line?.split(';')[0] ?? cookie }
    }
    return { manager, visit }
  }
  const long: Life = { idleTimeout: 90 * 86_400 }
  const longest: Life = { idleTimeout: 400 * 86_400, absoluteTimeout: 400 * 86_400 }
  /** The lives of a deployment at login and of one at logout; and how somebody logs in. */
  const lives: Record<string, readonly [login: Life, logout: Life, path?: string]> = {
    'with the usual life': [{}, {}],
    'with a lifetime of 90 days': [long, long],
    'with the longest life': [longest, longest],
    'with a life that was shortened since': [long, {}],
    'with a life that was lengthened since': [{}, long],
    'with a life that the login chose': [longest, longest, '/remember'],
  }
  type Kept = { readonly backend: Backend | string; readonly ends: Backend }
  const places: Record<string, (folder: string, now: () => number) => Promise<Kept>> = {
    'cookie:sqlite:': async (folder) => {
      const url = `sqlite:${folder}/ends.db`
      return { backend: `cookie:${url}`, ends: await backendFromUrl(url) }
    },
    'cookie:file:': async (folder) => {
      const url = `file:${folder}/ends`
      return { backend: `cookie:${url}`, ends: await backendFromUrl(url) }
    },
    'a backend of its own': async (_, now) => {
      const ends = memoryBackend()
      return { backend: cookieBackend({ secret, namespace: 'sid', ends, now }), ends }
    },
  }
  for (const [place, opener] of Object.entries(places)) {
    for (const [life, [first, second, path = '/login']] of Object.entries(lives)) {
      for (const way of ['a logout', 'a revocation'] as const) {
        test(`${way} at ${place}, ${life}`, async (t) => {
          const now = clock()
          const { backend, ends } = await opener(folder(t), now)
          const [before, after] = [first, second].map((options) => deployed({ ...options, backend, now })) as [
            ReturnType<typeof deployed>,
            ReturnType<typeof deployed>,
          ]
          const { cookie, label } = await before.visit(path)
          // A copy that is used by whoever has it, at both deployments while the one gives way to the other.
          const copies = [cookie]
          for (let day = 0; day < 10; day++) {
            now.tick(DAY)
            for (const { visit } of [before, after]) copies.push((await visit('/count', copies.at(-1))).cookie)
          }
          assert.equal((await after.visit('/', copies.at(-1))).owner, 'anna')
          if (way === 'a logout') await after.visit('/logout', cookie)
          else await after.manager.revoke(label)
          for (let day = 10; day < 420; day += 10) {
            await ends.sweep?.(now(), 10)
            for (const { visit } of [before, after]) {
              for (const copy of new Set([cookie, copies.at(-2), copies.at(-1)])) {
                assert.equal((await visit('/', copy)).owner, null, `day ${day}`)
              }
            }
            now.tick(10 * DAY)
          }
          for (const { close } of [before.manager, after.manager, ends]) await close?.()
        })
      }
    }
  }
  test('and is forgotten when none of them could open any more, however often the option changes', async () => {
    const now = clock()
    const ends = memoryBackend({ now })
    const at = (days: number) => cookieBackend({ secret, namespace: 'sid', ends, now, absoluteTimeout: days * 86_400 })
    const { cookie } = await deployed({ backend: at(30), now }).visit('/login')
    now.tick(10 * DAY)
    const later = deployed({ ...long, backend: at(90), now })
    const { cookie: renewed } = await later.visit('/count', cookie)
    await later.visit('/logout', cookie)
    now.tick(20 * DAY - 1)
    assert.equal((await later.visit('/', renewed)).owner, null)
    assert.equal(await ends.sweep?.(now(), 10), 0)
    now.tick(1)
    assert.equal(await ends.sweep?.(now(), 10), 1)
    assert.equal((await later.visit('/', renewed)).owner, null, 'it was born to end by then')
  })
  test('a life that the login chose is lived, and the end of its session kept as long', async () => {
    const now = clock()
    const ends = memoryBackend({ now })
    const { visit } = deployed({ ...longest, backend: cookieBackend({ secret, namespace: 'sid', ends, now }), now })
    const { cookie } = await visit('/remember')
    let last = cookie
    for (let day = 0; day < 290; day += 10) {
      now.tick(10 * DAY)
      const answer = await visit('/count', last)
      assert.equal(answer.owner, 'anna', `day ${day}`)
      last = answer.cookie
    }
    await visit('/logout', last)
    assert.equal((await visit('/', last)).owner, null)
    now.tick(10 * DAY - 1)
    assert.equal(await ends.sweep?.(now(), 10), 0)
    now.tick(1)
    assert.equal(await ends.sweep?.(now(), 10), 1)
    assert.equal((await visit('/', last)).owner, null)
  })
  test('by a URL it is kept as long as sessionManager() lets a session live, whether that was said or not', async (t) => {
    for (const [options, days] of [
      [{}, 30],
      [long, 90],
      [{ absoluteTimeout: 50 * 86_400 }, 50],
    ] as const) {
      const now = clock()
      const url = `sqlite:${folder(t)}/ends.db`
      const ends = await backendFromUrl(url)
      const { manager, visit } = deployed({ ...options, backend: `cookie:${url}`, now })
      await visit('/logout', (await visit('/login')).cookie)
      now.tick(days * DAY - 1)
      assert.equal(await ends.sweep?.(now(), 10), 0)
      now.tick(1)
      assert.equal(await ends.sweep?.(now(), 10), 1)
      await manager.close()
      await ends.close?.()
    }
  })
  test('absoluteTimeout is refused where it could not be one', () => {
    for (const absoluteTimeout of [0, -1, 400 * 86_400 + 1, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.throws(() => cookieBackend({ secret, absoluteTimeout }), { code: 'invalid_option' })
    }
  })
  test('where ends are kept by servers that fail over, a logout waits until its end is safe', async () => {
    const memory = memoryBackend()
    let safe = true
    const ends: Backend = {
      ...memory,
      ensureDurable: async (key) => {
        assert.ok(await memory.get(key), 'it is asked of what was written')
        if (!safe) throw new Error('too few replicas')
      },
    }
    const h = await sealed({ ends })
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const tab = visit.withSameCookies()
    safe = false
    assert.equal((await visit.raw((s) => s.invalidate())).status, 503)
    assert.equal(await tab((s) => s.owner), undefined)
    assert.equal((await tab.raw((s) => s.login('ben'))).status, 503, 'nor does a login count that finds it ended')
    safe = true
    assert.equal((await tab.raw((s) => s.login('ben'))).status, 200)
  })
})
