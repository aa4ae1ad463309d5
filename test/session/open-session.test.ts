// Flash messages and forms outside of a middleware: with the session that `manager.open` returned, and its `commit`.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import type { CommitResult, OpenSession, SessionManagerOptions } from 'keepsake'
import {
  addFlash,
  csrfField,
  csrfTag,
  csrfToken,
  readForm,
  session,
  sessionManager,
  takeFlash,
  verifyCsrfToken,
} from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import { z } from 'zod'
import { code } from '../support/assert.ts'
import { clock, PATIENT } from '../support/clock.ts'
import { NAME, PRE, SECRET } from '../support/requests.ts'
import { watched } from '../support/watched.ts'

const start = (options: Partial<SessionManagerOptions> = {}) => {
  const now = clock()
  const watch = watched(options.backend === undefined ? memoryBackend({ now }) : (options.backend as never))
  const manager = sessionManager({
    ...{ storeTimeout: PATIENT, now, secret: SECRET, ...options },
    backend: watch.backend,
  })
  let outside: (s: OpenSession, request: Request) => unknown = () => {}
  let inside: (request: Request) => unknown = () => {}
  let result: unknown
  let committed: CommitResult | undefined
  const withOpen = async (request: Request) => {
    const s = await manager.open(request)
    result = await outside(s, request)
    committed = await s.commit()
    return committed.ok ? new Response(null, { headers: committed.headers }) : new Response(null, { status: 409 })
  }
  const withMiddleware = manager(async (request) => {
    result = await inside(request)
    return new Response()
  })
  const jar = browser((request) => (new URL(request.url).pathname === '/in' ? withMiddleware : withOpen)(request), {
    now,
  })
  return {
    ...watch,
    now,
    manager,
    jar,
    /** Sends a request that is answered outside of a middleware. */
    async open<T>(act: (s: OpenSession, request: Request) => T, init: RequestInit = {}) {
      outside = act
      const response = await jar('/', init)
      return { result: result as Awaited<T>, response, committed }
    },
    /** Sends a request that is answered inside of the middleware. */
    async inside<T>(act: (request: Request) => T, init: RequestInit = {}) {
      inside = act
      const response = await jar('/in', init)
      return { result: result as Awaited<T>, response }
    },
  }
}

const backends = { memory: () => ({}), cookie: () => ({ backend: cookieBackend({ secret: SECRET }) }) }
const visitors = {
  'an anonymous visitor': () => {},
  'a visitor with a session': (s: OpenSession) => s.login('anna'),
}
const saved = [{ category: 'info', text: 'Saved.' }]

for (const [name, options] of Object.entries(backends)) {
  for (const [who, arrive] of Object.entries(visitors)) {
    suite(`on ${name}, outside of a middleware, for ${who}`, () => {
      test('a flash message is taken once, and survives a login', async () => {
        const h = start(options())
        await h.open(arrive)
        await h.open((s) => addFlash(s, 'info', 'Saved.'))
        assert.deepEqual((await h.open((s) => takeFlash(s))).result, saved)
        assert.deepEqual((await h.open((s) => takeFlash(s))).result, [])
        await h.open((s) => {
          addFlash(s, 'info', 'Saved.')
          s.login('ben')
        })
        assert.deepEqual((await h.open((s) => takeFlash(s))).result, saved)
      })

      test('a flash message goes from a middleware to the outside, and back', async () => {
        const h = start(options())
        await h.open(arrive)
        await h.inside((request) => addFlash(request, 'info', 'Saved.'))
        assert.deepEqual((await h.open((s) => takeFlash(s))).result, saved)
        await h.open((s) => addFlash(s, 'info', 'Saved.'))
        assert.deepEqual((await h.inside(takeFlash)).result, saved)
      })

      test('HEAD requests and prefetches take no flash message', async () => {
        const h = start(options())
        await h.open(arrive)
        await h.open((s) => addFlash(s, 'info', 'Saved.'))
        for (const init of [{ method: 'HEAD' }, { headers: { 'sec-purpose': 'prefetch' } }]) {
          assert.deepEqual((await h.open((s) => takeFlash(s), init)).result, [])
        }
        assert.deepEqual((await h.open((s) => takeFlash(s))).result, saved)
      })

      test('a form token is valid outside and inside, and its response is not cached', async () => {
        const h = start(options())
        await h.open(arrive)
        const { result: token, response } = await h.open((s) => csrfToken(s))
        assert.match(response.headers.get('cache-control') ?? '', /private|no-store/)
        assert.deepEqual((await h.open((s) => verifyCsrfToken(s, token))).result, { ok: true })
        assert.deepEqual((await h.inside((request) => verifyCsrfToken(request, token))).result, { ok: true })
        const { result: inner } = await h.inside((request) => csrfToken(request))
        assert.deepEqual((await h.open((s) => verifyCsrfToken(s, inner))).result, { ok: true })
        await h.open((s) => s.login('carl'))
        const late = await h.open((s) => verifyCsrfToken(s, token))
        assert.deepEqual(late.result, { ok: false, error: 'wrong_session' })
      })
    })
  }
}

suite('outside of a middleware', () => {
  test('csrfField and csrfTag print the token, and verifyCsrfToken reads the header by default', async () => {
    const h = start()
    const { result, committed } = await h.open((s) => Promise.all([csrfField(s), csrfTag(s, { action: 'x' })]))
    const [field, tag] = result
    assert.equal(field.name, '_csrf')
    assert.match(tag, /^<input name="_csrf" type="hidden" value="[\w-]{84}">$/)
    assert.ok(committed?.ok)
    assert.deepEqual(
      committed.cookies.map(({ name }) => name),
      [PRE],
      'the cookie that the token is bound to, as an object too',
    )
    const headers = { 'x-csrf-token': field.value }
    assert.deepEqual((await h.open((s) => verifyCsrfToken(s), { headers })).result, { ok: true })
    assert.deepEqual((await h.open((s) => verifyCsrfToken(s))).result, { ok: false, error: 'invalid_token' })
  })

  test('readForm reads the body of the request that was opened', async () => {
    const h = start()
    const { result: token } = await h.open((s) => csrfToken(s))
    const post = (fields: Record<string, string>) => ({ method: 'POST', body: new URLSearchParams(fields) })
    const { result } = await h.open((s) => readForm(s), post({ _csrf: token, user: 'anna' }))
    assert.ok(result.ok)
    assert.equal(result.fields.get('user'), 'anna')
    const typed = await h.open((s) => readForm(s, z.object({ n: z.coerce.number() })), post({ _csrf: token, n: '1' }))
    assert.ok(typed.result.ok)
    assert.equal(typed.result.fields.n, 1)
    const { result: refused } = await h.open((s) => readForm(s), post({ user: 'anna' }))
    assert.ok(!refused.ok)
    assert.equal(refused.error, 'missing_token')
    const body = new FormData()
    body.append('_csrf', token)
    body.append('file', new File(['abc'], 'a.txt'))
    const { result: upload } = await h.open((s) => readForm(s), { method: 'POST', body })
    assert.ok(upload.ok)
    assert.equal(upload.files.length, 1)
    await h.open(async (s, request) => {
      assert.equal((await readForm(s)).ok, false, 'a GET has no body')
      const headersOnly = await h.manager.open({ headers: request.headers, url: request.url })
      await assert.rejects(readForm(headersOnly), code('invalid_option'))
    })
  })

  test('readForm with the options of a request, and an unknown option is refused', async () => {
    const h = start()
    const init = { method: 'POST', body: new URLSearchParams({ q: 'tea' }) }
    const { result } = await h.open((s) => readForm(s, undefined, { csrf: false }), init)
    assert.ok(result.ok)
    await h.open((s) => assert.rejects(readForm(s, undefined, { wrong: 1 } as never), code('invalid_option')))
  })

  test('a session from the headers alone takes and checks as any other', async () => {
    const h = start()
    const cookies: string[] = []
    const act = async <T>(use: (s: OpenSession) => T): Promise<Awaited<T>> => {
      const s = await h.manager.open({ headers: new Headers({ cookie: cookies.join('; ') }) })
      const result = await use(s)
      const done = await s.commit()
      assert.ok(done.ok)
      for (const { name, value } of done.cookies) cookies.splice(0, 1, `${name}=${value}`)
      return result
    }
    await act((s) => addFlash(s, 'info', 'Saved.'))
    const token = await act((s) => csrfToken(s))
    assert.deepEqual(await act((s) => takeFlash(s)), saved)
    assert.deepEqual(await act((s) => verifyCsrfToken(s, token)), { ok: true })
    assert.deepEqual(await act((s) => takeFlash(s)), [])
  })

  test('after commit() nothing is added, taken or created any more', async () => {
    const h = start()
    const s = await h.manager.open(new Request('https://app.test/'))
    await s.commit()
    assert.throws(() => addFlash(s, 'info', 'x'), code('too_late'))
    await assert.rejects(takeFlash(s), code('too_late'))
    await assert.rejects(csrfToken(s), code('too_late'))
    await assert.rejects(readForm(s), code('too_late'))
  })

  test('messages that were taken are there again if commit() fails', async () => {
    const h = start()
    await h.open((s) => s.set('n', 1))
    await h.open((s) => addFlash(s, 'info', 'Saved.'))
    const request = () =>
      new Request('https://app.test/', { headers: { cookie: `${NAME}=${h.jar.cookies.get(NAME)}` } })
    const s = await h.manager.open(request())
    assert.deepEqual(await takeFlash(s), saved)
    s.set('n', 'x'.repeat(100_000))
    await assert.rejects(s.commit(), code('too_large'))
    assert.deepEqual((await h.open((s) => takeFlash(s))).result, saved)
  })

  test('messages of a session that ended in the meantime are not brought back', async () => {
    const h = start()
    await h.open((s) => s.set('n', 1))
    await h.open((s) => addFlash(s, 'info', 'Saved.'))
    const late = await h.open(async (s) => {
      await takeFlash(s)
      s.set('n', 2)
      await h.manager.revoke(s.label)
    })
    assert.deepEqual(late.committed, { ok: false, error: 'ended' })
    assert.deepEqual((await h.open((s) => takeFlash(s))).result, [])
  })

  test('a message alone is not saved if the backend failed, and commit() throws', async () => {
    const h = start()
    await h.open((s) => s.set('n', 1))
    h.fail('get', new Error('down'))
    await h
      .open(async (s) => {
        addFlash(s, 'info', 'x')
        await assert.rejects(takeFlash(s), code('unavailable'))
        await assert.rejects(s.commit(), code('unavailable'))
      })
      .catch((error) => assert.equal(error.code, 'too_late'))
  })

  test('a session of a middleware is refused: its functions take the request', async () => {
    const h = start()
    await h.inside(async (request) => {
      const s = (await session(request)) as OpenSession
      assert.throws(() => addFlash(s, 'info', 'x'), code('no_middleware'))
      await assert.rejects(csrfToken(s), code('no_middleware'))
    })
  })

  test('an open session inside of a middleware is a session of its own, beside that of the request', async () => {
    const h = start()
    await h.inside(async (request) => {
      const s = await h.manager.open(request)
      addFlash(s, 'info', 'outer')
      addFlash(request, 'info', 'Saved.')
    })
    assert.deepEqual((await h.inside(takeFlash)).result, saved)
  })
})
