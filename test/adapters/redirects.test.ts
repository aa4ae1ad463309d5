// A visitor who follows a redirect at once always finds the change, through every adapter, on files and on PostgreSQL.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { session, sessionManager } from 'keepsake'
import { browser, type ServeApplication } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { PATIENT } from '../support/clock.ts'
import { folder } from '../support/folder.ts'
import { frameworks } from '../support/frameworks.ts'
import { noPostgres, postgresServer } from '../support/postgres-server.ts'

/** The long form is `REDIRECTS=1000 node --test test/adapters/redirects.test.ts`. */
const REDIRECTS = Number(process.env.REDIRECTS ?? 20)

const followed = async (t: TestContext, serve: ServeApplication, backend: string) => {
  const manager = sessionManager({ backend, secret: newSecret(), storeTimeout: PATIENT, autoSweep: false })
  t.after(() => manager.close())
  const { url, close } = await serve({
    manager,
    async handle(x, { url }) {
      const s = await session<{ n: number }>(x)
      if (url.endsWith('/read')) return { status: 200, headers: [], body: String(s.get('n')) }
      s.update('n', (n = 0) => n + 1)
      return { status: 303, headers: [['location', '/read']], body: null }
    },
  })
  t.after(close)
  const visit = browser((request) => fetch(request, { redirect: 'manual' }), { origin: url })
  for (let n = 1; n <= REDIRECTS; n++) {
    const { headers } = await visit('/write', { method: 'POST' })
    // The head has arrived, and the rest of the response may be on its way.
    assert.equal(await (await visit(headers.get('location') ?? '')).text(), String(n))
  }
}

suite(`${REDIRECTS} redirects that are followed at once never miss the change`, async () => {
  for (const [name, serve] of Object.entries(frameworks)) {
    test(`${name}, on files`, (t) => followed(t, serve, `file:${folder(t)}`))
  }
  const skip = noPostgres()
  const postgres = skip ? undefined : await postgresServer()
  for (const [name, serve] of Object.entries(frameworks)) {
    test(`${name}, on PostgreSQL`, { skip }, (t) => followed(t, serve, postgres?.url ?? ''))
  }
})
