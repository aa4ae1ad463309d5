// Form tokens: bound to the visitor, valid for one hour, different on every render, and refused with a result.

import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { csrfField, csrfTag, csrfToken, readForm, sessionManager, type TokenOptions, verifyCsrfToken } from 'keepsake'
import { browser } from 'keepsake/testing'
import { hkdf, keyRing, newSecret } from '../../src/crypto/seal.ts'
import { workOf } from '../../src/request.ts'
import { formSecret } from '../../src/session/form-secret.ts'
import cases from '../data/csrf-cases.json' with { type: 'json' }
import { DAY } from '../support/clock.ts'
import { runs } from '../support/quick.ts'
import { setup, type Visitor } from '../support/visits.ts'

const HOUR = 3_600_000
const token = (visit: Visitor, options?: TokenOptions) =>
  visit((_, request) => csrfToken(request, options)) as Promise<string>

/** The outcome of a token in the visitor's next request. */
const checkToken = async (visit: Visitor, given: unknown, action?: string): Promise<string> => {
  const outcome = (await visit((_, request) =>
    verifyCsrfToken(request, given, action === undefined ? {} : { action }),
  )) as Awaited<ReturnType<typeof verifyCsrfToken>>
  return outcome.ok ? 'ok' : outcome.error
}

suite('a form token', () => {
  test('D47, CSRF-8: for an anonymous visitor it needs a sealed cookie and no store call, and is valid in the next request', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    assert.match(made, /^[\w-]{84}$/)
    assert.equal(await checkToken(visit, made), 'ok')
    assert.equal(
      await checkToken(visit, made),
      'ok',
      'it may be used again, because visitors go back and send a form twice',
    )
    assert.equal(h.total(), 0)
    assert.deepEqual([...visit.browser.cookies.keys()], ['__Host-Http-sid-pre'])
  })

  test('D47, CSRF-7: is valid for one hour, or for validFor, to the millisecond', async () => {
    const h = await setup()
    const visit = h.visitor()
    const [made, short] = [await token(visit), await token(visit, { validFor: 0.5 })]
    h.now.tick(499)
    assert.equal(await checkToken(visit, short), 'ok')
    h.now.tick(1)
    assert.equal(await checkToken(visit, short), 'expired')
    h.now.tick(HOUR - 501)
    assert.equal(await checkToken(visit, made), 'ok')
    h.now.tick(1)
    assert.equal(await checkToken(visit, made), 'expired')
    const outcome = await visit((_, request) => verifyCsrfToken(request, made))
    assert.deepEqual(
      outcome,
      { ok: false, error: 'expired', expiredAt: h.now() },
      'D48: the outcome has the time of the expiry',
    )
  })

  test('CSRF-6: is different on every render, and every one that has not expired is valid', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    const secret = (await visit(async (_, request) => formSecret(await workOf(request)))) as string
    const made = (await visit(async (_, request) => {
      const tokens = new Set<string>()
      for (let i = 0; i < 1000; i++) tokens.add(await csrfToken(request))
      return [...tokens]
    })) as string[]
    assert.equal(made.length, 1000)
    const parts = new Set(made.map((one) => Buffer.from(one, 'base64url').toString('hex', 7)))
    assert.equal(parts.size, 1000)
    for (const one of made) assert.ok(!one.includes(secret) && !Buffer.from(one, 'base64url').includes(secret))
    await visit(async (_, request) => {
      for (const one of made) assert.deepEqual(await verifyCsrfToken(request, one), { ok: true })
    })
  })

  test('CSRF-6: all bytes after the expiry differ between two renders', async () => {
    const h = await setup()
    const visit = h.visitor()
    const [one, two] = [await token(visit), await token(visit)].map((text) => Buffer.from(text, 'base64url'))
    for (let at = 7; at < 63; at += 8) assert.notDeepEqual(one?.subarray(at, at + 8), two?.subarray(at, at + 8))
  })

  test('CSRF-5: ends at a login and a logout, and survives a rotation and a first write', async () => {
    const h = await setup()
    const visit = h.visitor()
    const anonymous = await token(visit)
    await visit((s) => s.set('cart', 1))
    assert.equal(await checkToken(visit, anonymous), 'ok')
    await visit((s) => s.rotateKey())
    await visit((s) => s.get('cart'))
    assert.equal(await checkToken(visit, anonymous), 'ok')
    await visit((s) => s.login('anna', { keep: ['cart'] }))
    assert.equal(await checkToken(visit, anonymous), 'wrong_session')
    const anna = await token(visit)
    assert.equal(await checkToken(visit, anna), 'ok')
    await visit((s) => s.login('anna'))
    assert.equal(await checkToken(visit, anna), 'wrong_session')
    const again = await token(visit)
    await visit((s) => s.invalidate())
    assert.equal(await checkToken(visit, again), 'wrong_session')
  })

  test('CSRF-5: belongs to the new session if it is rendered after a login in the same request', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = (await visit((s, request) => {
      s.login('anna')
      return csrfToken(request)
    })) as string
    assert.equal(await checkToken(visit, made), 'ok')
  })

  test('CSRF-5: is valid only for the action that it was made for', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit, { action: 'delete' })
    assert.equal(await checkToken(visit, made, 'delete'), 'ok')
    assert.equal(await checkToken(visit, made, 'delet'), 'invalid_token')
    assert.equal(await checkToken(visit, made), 'invalid_token')
    assert.equal(await checkToken(visit, await token(visit), 'delete'), 'invalid_token')
  })

  test('CSRF-9: an attacker’s pre-session cookie and token are refused beside the victim’s session cookie', async () => {
    const h = await setup()
    const [attacker, victim] = [h.visitor(), h.visitor()]
    const made = await token(attacker)
    await victim((s) => s.set('user', 'anna'))
    const pre = attacker.browser.cookies.get('__Host-Http-sid-pre')
    const sid = victim.browser.cookies.get('__Host-Http-sid')
    const headers = { cookie: `__Host-Http-sid-pre=${pre}; __Host-Http-sid=${sid}`, 'x-csrf-token': made }
    const outcome = await (
      await h.visitor().raw(async (_, request) => Response.json(await verifyCsrfToken(request)), { headers })
    ).json()
    assert.deepEqual(outcome, { ok: false, error: 'wrong_session' })
  })

  test('D49: the tag is a hidden field with the token, and the field is its name and value', async () => {
    const h = await setup()
    const visit = h.visitor()
    const tag = (await visit((_, request) => csrfTag(request))) as string
    const [, value] = /^<input name="_csrf" type="hidden" value="([\w-]{84})">$/.exec(tag) ?? []
    assert.equal(await checkToken(visit, value), 'ok')
    const field = (await visit((_, request) => csrfField(request))) as { name: string; value: string }
    assert.equal(field.name, '_csrf')
    assert.equal(await checkToken(visit, field.value), 'ok')
  })

  test('CSRF-12: shared caches do not keep the response, and an event reports a replaced Cache-Control', async () => {
    const h = await setup()
    const visit = h.visitor()
    const cached = (value?: string) =>
      visit.raw(
        async (_, request) =>
          new Response(await csrfToken(request), value === undefined ? {} : { headers: { 'cache-control': value } }),
      )
    assert.equal((await cached()).headers.get('cache-control'), 'no-store', 'the first sets a cookie')
    assert.equal((await cached()).headers.get('cache-control'), 'private, no-cache')
    assert.equal((await cached('private, max-age=5')).headers.get('cache-control'), 'private, max-age=5')
    assert.equal((await cached('public, max-age=5')).headers.get('cache-control'), 'private, no-store')
    assert.deepEqual(h.types.slice(-1), ['cache_overridden'])
    assert.equal((await visit.raw(() => {})).headers.get('cache-control'), null)
  })

  test('CSRF-11: a refusal changes nothing, and its event has the outcome and the label but not the token', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    const before = h.total()
    const made = `${(await token(visit)).slice(0, -4)}AAAA`
    assert.equal(await checkToken(visit, made), 'invalid_token')
    const event = h.events.at(-1) as Record<string, unknown>
    assert.equal(event.type, 'form_rejected')
    assert.equal(event.message, 'invalid_token')
    assert.match(String(event.label), /^[\w-]{12}$/)
    assert.ok(!JSON.stringify(event).includes(made.slice(8, 40)))
    assert.equal(h.calls.set + h.calls.generate + h.calls.clear, 1)
    assert.equal(h.total(), before + 2, 'two reads')
  })

  test('invalid options are refused', async () => {
    const h = await setup()
    const visit = h.visitor()
    for (const validFor of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, '60', 401 * DAY]) {
      await visit((_, request) =>
        assert.rejects(csrfToken(request, { validFor: validFor as number }), { code: 'invalid_option' }),
      )
    }
    await visit((_, request) => assert.rejects(csrfToken(request, { action: 5 as never }), { code: 'invalid_option' }))
    await assert.rejects(csrfToken(new Request('https://app.test/')), { code: 'no_middleware' })
    let left: Request | undefined
    await visit((_, request) => {
      left = request
    })
    await assert.rejects(csrfToken(left as Request), { code: 'too_late' })
  })
})

suite('a hostile token', () => {
  const values: Record<string, (visit: Visitor, other: Visitor) => Promise<unknown>> = {
    $CSRF_OTHER_SESSION: (_, other) => token(other),
    async $CSRF_BEFORE_LOGIN(visit) {
      const made = await token(visit)
      await visit((s) => s.login('anna'))
      return made
    },
    async $CSRF_BEFORE_ROTATE(visit) {
      await visit((s) => s.set('a', 1))
      const made = await token(visit)
      await visit((s) => s.rotateKey())
      return made
    },
    $CSRF_EXPIRED: (visit) => token(visit, { validFor: 0.001 }),
    $CSRF_OTHER_ACTION: (visit) => token(visit, { action: 'transfer' }),
    $CSRF_RAW_SECRET: (visit) => visit(async (_, request) => formSecret(await workOf(request))),
  }
  const testedBelow = ['$CSRF_COOKIE_ONLY', '$CSRF_IN_QUERY']
  for (const { name, value, expected } of cases.tokens.filter(({ value }) => !testedBelow.includes(value as string))) {
    test(`${name}: ${expected}`, async () => {
      const h = await setup()
      const [visit, other] = [h.visitor(), h.visitor()]
      let given: unknown = value
      if (typeof value === 'string' && value in values) given = await values[value]?.(visit, other)
      else if (typeof value === 'object' && '$repeat' in value)
        given = String(value.$repeat).repeat(Number(value.times))
      h.now.tick(2)
      if (expected.startsWith('accept')) assert.equal(await checkToken(visit, given), 'ok')
      else assert.notEqual(await checkToken(visit, given), 'ok')
    })
  }

  test('token only in cookie, token in query string: CSRF-10: neither is read', async () => {
    const page = sessionManager({ backend: 'memory:' })(async (request) =>
      request.method === 'GET'
        ? new Response(await csrfToken(request))
        : Response.json({ script: await verifyCsrfToken(request), form: await readForm(request) }),
    )
    const visit = browser(page)
    const made = await (await visit('/')).text()
    const [own] = [...visit.cookies].map(([name, value]) => `${name}=${value}`)
    const sent = { method: 'POST', body: new URLSearchParams({ a: '1' }) }
    for (const [path, headers] of [
      [`/?_csrf=${made}&x-csrf-token=${made}`, {}],
      ['/', { cookie: `${own}; _csrf=${made}; x-csrf-token=${made}` }],
    ] as const) {
      const outcome = await (
        await page(
          new Request(new URL(path, 'https://app.test'), { ...sent, headers: { cookie: own as string, ...headers } }),
        )
      ).json()
      assert.equal(outcome.script.error, 'invalid_token')
      assert.equal(outcome.form.error, 'missing_token')
    }
    assert.equal((await (await visit('/', { ...sent, headers: { 'x-csrf-token': made } })).json()).script.ok, true)
  })

  test('a token with a flipped bit, a missing or an added character, or another spelling is refused', async () => {
    const h = await setup()
    const visit = h.visitor()
    let made = await token(visit)
    while (!/[-_]/.test(made)) made = await token(visit)
    const bytes = Buffer.from(made, 'base64url')
    const spelt = made.replaceAll('-', '+').replaceAll('_', '/')
    const tried: unknown[] = [
      spelt,
      `${made.slice(0, 40)}\n${made.slice(41)}`,
      `${made}=`,
      ` ${made}`,
      made.slice(1),
      made.slice(0, -1),
      `${made}A`,
      made.toLowerCase(),
    ]
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7))
      tried.push(flipped.toString('base64url'))
    }
    await visit(async (_, request) => {
      for (const one of tried)
        assert.deepEqual(await verifyCsrfToken(request, one), { ok: false, error: 'invalid_token' })
    })
  })

  test('every value gives a result and no error', async () => {
    const h = await setup()
    const visit = h.visitor()
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.anything(), fc.string({ unit: 'binary' })), async (given) => {
        assert.notEqual(await checkToken(visit, given), 'ok')
      }),
      { numRuns: runs(300) },
    )
  })
})

test('SEC-2: the key that signs is not the key that seals, an older secret still verifies, and a short MAC is refused', () => {
  const [secret, newer] = [newSecret(), newSecret()]
  const one = keyRing([secret])
  const mac = one.sign('message')
  assert.ok(one.verify('message', mac))
  assert.ok(one.verify('message', mac.subarray(0, 16)))
  assert.ok(!one.verify('message', mac.subarray(0, 15)), 'a MAC that is too short')
  assert.ok(!one.verify('message', Buffer.concat([mac, mac])))
  assert.ok(!one.verify('messag', mac))
  assert.ok(!keyRing([newer]).verify('message', mac))
  assert.ok(keyRing([newer, secret]).verify('message', mac))
  const keys = ['seal', 'csrf', 'kid'].map((purpose) =>
    hkdf(Buffer.from(secret, 'hex'), `keepsake/v1/${purpose}`, 32).toString('hex'),
  )
  assert.equal(new Set(keys).size, 3)
  const expected = createHmac('sha256', Buffer.from(keys[1] as string, 'hex'))
    .update('message')
    .digest('hex')
  assert.equal(mac.toString('hex'), expected)
})
