// Cookies that are written and cookies that are read, for any handler and any browser: one test for each requirement.

import assert from 'node:assert/strict'
import crypto from 'node:crypto'
import { once } from 'node:events'
import { syncBuiltinESMExports } from 'node:module'
import { connect as dial } from 'node:net'
import { suite, test } from 'node:test'
import { type CookieOptions, type Handler, type Session, session, sessionManager } from 'keepsake'
import { serve } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import { isKey } from '../../src/crypto/keys.ts'
import { cookieValues, formatSetCookie } from '../../src/http/cookie.ts'
import { cookiesOf } from '../support/acts.ts'
import { code } from '../support/assert.ts'
import { DAY } from '../support/clock.ts'
import { guardPrototypes, NAME, PRE, rawRequest, SECRET, startSite } from '../support/requests.ts'
import { onePass, ratio } from '../support/spent.ts'
import { setup } from '../support/visits.ts'

const clean = guardPrototypes()
const set = (s: Session) => s.set('a', 1)
const managerWith = (cookie: object) => sessionManager({ backend: 'memory:', cookie: cookie as CookieOptions })

suite('cookies that are written', () => {
  test('CK-1: the first session cookie and the first pre-session cookie have exactly these attributes', async () => {
    const s = await startSite()
    const visit = s.visitor()
    const [cookie = ''] = cookiesOf(await visit.raw(set))
    const key = visit.browser.cookies.get(NAME)
    assert.equal(cookie, `__Host-Http-sid=${key}; Max-Age=2592000; Path=/; Secure; HttpOnly; SameSite=Lax`)
    const [pre = ''] = cookiesOf((await s.send(rawRequest(undefined), 'form')).response)
    const token = pre.slice(pre.indexOf('=') + 1, pre.indexOf(';'))
    assert.equal(pre, `__Host-Http-sid-pre=${token}; Max-Age=1209600; Path=/; Secure; HttpOnly; SameSite=Lax`)
  })
  test('CK-2: a cookie gets a prefix only if browsers accept the prefix for it', async () => {
    for (const name of ['sid', 'a', 'SID', "!#$%&'*+-.^`|~"]) {
      for (const domain of [undefined, 'app.test'])
        for (const path of [undefined, '/', '/app'])
          for (const secure of [undefined, true] as const) {
            const cookie = { name, ...(domain && { domain }), ...(path && { path }) }
            const handler = sessionManager({ backend: 'memory:', cookie, ...(secure && { secure }) })(
              async (request) => {
                set(await session(request))
                return new Response()
              },
            )
            const [line = ''] = cookiesOf(await handler(new Request('https://app.test/app')))
            const parts = line.split('; ')
            assert.ok(parts.includes('Secure') && parts.includes('HttpOnly'))
            const host = domain === undefined && (path ?? '/') === '/'
            assert.ok(line.startsWith(host ? `__Host-Http-${name}=` : `__Secure-${name}=`), line)
            assert.equal(parts.includes('Path=/') && !line.includes('Domain='), host)
          }
    }
  })
  test('CK-3: a character that ends a part of a cookie is refused in every part', () => {
    const good = { name: 'sid', path: '/app', domain: 'app.test', sameSite: 'lax', priority: 'low' } as const
    assert.ok(managerWith(good))
    const odd = [';', ',', '\r', '\n', '\0', '=', ' ', '\t', '"', '\\', '\x7f', '\x1b', 'é', '\u2028', '🦊', '\ud800']
    for (const field of Object.keys(good) as (keyof typeof good)[]) {
      for (const one of odd) {
        // A path may have characters without a meaning in it.
        if (field === 'path' && ',= "\\'.includes(one)) continue
        for (const value of [good[field] + one, one + good[field], `${good[field]}${one}x`]) {
          if (field === 'path' && !value.startsWith('/')) continue
          assert.throws(
            () => managerWith({ ...good, [field]: value }),
            code('invalid_option'),
            `${field} ${JSON.stringify(value)}`,
          )
        }
      }
    }
  })
  test('CK-4: with the longest options, name and value stay under 4096 bytes and the header under 4093', async () => {
    const cookie = {
      name: 'a'.repeat(256),
      path: `/${'p'.repeat(1023)}`,
      domain: `${'d'.repeat(63)}.test`,
      priority: 'medium',
    }
    const handler = managerWith({ ...cookie, sameSite: 'strict', partitioned: true })(async (request) => {
      set(await session(request))
      return new Response()
    })
    const [line = ''] = cookiesOf(await handler(new Request(`https://app.test${cookie.path}`)))
    assert.ok(line.length > 1000 && Buffer.byteLength(line) <= 4093)
  })
  test('CK-4: a value that is too large changes nothing: no cookie is sent, and the entry stays', async () => {
    const h = await setup({ maxBytes: 100 })
    const visit = h.visitor()
    await visit((s) => s.set('a', 'x'.repeat(90)))
    const key = visit.browser.cookies.get(NAME)
    for (const act of [
      (s: Session) => s.set('b', 'x'.repeat(3)),
      (s: Session) => s.set('a', 'x'.repeat(93)),
      (s: Session) => {
        s.login('anna', { keep: ['a'] })
        s.set('b', 'xxx')
      },
      (s: Session) => {
        s.rotateKey()
        s.set('b', 'xxx')
      },
    ]) {
      const response = await visit.raw(act)
      assert.deepEqual([response.status, cookiesOf(response)], [500, []])
      assert.deepEqual(await visit((s) => [s.get('a').length, s.owner]), [90, undefined])
    }
    assert.equal(visit.browser.cookies.get(NAME), key)
    assert.equal(await visit((s) => s.set('a', 'x'.repeat(92))), undefined, 'a hundred bytes are allowed')
  })
  test('CK-5: Max-Age is a whole number of seconds, at most 400 days, and there is no Expires', async () => {
    for (const [idleTimeout, age] of [
      [0.001, 1],
      [1.5, 2],
      [400 * 86_400, 34_560_000],
    ] as const) {
      const h = await setup({ idleTimeout, absoluteTimeout: idleTimeout })
      const [line = ''] = cookiesOf(await h.visitor().raw(set))
      assert.match(line, new RegExp(`; Max-Age=${age}; `))
      assert.doesNotMatch(line, /Expires/i)
    }
    assert.throws(
      () => sessionManager({ backend: 'memory:', absoluteTimeout: 400 * 86_400 + 1 }),
      code('invalid_option'),
    )
    for (const age of [Number.MAX_SAFE_INTEGER, Number.POSITIVE_INFINITY]) {
      assert.match(formatSetCookie('a', 'b', '', age), /; Max-Age=34560000$/)
    }
    for (const age of [-1, -0.5, 0, Number.NEGATIVE_INFINITY])
      assert.match(formatSetCookie('a', 'b', '', age), /; Max-Age=-?0$/)
  })
  test('CK-6: SameSite=None and Partitioned require Secure, also in the clearing cookie', async () => {
    const h = await setup({ cookie: { sameSite: 'none', partitioned: true } })
    const visit = h.visitor()
    const [line = ''] = cookiesOf(await visit.raw(set))
    assert.match(line, /; Path=\/; Secure; HttpOnly; SameSite=None; Partitioned$/)
    const clearing = cookiesOf(await visit.raw((s) => s.invalidate()))
    assert.deepEqual(clearing, [`${NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None; Partitioned`])
    for (const cookie of [{ sameSite: 'none' }, { partitioned: true }] as const) {
      assert.throws(() => sessionManager({ backend: 'memory:', secure: false, cookie }), code('invalid_option'))
    }
    // On loopback no cookie is Secure, so it has neither attribute.
    const plain = sessionManager({ backend: 'memory:', cookie: { sameSite: 'none', partitioned: true } })(
      async (request) => {
        set(await session(request))
        return new Response()
      },
    )
    assert.match(
      cookiesOf(await plain(new Request('http://localhost/')))[0] ?? '',
      /; Path=\/; HttpOnly; SameSite=Lax$/,
    )
  })
  test('CK-7: a response has at most one session cookie, and every cookie of the application', async () => {
    const h = await setup()
    const own = () => {
      const response = new Response()
      for (const line of ['a=1', 'b=2; Path=/', 'a=3']) response.headers.append('set-cookie', line)
      return response
    }
    const visit = h.visitor()
    for (const act of [
      set,
      (s: Session) => {
        s.rotateKey()
        s.rotateKey()
      },
      (s: Session) => {
        s.login('anna')
        s.rotateKey()
        s.login('bert')
      },
      (s: Session) => {
        s.invalidate()
        s.set('b', 1)
        s.login('carl')
        s.invalidate()
        s.set('c', 1)
      },
      (s: Session) => s.invalidate(),
    ]) {
      const lines = cookiesOf(
        await visit.raw((s) => {
          act(s)
          return own()
        }),
      )
      assert.deepEqual(lines.slice(0, 3), ['a=1', 'b=2; Path=/', 'a=3'])
      assert.equal(lines.filter((line) => line.startsWith(`${NAME}=`)).length, 1, `${lines}`)
      assert.equal(lines.length, 4)
    }
  })
  test('CK-8: a response that cannot be changed is copied completely: redirects, fetched responses, responses without a body', async () => {
    const h = await setup()
    const fetched = await fetch('data:text/plain,hello')
    const responses: [string, () => Response, number, string][] = [
      ['redirect', () => Response.redirect('https://app.test/x', 303), 303, ''],
      ['fetched', () => fetched, 200, 'hello'],
      ['no content', () => new Response(null, { status: 204, headers: { 'x-own': '1' } }), 204, ''],
      ['not modified', () => new Response(null, { status: 304 }), 304, ''],
    ]
    for (const [name, make, status, text] of responses) {
      const visit = h.visitor()
      const response = await visit.raw((s) => {
        set(s)
        return make()
      })
      assert.equal(response.status, status, name)
      assert.equal(cookiesOf(response).length, 1, name)
      assert.equal(await response.text(), text, name)
      assert.equal(response.headers.get('vary'), 'Cookie')
      assert.equal(response.headers.get('cache-control'), 'no-store')
    }
  })
})

suite('cookies that are read', () => {
  test('CP-1: a header that was made to be slow is read in one pass: a mebibyte takes less time than fifty simple passes over it', async () => {
    const pieces = [
      `${NAME}=;`,
      `${NAME}=,;`,
      `${NAME}=A;`,
      `${NAME} =;`,
      `${NAME}=\t`,
      `${NAME} `,
      NAME,
      `;${NAME}`,
      `;${NAME}= ,`,
      `${NAME}=${'A'.repeat(42)}B;`,
      `${NAME}=${'A'.repeat(4097)};`,
      ' ',
      '\t;',
      ';',
      '=',
      ',',
      NAME.slice(0, -1),
      '_',
      'a=1;',
    ]
    for (const piece of pieces) {
      const header = piece.repeat(Math.ceil(2 ** 20 / piece.length))
      assert.deepEqual(cookieValues(header, NAME, isKey), [])
      const times = await ratio(() => cookieValues(header, NAME, isKey), onePass(header))
      assert.ok(times < 50, `${JSON.stringify(piece.slice(0, 30))}: ${times} times`)
    }
  })
  test('CP-2: at most four candidates are tried; the right one is found, and two that open two sessions open none', async () => {
    const s = await startSite()
    const [one, two] = [await s.createSession('one'), await s.createSession('two')]
    const wrong = (i: number) => `${NAME}=${i}${'x'.repeat(41)}A`
    const whoAndReads = async (...pairs: string[]) => {
      s.newEvents()
      const gets = s.calls.get
      const { who } = await s.send(rawRequest(pairs.join('; ')))
      return [who, s.calls.get - gets]
    }
    assert.deepEqual(await whoAndReads(wrong(1), wrong(2), wrong(3), `${NAME}=${one}`), ['one', 4])
    assert.deepEqual(await whoAndReads(wrong(1), wrong(2), wrong(3), wrong(4), `${NAME}=${one}`), [undefined, 4])
    assert.deepEqual(await whoAndReads(...Array(50).fill(`${NAME}=junk`), `${NAME}=${one}`), ['one', 1])
    assert.deepEqual(await whoAndReads(...Array(50).fill(`${NAME}=${one}`)), ['one', 1])
    assert.deepEqual(await whoAndReads(`${NAME}=${one}`, `${NAME}=${two}`), [undefined, 2])
    assert.deepEqual(s.newEvents(), ['ambiguous_cookies'])
    // The planted cookie has changed neither session.
    assert.deepEqual(await whoAndReads(`${NAME}=${one}`), ['one', 1])
    assert.deepEqual(await whoAndReads(`${NAME}=${two}`), ['two', 1])
  })
  test('CP-2: the old and the new key of one session are one session, not two', async () => {
    const s = await startSite()
    const visit = s.visitor()
    await visit((own) => own.set('who', 'one'))
    const old = visit.browser.cookies.get(NAME)
    await visit((own) => own.rotateKey())
    const fresh = visit.browser.cookies.get(NAME)
    assert.notEqual(old, fresh)
    assert.equal((await s.send(rawRequest(`${NAME}=${old}; ${NAME}=${fresh}`))).who, 'one')
    assert.equal((await s.send(rawRequest(`${NAME}=${fresh}; ${NAME}=${old}`))).who, 'one')
  })
  test('CP-3: names and fields that every object inherits have no effect', async () => {
    const s = await startSite()
    const key = await s.createSession('one')
    const inherited = Reflect.ownKeys(Object.prototype).filter((name) => typeof name === 'string')
    const header = inherited.map((name) => `${name}=x`).join('; ')
    assert.equal((await s.send(rawRequest(`${header}; ${NAME}=${key}`))).who, 'one')
    const visit = s.visitor()
    await visit((own) => {
      for (const name of inherited) assert.equal(own.get(name), undefined, name)
      for (const name of inherited) own.set(name, { admin: true })
      assert.equal((own.fields as { admin?: unknown }).admin, undefined)
    })
    await visit((own) => {
      for (const name of inherited) assert.deepEqual({ ...own.get(name) }, { admin: true }, name)
      assert.equal((own.fields as { admin?: unknown }).admin, undefined)
      for (const name of inherited) own.delete(name)
      for (const name of inherited) assert.equal(own.get(name), undefined, name)
    })
    assert.ok(clean())
  })
  test('CP-4: names and prefixes are compared letter by letter', async () => {
    const s = await startSite()
    const key = await s.createSession('one')
    for (const name of [
      '__host-http-sid',
      '__HOST-HTTP-SID',
      '__Host-Http-SID',
      '__Host-http-sid',
      'ſid',
      '__Host-Http-ſid',
    ]) {
      assert.equal((await s.send(rawRequest(`${name}=${key}`))).who, undefined, name)
    }
    assert.equal(s.calls.get, 0)
  })

  /** Sends a request with these header lines over a socket, as no client library would, and returns the response's text. */
  const sendLines = async (handler: Handler, lines: readonly string[]): Promise<string> => {
    const log = console.log
    console.log = () => {}
    const server = await serve(handler, { port: 0 })
    console.log = log
    try {
      const socket = dial(server.port, '127.0.0.1')
      socket.end(
        ['GET / HTTP/1.1', `Host: localhost:${server.port}`, 'Connection: close', ...lines, '', ''].join('\r\n'),
        'latin1',
      )
      let text = ''
      socket.setEncoding('latin1').on('data', (chunk) => {
        text += chunk
      })
      await once(socket, 'close')
      return text
    } finally {
      await server.close()
    }
  }
  test('CP-6: several Cookie headers never form another value, whether joined by a semicolon, joined by a comma, or separate', async () => {
    const s = await startSite()
    const key = await s.createSession('one')
    const appended = new Headers()
    appended.append('cookie', 'a=1')
    appended.append('cookie', `${NAME}=${key}`)
    appended.append('cookie', 'b=2')
    assert.equal((await s.send(new Request('https://app.test/', { headers: appended }))).who, 'one')
    assert.equal((await s.send(rawRequest(`${NAME}=${key}, b=2`))).who, 'one')
    assert.equal(
      (await s.send(rawRequest(`a=1, ${NAME}=${key}`))).who,
      undefined,
      'a value cannot contain another cookie',
    )
    const page = sessionManager({ backend: s.backend, secret: SECRET, secure: true, now: s.now })(
      async (request) => new Response(`[${(await session(request)).get('who')}]`),
    )
    for (const lines of [
      [`Cookie: a=1`, `Cookie: ${NAME}=${key}`, 'Cookie: b=2'],
      [`cookie: ${NAME}=${key}`, 'COOKIE: b=2'],
      [`Cookie: a=\xff\x80; ${NAME}=${key}; c="`],
    ]) {
      assert.match(await sendLines(page, lines), /\[one\]/, lines.join())
    }
    for (const lines of [[`Cookie: ${NAME}=${key}\xa0`], [`Cookie: \xa0${NAME}=${key}`], [`X: 1`]]) {
      assert.match(await sendLines(page, lines), /\[undefined\]/, lines.join())
    }
  })
  test('CP-7: a value that is too long is not decoded, hashed, decrypted or looked up', async () => {
    const s = await startSite()
    const key = await s.createSession('one')
    await s.send(rawRequest(undefined))
    const real = { hash: crypto.hash, createDecipheriv: crypto.createDecipheriv, createHmac: crypto.createHmac }
    let calls = 0
    const from = Buffer.from
    const spied = <F extends (...args: never[]) => unknown>(call: F) =>
      ((...args: never[]) => {
        calls++
        return call(...args)
      }) as unknown as F
    Object.assign(crypto, {
      hash: spied(crypto.hash as never),
      createDecipheriv: spied(crypto.createDecipheriv as never),
      createHmac: spied(crypto.createHmac as never),
    })
    syncBuiltinESMExports()
    let decoded = 0
    Buffer.from = ((value: unknown, ...more: unknown[]) => {
      if (typeof value === 'string' && value.length > 4096) decoded++
      return (from as (...args: unknown[]) => Buffer)(value, ...more)
    }) as typeof from
    try {
      for (const length of [4097, 16_384, 1_000_000]) {
        for (const name of [NAME, PRE]) {
          const before = calls
          await s.send(rawRequest(`${name}=${'A'.repeat(length)}`))
          assert.equal(calls, before, `${name} ${length}`)
        }
      }
      await s.send(rawRequest(`${NAME}=${key}`))
      assert.ok(calls > 0, 'the spy counts calls')
    } finally {
      Object.assign(crypto, real)
      syncBuiltinESMExports()
      Buffer.from = from
    }
    assert.equal(decoded, 0)
    assert.equal(s.calls.get, 1)
  })
  test('CP-8: no cookie is assembled from other cookies, even if it announces a number of them', async () => {
    const s = await startSite()
    const key = await s.createSession('one')
    const half = [key.slice(0, 20), key.slice(20)]
    for (const header of [
      `${NAME}=__chunked__999999`,
      `${NAME}=__chunked__2; ${NAME}.0=${half[0]}; ${NAME}.1=${half[1]}`,
      `${NAME}.0=${half[0]}; ${NAME}.1=${half[1]}`,
      `${NAME}.1=${half[0]}; ${NAME}.2=${half[1]}`,
    ]) {
      const seen = await s.send(rawRequest(header))
      assert.deepEqual([seen.response.status, seen.who], [200, undefined])
    }
    assert.equal(s.calls.get, 0)
  })
  test('CP-5: a planted cookie locks nobody out: a first write and a login work beside it and after it', async () => {
    const s = await startSite()
    for (const junk of [
      'a*b*c*d*e*f*g*h',
      'constructor',
      '%',
      '"',
      `${'A'.repeat(43)}`,
      '\u00ff',
      `${'x'.repeat(4000)}`,
    ]) {
      const page = sessionManager({ backend: s.backend, secret: SECRET, now: s.now })(async (request) => {
        const own = await session(request)
        if (request.method === 'POST') own.login('anna')
        return new Response(String(own.owner))
      })
      const visit = browser(page, { now: s.now })
      const headers = { cookie: `${NAME}=${junk}; ${PRE}=${junk}` }
      const response = await page(new Request('https://app.test/', { method: 'POST', headers }))
      assert.equal(response.status, 200)
      const [line = ''] = cookiesOf(response)
      const key = line.slice(line.indexOf('=') + 1, line.indexOf(';'))
      const next = await page(rawRequest(`${NAME}=${junk}; ${NAME}=${key}`))
      assert.equal(await next.text(), 'anna')
      assert.equal(visit.cookies.size, 0)
    }
    s.now.tick(DAY)
  })
})
