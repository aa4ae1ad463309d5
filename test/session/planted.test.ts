// Cookies that somebody planted in a visitor's browser: they give their planter no tokens, and lock nobody out.

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
  type Asked = { cookie?: string | undefined; token?: string; headers?: Record<string, string> }
  const ask = (path: string, { cookie, token, headers = {} }: Asked = {}) =>
    page(
      new Request(new URL(path.slice(1), url), {
        headers: { ...headers, ...(cookie && { cookie }), ...(token && { 'x-csrf-token': token }) },
      }),
    )
  /** The cookies of a response, of those that set a value. */
  const cookiesOf = (response: Response): string =>
    response.headers
      .getSetCookie()
      .map((line) => line.split(';')[0] as string)
      .filter((pair) => !pair.endsWith('='))
      .join('; ')
  return {
    now,
    events,
    ask,
    cookiesOf,
    /** A stranger's pre-session, as his cookie. */
    planted: async () => cookiesOf(await ask('/form')),
    tokenFor: async (cookie: string) => (await ask('/form', { cookie })).text(),
    outcome: async (asked: Asked): Promise<string> => {
      const outcome = await (await ask('/pay', asked)).json()
      return outcome.ok ? 'ok' : outcome.error
    },
  }
}

const LAN = 'http://box.lan:8080/'
const HOME = 'http://localhost:8080/'

/** What a request may say of its page, and what no page but one of the same origin can make it say. */
const said = {
  nothing: {},
  'itself or the visitor': { 'sec-fetch-site': 'same-origin' },
  'the visitor': { 'sec-fetch-site': 'none' },
  'another host of the domain': { 'sec-fetch-site': 'same-site', origin: 'https://evil.example.com' },
  'another site': { 'sec-fetch-site': 'cross-site', origin: 'https://evil.test' },
  'another site, of an old browser': { origin: 'https://evil.test' },
  'another port': { origin: 'http://box.lan:8081' },
  'a sandbox': { origin: 'null' },
  'a sandbox, over TLS': { 'sec-fetch-site': 'cross-site', origin: 'null' },
} as const
type Said = keyof typeof said
const own: readonly Said[] = ['itself or the visitor', 'the visitor']

const kinds: Record<
  string,
  { options: Partial<SessionManagerOptions>; url: string; stranger: readonly Said[]; stored: readonly Said[] }
> = {
  'a domain': {
    options: { cookie: { domain: 'example.com' } },
    url: 'https://app.example.com/',
    stranger: own,
    stored: own,
  },
  'a path': {
    options: { cookie: { path: '/shop' } },
    url: 'https://app.example.com/shop/',
    stranger: own,
    stored: own,
  },
  'a domain, sessions in cookies': {
    options: { cookie: { domain: 'example.com' }, backend: 'cookie:' },
    url: 'https://app.example.com/',
    stranger: own,
    stored: own,
  },
  'plain HTTP': { options: { secure: false }, url: LAN, stranger: [...own, 'a sandbox'], stored: own },
  // Browsers say Sec-Fetch-Site to this machine without TLS too, and a foreign Origin gets another cookie name.
  'this machine': { options: {}, url: HOME, stranger: [...own, 'nothing'], stored: [...own, 'nothing'] },
}

for (const [kind, { options, url, stranger, stored }] of Object.entries(kinds)) {
  suite(`where cookies can be planted, because of ${kind}`, () => {
    test('a token of the planter’s is good for a stranger only from a page of the same origin', async () => {
      const { planted, tokenFor, outcome } = application(options, url)
      const cookie = await planted()
      const token = await tokenFor(cookie)
      const taken: Said[] = []
      for (const [who, headers] of Object.entries(said)) {
        if ((await outcome({ cookie, token, headers })) === 'ok') taken.push(who as Said)
      }
      assert.deepEqual(taken.sort(), [...stranger].sort())
    })

    test('a program that says nothing of its pages may send the form of the page that it got last', async () => {
      const { ask, cookiesOf, outcome, tokenFor, planted } = application(options, url)
      const first = await planted()
      const page = await ask('/form', { cookie: first })
      const cookie = cookiesOf(page) || first
      const token = await page.text()
      assert.equal(await outcome({ cookie, token }), 'ok')
      assert.equal(
        await outcome({ cookie: `${cookie.split('=')[0]}=x; ${cookie}`, token }),
        'ok',
        'and junk locks nobody out',
      )
      if (kind === 'this machine') return
      assert.equal(await outcome({ cookie: first, token }), 'wrong_session', 'with no cookie of an earlier page')
      assert.equal(
        await outcome({ cookie, token: await tokenFor(cookie) }),
        'wrong_session',
        'nor a token of a later one',
      )
      assert.equal(await outcome({ cookie, token, headers: said['another site'] }), 'wrong_session')
    })

    test('nor after his first write: his session has a form secret of its own', async () => {
      const { planted, tokenFor, outcome, ask, cookiesOf } = application(options, url)
      const cookie = await planted()
      const before = await tokenFor(cookie)
      const victim = cookiesOf(await ask('/write', { cookie }))
      assert.notEqual(victim, '')
      for (const token of [before, await tokenFor(cookie)]) {
        const taken: Said[] = []
        for (const [who, headers] of Object.entries(said)) {
          if ((await outcome({ cookie: victim, token, headers })) === 'ok') taken.push(who as Said)
        }
        assert.deepEqual(taken.sort(), [...stored].sort())
      }
      const headers = said['another site, of an old browser']
      const fresh = await tokenFor(victim)
      const elsewhere = kind === 'this machine' ? said.nothing : headers
      assert.equal(await outcome({ cookie: victim, token: fresh, headers: elsewhere }), 'ok', 'a token of his own is')
    })

    test('a form that was loaded before the first write can be sent after it', async () => {
      const { tokenFor, outcome, ask, cookiesOf, planted } = application(options, url)
      const headers = said['itself or the visitor']
      const cookie = await planted()
      const token = await tokenFor(cookie)
      const stored = cookiesOf(await ask('/write', { cookie, headers }))
      assert.equal(await outcome({ cookie: stored, token, headers }), 'ok')
      const again = cookiesOf(await ask('/write', { cookie: stored, headers })) || stored
      assert.equal(await outcome({ cookie: again, token, headers }), 'ok')
      const login = cookiesOf(await ask('/login', { cookie: again, headers }))
      assert.equal(await outcome({ cookie: login, token, headers }), 'wrong_session', 'but not after a login')
    })
  })
}

test('where nobody can plant cookies, nothing has to be said, and the form secret comes along', async () => {
  const { planted, tokenFor, outcome, ask, cookiesOf } = application({}, 'https://app.example.com/')
  const cookie = await planted()
  const token = await tokenFor(cookie)
  const stored = cookiesOf(await ask('/write', { cookie }))
  for (const headers of Object.values(said)) {
    assert.equal(await outcome({ cookie, token, headers }), 'ok')
    assert.equal(await outcome({ cookie: stored, token, headers }), 'ok')
  }
})

test('a stranger’s request that says too little is refused with an event that says what is missing', async () => {
  const { planted, tokenFor, outcome, events } = application(
    { cookie: { domain: 'example.com' } },
    'https://example.com/',
  )
  const cookie = await planted()
  assert.equal(await outcome({ cookie, token: await tokenFor(cookie) }), 'wrong_session')
  assert.match(events.at(-1)?.message ?? '', /^wrong_session: .*Sec-Fetch-Site.*Origin/)
  assert.equal(await outcome({ cookie, token: 'x'.repeat(84) }), 'invalid_token')
  assert.equal(events.at(-1)?.message, 'invalid_token')
})

suite('several pre-session cookies', () => {
  const headers = said['itself or the visitor']
  const domain = { cookie: { domain: 'example.com' } }
  const begun = async () => {
    const app = application(domain, 'https://app.example.com/')
    const mine = await app.planted()
    const name = mine.split('=')[0] as string
    const elsewhere = application({ ...domain, namespace: 'other' }, 'https://app.example.com/')
    const junk: Record<string, string> = {
      'of one letter': `${name}=x`,
      'of another application': await elsewhere.planted(),
      'that are six': Array.from({ length: 6 }, (_, i) => `${name}=${'x'.repeat(80)}${i}`).join('; '),
      'with a flipped character': mine.replace(/.(?=.{9}$)/, (one) => (one === 'A' ? 'B' : 'A')),
    }
    return { ...app, mine, junk }
  }

  test('ones that do not open hide none that does, wherever they stand, and are an event', async () => {
    const { mine, junk, tokenFor, outcome, events } = await begun()
    for (const [what, other] of Object.entries(junk)) {
      for (const cookie of [`${other}; ${mine}`, `${mine}; ${other}`]) {
        events.length = 0
        const token = await tokenFor(cookie)
        assert.deepEqual(
          events.map(({ type }) => type),
          ['invalid_pre_session'],
          what,
        )
        assert.equal(await outcome({ cookie, token, headers }), 'ok', what)
        assert.equal(await outcome({ cookie: mine, token, headers }), 'ok', `${what}: the token is bound to his own`)
      }
    }
  })

  test('one that is over hides none that is not', async () => {
    const { mine, tokenFor, outcome, now, planted } = await begun()
    now.tick(15 * 86_400_000)
    const cookie = `${mine}; ${await planted()}`
    assert.equal(await outcome({ cookie, token: await tokenFor(cookie), headers }), 'ok')
  })

  test('of several that open, a form that was bound to any is taken, so that nobody is locked out', async () => {
    const { mine, tokenFor, outcome, now, planted } = await begun()
    const loaded = await tokenFor(mine)
    now.tick(1000)
    const newer = await planted()
    for (const cookie of [`${newer}; ${mine}`, `${mine}; ${newer}`]) {
      assert.equal(await outcome({ cookie, token: loaded, headers }), 'ok')
      const token = await tokenFor(cookie)
      assert.equal(await outcome({ cookie, token, headers }), 'ok')
      assert.equal(
        await outcome({ cookie: newer, token, headers }),
        'ok',
        'the newest is the one that forms are bound to',
      )
    }
  })

  test('a flash message in one that stays is shown once: what the visit leaves behind is the newest', async () => {
    const { ask, cookiesOf, now } = await begun()
    const stays = cookiesOf(await ask('/leave'))
    now.tick(1000)
    const first = await ask('/take', { cookie: stays })
    assert.deepEqual(await first.json(), ['hello'])
    now.tick(1000)
    for (const cookie of [`${stays}; ${cookiesOf(first)}`, `${cookiesOf(first)}; ${stays}`]) {
      assert.deepEqual(await (await ask('/take', { cookie })).json(), [])
    }
  })
})
