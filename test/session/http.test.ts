// Real HTTP and several processes: no write is lost, no late write restores an ended session, and a kill loses nothing.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { type Session, type SessionManagerOptions, session, sessionManager } from 'keepsake'
import { serve } from 'keepsake/serve'
import { PATIENT } from '../support/clock.ts'
import { folder } from '../support/folder.ts'
import { start } from '../support/process.ts'
import { runs } from '../support/quick.ts'

type Page = (s: Session, url: URL) => unknown

/** Serves a page on a free port. Returns a client that keeps its cookie. */
const served = async (t: TestContext, options: SessionManagerOptions, page: Page) => {
  const manager = sessionManager(options)
  const running = await serve(
    manager(async (request) => Response.json({ answer: await page(await session(request), new URL(request.url)) })),
    { port: 0 },
  )
  t.after(() => running.close())
  let cookie = ''
  const get = async (path: string) => {
    const response = await fetch(running.url + path, { headers: { cookie } })
    const [line] = response.headers.getSetCookie()
    if (line !== undefined) cookie = line.slice(0, line.indexOf(';'))
    return { status: response.status, set: line, answer: response.ok ? (await response.json()).answer : undefined }
  }
  return { get }
}

/** Creates a session. Returns its Cookie header, and a function that reads it again. */
const createStored = async (backend: string, fields: Record<string, unknown>) => {
  const manager = sessionManager({ backend, storeTimeout: PATIENT })
  const s = await manager.open({ headers: new Headers() })
  for (const [field, value] of Object.entries(fields)) s.set(field, value)
  const done = await s.commit()
  assert.ok(done.ok)
  const [line = ''] = done.headers.getSetCookie()
  const cookie = line.slice(0, line.indexOf(';'))
  await manager.close()
  const read = async () => {
    const reader = sessionManager({ backend, storeTimeout: PATIENT })
    const { fields } = await reader.open({ headers: new Headers({ cookie }) })
    await reader.close()
    return fields
  }
  return { cookie, read }
}

const backends: Record<string, (t: TestContext) => string> = {
  memory: () => 'memory:',
  sqlite: (t) => `sqlite:${join(folder(t), 'sessions.db')}`,
  file: (t) => `file:${join(folder(t), 'sessions')}`,
}

for (const [name, url] of Object.entries(backends)) {
  suite(`over HTTP on ${name}`, () => {
    test('50 parallel writes to 50 fields are all kept, and 50 parallel increments add 50', async (t) => {
      const { get } = await served(t, { backend: url(t) }, async (s, { pathname, searchParams }) => {
        const field = searchParams.get('field')
        if (field !== null) s.set(field, true)
        if (pathname === '/add') s.update('n', (n = 0) => n + 1)
        // Gives the other requests time to read the same version.
        if (pathname !== '/') await new Promise((resolve) => setTimeout(resolve, 20))
        return s.fields
      })
      await get('/?field=first')
      await Promise.all(Array.from({ length: 50 }, (_, i) => get(`/set?field=field${i}`)))
      await Promise.all(Array.from({ length: 50 }, () => get('/add')))
      const { answer } = await get('/')
      assert.equal(Object.keys(answer).length, 52)
      assert.equal(answer.n, 50)
    })

    test('a slow request during an invalidate neither restores the session nor sets a cookie', async (t) => {
      const { promise: release, resolve: go } = Promise.withResolvers<void>()
      const { promise: arrival, resolve: arrived } = Promise.withResolvers<void>()
      const { get } = await served(t, { backend: url(t) }, async (s, { pathname }) => {
        if (pathname === '/login') s.set('user', 'anna')
        if (pathname === '/logout') s.invalidate()
        if (pathname === '/slow') {
          s.set('late', true)
          arrived()
          await release
        }
        return s.get('user') ?? null
      })
      await get('/login')
      const slow = get('/slow')
      await arrival
      assert.match((await get('/logout')).set ?? '', /Max-Age=0/)
      go()
      const late = await slow
      assert.equal(late.status, 409)
      assert.equal(late.set, undefined)
      assert.equal((await get('/')).answer, null)
    })
  })
}

suite('several processes on one SQLite file', () => {
  const count = runs(1000)
  test(`four processes with ${count} increments each add ${4 * count}`, async (t) => {
    const backend = backends.sqlite?.(t) as string
    const { cookie, read } = await createStored(backend, { n: 0 })
    const children = Array.from({ length: 4 }, () =>
      start(t, 'test/support/incrementer.ts', [backend, cookie, `${count}`]),
    )
    let unknown = 0
    for (const { ended, errors, lines } of children) {
      unknown += Number((await lines.next()).value)
      assert.equal(await ended, 0, errors())
    }
    // No outcome is unknown unless the machine was suspended.
    const { n } = await read()
    assert.ok(n >= 4 * count && n <= 4 * count + unknown, `${n}`)
  })

  test('a process that is killed during writes loses no acknowledged write', async (t) => {
    const backend = backends.sqlite?.(t) as string
    const { cookie, read } = await createStored(backend, { n: 0 })
    for (let kill = 1; kill <= 8; kill++) {
      const { child, lines, ended } = start(t, 'test/support/writer.ts', [backend, cookie])
      let acknowledged = 0
      for (let i = 0; i < kill * 7; i++) acknowledged = Number((await lines.next()).value)
      child.kill('SIGKILL')
      for (let line = await lines.next(); !line.done; line = await lines.next()) acknowledged = Number(line.value)
      await ended
      const n: number = (await read()).n
      assert.ok(n === acknowledged || n === acknowledged + 1, `${n} of ${acknowledged}`)
    }
  })
})
