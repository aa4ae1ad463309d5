// Cookies that an attacker planted in a visitor's browser: the attacker gets no valid tokens, and nobody is locked out.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import {
  addFlash,
  csrfToken,
  type SessionEvent,
  type SessionManagerOptions,
  session,
  sessionManager,
  takeFlash,
  verifyCsrfToken,
} from 'keepsake'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock } from '../support/clock.ts'

const SECRET = newSecret()

const application = (options: Partial<SessionManagerOptions>, url: string) => {
  const now = clock()
  const events: SessionEvent[] = []
  const page = sessionManager({
    backend: 'memory:',
    secret: SECRET,
    now,
    onEvent: (event) => events.push(event),
    ...options,
  })(async (request) => {
    switch (`/${new URL(request.url).pathname.split('/').at(-1)}`) {
      case '/form':
        return new Response(await csrfToken(request))
      case '/write':
        ;(await session(request)).update('n', (n = 0) => n + 1)
        return new Response()
      case '/login':
        ;(await session(request)).login('anna')
        return new Response()
      case '/leave':
        addFlash(request, 'info', 'hello')
        return new Response()
      case '/take':
        return Response.json((await takeFlash(request)).map(({ text }) => text))
      default:
        return Response.json(await verifyCsrfToken(request))
    }
  })
  type Parts = { cookie?: string | undefined; token?: string; headers?: Record<string, string> }
  const send = (path: string, { cookie, token, headers = {} }: Parts = {}) =>
    page(
      new Request(new URL(path.slice(1), url), {
        headers: { ...headers, ...(cookie && { cookie }), ...(token && { 'x-csrf-token': token }) },
      }),
    )
  /** The Cookie header with the cookies that a response sets, without those that it deletes. */
  const cookiesOf = (response: Response): string =>
    response.headers
      .getSetCookie()
      .map((line) => line.split(';')[0] as string)
      .filter((pair) => !pair.endsWith('='))
      .join('; ')
  return {
    now,
    events,
    send,
    cookiesOf,
    /** The cookie of a new pre-session. An attacker gets one in the same way, to plant it. */
    newPreSession: async () => cookiesOf(await send('/form')),
    tokenFor: async (cookie: string) => (await send('/form', { cookie })).text(),
    outcome: async (parts: Parts): Promise<string> => {
      const outcome = await (await send('/pay', parts)).json()
      return outcome.ok ? 'ok' : outcome.error
    },
  }
}

const LAN = 'http://box.lan:8080/'
const HOME = 'http://localhost:8080/'

/** The headers with which browsers name the page of a request, by the origin of that page. Pages cannot change them. */
const headersFrom = {
  'no page': {},
  'the same origin': { 'sec-fetch-site': 'same-origin' },
  'the address bar': { 'sec-fetch-site': 'none' },
  'another host of the domain': { 'sec-fetch-site': 'same-site', origin: 'https://evil.example.com' },
  'another site': { 'sec-fetch-site': 'cross-site', origin: 'https://evil.test' },
  'another site, of an old browser': { origin: 'https://evil.test' },
  'another port': { origin: 'http://box.lan:8081' },
  'a sandbox': { origin: 'null' },
  'a sandbox, over TLS': { 'sec-fetch-site': 'cross-site', origin: 'null' },
} as const
type Origin = keyof typeof headersFrom
const same: readonly Origin[] = ['the same origin', 'the address bar']

/** Why an attacker can plant cookies, and from which origins a planted token is valid: without and with a stored session. */
const reasons: Record<
  string,
  { options: Partial<SessionManagerOptions>; url: string; anonymous: readonly Origin[]; stored: readonly Origin[] }
> = {
  'a domain': {
    options: { cookie: { domain: 'example.com' } },
    url: 'https://app.example.com/',
    anonymous: same,
    stored: same,
  },
  'a path': {
    options: { cookie: { path: '/shop' } },
    url: 'https://app.example.com/shop/',
    anonymous: same,
    stored: same,
  },
  'a domain, sessions in cookies': {
    options: { cookie: { domain: 'example.com' }, backend: 'cookie:' },
    url: 'https://app.example.com/',
    anonymous: same,
    stored: same,
  },
  'plain HTTP': { options: { secure: false }, url: LAN, anonymous: [...same, 'a sandbox'], stored: same },
  // Browsers send Sec-Fetch-Site to a loopback name without TLS too, so a request without it comes from a program.
  'this machine': { options: {}, url: HOME, anonymous: [...same, 'no page'], stored: [...same, 'no page'] },
}

for (const [reason, { options, url, anonymous, stored }] of Object.entries(reasons)) {
  suite(`cookies that can be planted, because of ${reason}`, () => {
    test('the attacker’s token is valid for an anonymous visitor only from a page of the same origin', async () => {
      const { newPreSession, tokenFor, outcome } = application(options, url)
      const cookie = await newPreSession()
      const token = await tokenFor(cookie)
      const accepted: Origin[] = []
      for (const [origin, headers] of Object.entries(headersFrom)) {
        if ((await outcome({ cookie, token, headers })) === 'ok') accepted.push(origin as Origin)
      }
      assert.deepEqual(accepted.sort(), [...anonymous].sort())
    })

    test('a program that sends no such headers may send the form of its latest page', async () => {
      const { send, cookiesOf, outcome, tokenFor, newPreSession } = application(options, url)
      const first = await newPreSession()
      const page = await send('/form', { cookie: first })
      const cookie = cookiesOf(page) || first
      const token = await page.text()
      assert.equal(await outcome({ cookie, token }), 'ok')
      assert.equal(
        await outcome({ cookie: `${cookie.split('=')[0]}=x; ${cookie}`, token }),
        'ok',
        'a cookie that does not open locks nobody out',
      )
      if (reason === 'this machine') return
      assert.equal(await outcome({ cookie: first, token }), 'wrong_session', 'not with the cookie of an earlier page')
      assert.equal(
        await outcome({ cookie, token: await tokenFor(cookie) }),
        'wrong_session',
        'not with the token of a later page',
      )
      assert.equal(await outcome({ cookie, token, headers: headersFrom['another site'] }), 'wrong_session')
    })

    test('after the visitor’s first write it is valid only from there too, because the session has a form secret of its own', async () => {
      const { newPreSession, tokenFor, outcome, send, cookiesOf } = application(options, url)
      const cookie = await newPreSession()
      const before = await tokenFor(cookie)
      const victim = cookiesOf(await send('/write', { cookie }))
      assert.notEqual(victim, '')
      for (const token of [before, await tokenFor(cookie)]) {
        const accepted: Origin[] = []
        for (const [origin, headers] of Object.entries(headersFrom)) {
          if ((await outcome({ cookie: victim, token, headers })) === 'ok') accepted.push(origin as Origin)
        }
        assert.deepEqual(accepted.sort(), [...stored].sort())
      }
      const headers = headersFrom['another site, of an old browser']
      const fresh = await tokenFor(victim)
      const from = reason === 'this machine' ? headersFrom['no page'] : headers
      assert.equal(
        await outcome({ cookie: victim, token: fresh, headers: from }),
        'ok',
        'a token of the session itself',
      )
    })

    test('a form that was loaded before the first write can be sent after it', async () => {
      const { tokenFor, outcome, send, cookiesOf, newPreSession } = application(options, url)
      const headers = headersFrom['the same origin']
      const cookie = await newPreSession()
      const token = await tokenFor(cookie)
      const stored = cookiesOf(await send('/write', { cookie, headers }))
      assert.equal(await outcome({ cookie: stored, token, headers }), 'ok')
      const again = cookiesOf(await send('/write', { cookie: stored, headers })) || stored
      assert.equal(await outcome({ cookie: again, token, headers }), 'ok')
      const login = cookiesOf(await send('/login', { cookie: again, headers }))
      assert.equal(await outcome({ cookie: login, token, headers }), 'wrong_session', 'but not after a login')
    })
  })
}

test('if nobody can plant cookies, a token needs no such headers, and the session keeps the form secret', async () => {
  const { newPreSession, tokenFor, outcome, send, cookiesOf } = application({}, 'https://app.example.com/')
  const cookie = await newPreSession()
  const token = await tokenFor(cookie)
  const stored = cookiesOf(await send('/write', { cookie }))
  for (const headers of Object.values(headersFrom)) {
    assert.equal(await outcome({ cookie, token, headers }), 'ok')
    assert.equal(await outcome({ cookie: stored, token, headers }), 'ok')
  }
})

test('an anonymous request without such headers is refused, and the event names the missing headers', async () => {
  const { newPreSession, tokenFor, outcome, events } = application(
    { cookie: { domain: 'example.com' } },
    'https://example.com/',
  )
  const cookie = await newPreSession()
  assert.equal(await outcome({ cookie, token: await tokenFor(cookie) }), 'wrong_session')
  assert.match(events.at(-1)?.message ?? '', /^wrong_session: .*Sec-Fetch-Site.*Origin/)
  assert.equal(await outcome({ cookie, token: 'x'.repeat(84) }), 'invalid_token')
  assert.equal(events.at(-1)?.message, 'invalid_token')
})

suite('several pre-session cookies', () => {
  const headers = headersFrom['the same origin']
  const domain = { cookie: { domain: 'example.com' } }
  const start = async () => {
    const app = application(domain, 'https://app.example.com/')
    const mine = await app.newPreSession()
    const name = mine.split('=')[0] as string
    const other = application({ ...domain, namespace: 'other' }, 'https://app.example.com/')
    const junk: Record<string, string> = {
      'of one letter': `${name}=x`,
      'of another application': await other.newPreSession(),
      'of six values': Array.from({ length: 6 }, (_, i) => `${name}=${'x'.repeat(80)}${i}`).join('; '),
      'with a flipped character': mine.replace(/.(?=.{9}$)/, (one) => (one === 'A' ? 'B' : 'A')),
    }
    return { ...app, mine, junk }
  }

  test('cookies that do not open hide no valid one, in either order, and cause an event', async () => {
    const { mine, junk, tokenFor, outcome, events } = await start()
    for (const [name, invalid] of Object.entries(junk)) {
      for (const cookie of [`${invalid}; ${mine}`, `${mine}; ${invalid}`]) {
        events.length = 0
        const token = await tokenFor(cookie)
        assert.deepEqual(
          events.map(({ type }) => type),
          ['invalid_pre_session'],
          name,
        )
        assert.equal(await outcome({ cookie, token, headers }), 'ok', name)
        assert.equal(
          await outcome({ cookie: mine, token, headers }),
          'ok',
          `${name}: the token is bound to the valid cookie`,
        )
      }
    }
  })

  test('an expired cookie hides no valid one', async () => {
    const { mine, tokenFor, outcome, now, newPreSession } = await start()
    now.tick(15 * 86_400_000)
    const cookie = `${mine}; ${await newPreSession()}`
    assert.equal(await outcome({ cookie, token: await tokenFor(cookie), headers }), 'ok')
  })

  test('of several valid cookies, a form of any is accepted, so that nobody is locked out', async () => {
    const { mine, tokenFor, outcome, now, newPreSession } = await start()
    const loaded = await tokenFor(mine)
    now.tick(1000)
    const newer = await newPreSession()
    for (const cookie of [`${newer}; ${mine}`, `${mine}; ${newer}`]) {
      assert.equal(await outcome({ cookie, token: loaded, headers }), 'ok')
      const token = await tokenFor(cookie)
      assert.equal(await outcome({ cookie, token, headers }), 'ok')
      assert.equal(await outcome({ cookie: newer, token, headers }), 'ok', 'new forms are bound to the newest cookie')
    }
  })

  test('a flash message in a cookie that the browser keeps is shown once, because the response sets a newer cookie', async () => {
    const { send, cookiesOf, now } = await start()
    const stays = cookiesOf(await send('/leave'))
    now.tick(1000)
    const first = await send('/take', { cookie: stays })
    assert.deepEqual(await first.json(), ['hello'])
    now.tick(1000)
    for (const cookie of [`${stays}; ${cookiesOf(first)}`, `${cookiesOf(first)}; ${stays}`]) {
      assert.deepEqual(await (await send('/take', { cookie })).json(), [])
    }
  })
})
