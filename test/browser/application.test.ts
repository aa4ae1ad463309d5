// The first example as visitors see it, with a client that keeps cookies and in Chromium.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { backendFromUrl } from 'keepsake'
import { serve } from 'keepsake/serve'
import { clearHeaders, generate, toCookieHeaders } from 'keepsake/session'
import { opened } from '../support/chromium.ts'
import { folder } from '../support/folder.ts'
import { start } from '../support/process.ts'
import { served } from '../support/served.ts'

const FIRST = "You weren't logged in; but now you are!"
const SECOND = 'Welcome back, anastasios!'

const startExample = (t: TestContext, backend: string, port = '0') =>
  served(t, '1-session/session', { SESSIONS: backend, PORT: port })

suite('the first example', () => {
  for (const scheme of ['sqlite', 'file', 'cookie:sqlite'] as const) {
    test(`on ${scheme} it logs a visitor in, and knows them in the next request and after a restart`, async (t) => {
      const backend = `${scheme}:${join(folder(t), 'sessions')}`
      const one = await startExample(t, backend)
      const first = await fetch(one.url)
      assert.equal(await first.text(), FIRST)
      const [line = ''] = first.headers.getSetCookie()
      assert.match(
        line,
        new RegExp(`^sid-${one.port}=[A-Za-z0-9_-]{43,}; Max-Age=2592000; Path=/; HttpOnly; SameSite=Lax$`),
      )
      const headers = { cookie: line.slice(0, line.indexOf(';')) }
      assert.equal(await (await fetch(one.url, { headers })).text(), SECOND)
      one.child.kill('SIGTERM')
      assert.equal(await one.ended, 0)
      assert.match(one.errors(), /^1 GET \/ 200 \d+\.\d ms [\w-]{12}\n2 GET \/ 200 /m)
      const two = await startExample(t, backend, one.port)
      assert.equal(await (await fetch(two.url, { headers })).text(), SECOND)
      two.child.kill('SIGINT')
      assert.equal(await two.ended, 0)
    })
  }

  test('in memory it forgets the sessions when its process ends', async (t) => {
    const one = await startExample(t, 'memory:')
    assert.equal(await (await fetch(one.url)).text(), FIRST)
  })

  test('it does not start on a store that it cannot open, and prints the next step', async (t) => {
    const { ended, errors } = start(t, 'examples/1-session/session.ts', [], {
      SESSIONS: 'sqlite:/nowhere/at/all.db',
      PORT: '0',
    })
    assert.equal(await ended, 1)
    assert.match(errors(), /cannot be used: ENOENT.*Give a path in a folder that this process may write to/)
  })

  test('in Chromium it gives both answers, scripts cannot read the cookie, and another port has another session', async (t) => {
    const backend = `sqlite:${join(folder(t), 'sessions.db')}`
    const [one, two] = [await startExample(t, backend), await startExample(t, backend)]
    const page = await (await opened(t)).newPage()
    await page.goto(one.url)
    assert.equal(await page.textContent('body'), FIRST)
    await page.reload()
    assert.equal(await page.textContent('body'), SECOND)
    assert.equal(await page.evaluate('document.cookie'), '')
    await page.goto(two.url)
    assert.equal(await page.textContent('body'), FIRST)
    await page.goto(one.url)
    assert.equal(await page.textContent('body'), SECOND)
    const names = (await page.context().cookies()).map(({ name }) => name)
    assert.deepEqual(names.sort(), [`sid-${one.port}`, `sid-${two.port}`].sort())
  })
})

test('O28: in Chromium the clearing header removes the cookie', async (t) => {
  const backend = await backendFromUrl('memory:')
  const made = await generate(backend, 'anna')
  const running = await serve(
    (request) => {
      const headers = new Headers()
      const clearing = request.url.endsWith('/clear')
      for (const [name, value] of clearing ? clearHeaders('__Host-sid') : toCookieHeaders('__Host-sid', made))
        headers.append(name, value)
      return new Response(request.headers.get('cookie') ?? 'none', { headers })
    },
    { port: 0 },
  )
  t.after(() => running.close())
  const page = await (await opened(t)).newPage()
  await page.goto(running.url)
  await page.reload()
  assert.equal(await page.textContent('body'), `__Host-sid=${made.key}`)
  await page.goto(`${running.url}/clear`)
  assert.deepEqual(await page.context().cookies(), [])
})
