// Sessions in the browser's sealed cookie: their promises, their limits, and the ends that make a logout final.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import {
  type Backend,
  backendFromUrl,
  cookieSessions,
  KeepsakeError,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { cookiesOf, get, set, writeDuring } from '../support/acts.ts'
import { clock, DAY } from '../support/clock.ts'
import { folder } from '../support/folder.ts'
import { NAME } from '../support/requests.ts'
import { setup } from '../support/visits.ts'

const secret = newSecret()
const sealed = async (options: { ends?: Backend; secret?: string | string[] } = {}) =>
  setup({ backend: cookieBackend({ secret, namespace: 'sid', ...options }), secret })
const replay = (token: string | undefined, name = NAME) => ({ headers: { cookie: `${name}=${token}` } })

suite('a session in a cookie', () => {
  test('reads, changes, logins and logouts work as in a store', async () => {
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
    assert.deepEqual(cookiesOf(response), [`${NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax`])
    assert.equal(await visit((s) => s.owner), undefined)
  })
  test('a rotation seals a new cookie with the same label', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('a'))
    const [label, before] = [await visit((s) => s.label), visit.browser.cookies.get(NAME)]
    await visit((s) => s.rotateKey())
    assert.notEqual(visit.browser.cookies.get(NAME), before)
    assert.equal(await visit((s) => s.label), label)
  })
  test('the cookie contains no readable content', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('user', 'anastasios'))
    const token = visit.browser.cookies.get(NAME) ?? ''
    assert.ok(!Buffer.from(token, 'base64url').toString('latin1').includes('anastasios'))
  })
  test('ENC-1, CP-5: a cookie that was not sealed here is an anonymous request, without an error or a new cookie', async () => {
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
      assert.deepEqual(cookiesOf(response), [])
    }
  })
  test('ENC-3: a cookie opens only under its own name and in its own namespace', async () => {
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
  test('ENC-6: the sealed times decide the idle and the absolute end, and a creation in the future opens nothing', async () => {
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
  test('a change moves the expiry, and so does a read after three quarters of the idle timeout; an earlier read sends no cookie', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('a'))
    h.now.tick(10 * DAY)
    assert.deepEqual(cookiesOf(await visit.raw(get('a'))), [])
    h.now.tick(0.5 * DAY)
    assert.equal(cookiesOf(await visit.raw(get('a'))).length, 1)
    assert.deepEqual(cookiesOf(await visit.raw(get('a'))), [])
    h.now.tick(13 * DAY)
    assert.equal(await visit(get('a')), true)
  })
  test('ENC-7: the newest secret seals, all secrets open, and the next write seals an old cookie with the newest', async () => {
    const [a, b] = [newSecret(), newSecret()]
    const now = clock()
    const page = (...secrets: string[]) =>
      cookieSessions(
        async (request) => {
          const s = await session(request)
          if (request.url.endsWith('/set')) s.set('user', 'anna')
          return new Response(s.get('user') ?? 'anonymous')
        },
        { secret: secrets, now },
      )
    const visit = browser(page(a), { now })
    await visit('/set')
    const text = async (jar: typeof visit, path = '/') => (await jar(path)).text()
    assert.equal(await text(visit.copy(page(b, a))), 'anna')
    assert.equal(await text(visit.copy(page(b))), 'anonymous')
    const rotated = visit.copy(page(b, a))
    await rotated('/set')
    assert.equal(await text(rotated.copy(page(b))), 'anna')
  })
  test('CK-4, LIM-5: a cookie that would be too long is refused before anything changes, and the old one stays', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('a', 'x'.repeat(2800)))
    const before = visit.browser.cookies.get(NAME) ?? ''
    const response = await visit.raw(set('b', 'x'.repeat(200)))
    assert.equal(response.status, 500)
    assert.deepEqual(cookiesOf(response), [])
    assert.equal(visit.browser.cookies.get(NAME), before)
    const [event] = h.events.slice(-1) as { error: KeepsakeError }[]
    assert.equal(event?.error.code, 'too_large')
    assert.match(event?.error.message ?? '', /at most 4093/)
    assert.equal(((await visit(get('a'))) as string).length, 2800)
    // The largest cookie line that is accepted has 4093 bytes.
    let most = 2800
    while ((await h.visitor().raw(set('a', 'x'.repeat(most + 1)))).ok) most++
    const [line = ''] = cookiesOf(await h.visitor().raw(set('a', 'x'.repeat(most))))
    assert.ok(line.length > 4080 && line.length <= 4093, `${line.length}`)
  })
  test('ENC-10: the length of a cookie does not depend on the content, only on its length', async () => {
    const h = await sealed()
    const lengths = await Promise.all(
      ['a'.repeat(500), 'abcdefghij'.repeat(50)].map(
        async (value) => cookiesOf(await h.visitor().raw(set('v', value)))[0]?.length,
      ),
    )
    assert.equal(lengths[0], lengths[1])
  })
  test('ENC-12: a wrong seal, an expired cookie and a cookie without a seal get the same response', async () => {
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
  test('ENC-9: of two concurrent writes the later response wins as a whole', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit(set('first'))
    await Promise.all([visit(set('a')), visit(set('b'))])
    const fields = (await visit((s) => Object.keys(s.fields).length)) as number
    assert.equal(fields, 2)
  })
  test('ENC-8: without ends a cookie that was copied before the logout opens until it expires', async () => {
    const h = await sealed()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const thief = visit.withSameCookies()
    await visit((s) => s.invalidate())
    assert.equal(await thief((s) => s.owner), 'anna')
    h.now.tick(14 * DAY)
    assert.equal(await thief((s) => s.owner), undefined)
  })
  test('without a secret the start throws, and the error has the command that makes one', async () => {
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
  test('F3: a slow request that was in progress when the session ended logs nobody in again', async () => {
    const h = await sealed({ ends: memoryBackend() })
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const tab = visit.withSameCookies()
    const response = await writeDuring(tab, () => visit((s) => s.invalidate()))
    assert.equal(response.status, 409)
    assert.deepEqual(cookiesOf(response), [])
    assert.equal(await tab((s) => s.owner), undefined)
    assert.equal(await visit((s) => s.owner), undefined)
  })
  test('F11: a cookie that was stolen before the logout or the login is refused after it', async () => {
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
    assert.deepEqual(cookiesOf(response), [])
  })
  test('with a URL, the backend after the colon stores the ends and the secret', async () => {
    const manager = sessionManager({ backend: 'cookie:sqlite::memory:' })
    const visit = browser(
      manager(async (request) => {
        const s = await session(request)
        if (request.url.endsWith('/login')) s.login('anna')
        if (request.url.endsWith('/logout')) s.invalidate()
        return new Response(s.owner ?? 'anonymous')
      }),
    )
    await visit('/login')
    const thief = visit.copy()
    assert.equal(await (await visit('/')).text(), 'anna')
    await visit('/logout')
    assert.equal(await (await thief('/')).text(), 'anonymous')
    await manager.close()
    await assert.rejects(
      backendFromUrl('cookie:nothing:'),
      (error) => error instanceof KeepsakeError && error.code === 'unknown_backend',
    )
  })
  test('if the end cannot be stored, the logout throws', async () => {
    const ends = memoryBackend()
    const h = await sealed({ ends: { ...ends, generate: () => Promise.reject(new Error('down')) } })
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const response = await visit.raw((s) => s.invalidate())
    assert.equal(response.status, 503)
    assert.match(cookiesOf(response)[0] ?? '', /Max-Age=0/)
    assert.ok(h.types.includes('end_failed'))
  })
})

suite('an end outlives every cookie that it ends', () => {
  type Timeouts = Pick<SessionManagerOptions, 'idleTimeout' | 'absoluteTimeout'>
  /** One deployment of an application. A request returns the owner, the label, and the cookie that the browser has afterwards. */
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
      const [line] = cookiesOf(response)
      return { ...(await response.json()), cookie: line?.split(';')[0] ?? cookie }
    }
    return { manager, visit }
  }
  const long: Timeouts = { idleTimeout: 90 * 86_400 }
  const longest: Timeouts = { idleTimeout: 400 * 86_400, absoluteTimeout: 400 * 86_400 }
  /** The timeouts of the deployment at login and of the one at logout, and the path of the login. */
  const lives: Record<string, readonly [login: Timeouts, logout: Timeouts, path?: string]> = {
    'with the default timeouts': [{}, {}],
    'with an idle timeout of 90 days': [long, long],
    'with the longest timeouts': [longest, longest],
    'with timeouts that were shortened later': [long, {}],
    'with timeouts that were lengthened later': [{}, long],
    'with timeouts of the login': [longest, longest, '/remember'],
  }
  type Opened = { readonly backend: Backend | string; readonly ends: Backend }
  const places: Record<string, (folder: string, now: () => number) => Promise<Opened>> = {
    'cookie:sqlite:': async (folder) => {
      const url = `sqlite:${folder}/ends.db`
      return { backend: `cookie:${url}`, ends: await backendFromUrl(url) }
    },
    'cookie:file:': async (folder) => {
      const url = `file:${folder}/ends`
      return { backend: `cookie:${url}`, ends: await backendFromUrl(url) }
    },
    'a backend object': async (_, now) => {
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
          // A thief uses a copy at both deployments, while the second replaces the first.
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
  test('an end is forgotten when no cookie of its session could open any more, even if the option changes', async () => {
    const now = clock()
    const ends = memoryBackend({ now })
    const at = (days: number) => cookieBackend({ secret, namespace: 'sid', ends, now, absoluteTimeout: days * 86_400 })
    const { cookie } = await deployed({ backend: at(30), now }).visit('/login')
    now.tick(10 * DAY)
    const later = deployed({ ...long, backend: at(90), now })
    const { cookie: changed } = await later.visit('/count', cookie)
    await later.visit('/logout', cookie)
    now.tick(20 * DAY - 1)
    assert.equal((await later.visit('/', changed)).owner, null)
    assert.equal(await ends.sweep?.(now(), 10), 0)
    now.tick(1)
    assert.equal(await ends.sweep?.(now(), 10), 1)
    assert.equal((await later.visit('/', changed)).owner, null, 'the cookie has expired by then')
  })
  test('the timeouts of a login count, and the end of its session is kept as long', async () => {
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
  test('with a URL, an end is kept for the absoluteTimeout of sessionManager(), given or default', async (t) => {
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
  test('an impossible absoluteTimeout is refused', () => {
    for (const absoluteTimeout of [0, -1, 400 * 86_400 + 1, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.throws(() => cookieBackend({ secret, absoluteTimeout }), { code: 'invalid_option' })
    }
  })
  test('a logout waits until its end is durable', async () => {
    const memory = memoryBackend()
    let isDurable = true
    const ends: Backend = {
      ...memory,
      ensureDurable: async (key) => {
        assert.ok(await memory.get(key), 'ensureDurable comes after the write')
        if (!isDurable) throw new Error('too few replicas')
      },
    }
    const h = await sealed({ ends })
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const tab = visit.withSameCookies()
    isDurable = false
    assert.equal((await visit.raw((s) => s.invalidate())).status, 503)
    assert.equal(await tab((s) => s.owner), undefined)
    assert.equal((await tab.raw((s) => s.login('ben'))).status, 503, 'a login that finds the session ended fails too')
    isDurable = true
    assert.equal((await tab.raw((s) => s.login('ben'))).status, 200)
  })
})
