// The examples of the Fetch frameworks, each started as a program and visited by a client that keeps cookies.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { browser } from 'keepsake/testing'
import { served } from '../support/served.ts'

for (const name of ['hono', 'h3', 'elysia']) {
  test(`examples/frameworks/${name}.ts counts visits, and its form begins again`, async (t) => {
    const { url } = await served(t, `frameworks/${name}`, { SESSIONS: 'memory:' })
    const visit = browser((request) => fetch(request, { redirect: 'manual' }), { origin: url })
    assert.match(await (await visit('/')).text(), /You were here 1 times/)
    const page = await (await visit('/')).text()
    assert.match(page, /You were here 2 times/)
    const token = /name="_csrf" type="hidden" value="([\w-]+)"/.exec(page)?.[1] ?? ''
    const refused = await visit('/', { method: 'POST', body: new URLSearchParams() })
    assert.equal(refused.status, 403)
    const response = await visit('/', { method: 'POST', body: new URLSearchParams({ _csrf: token }) })
    assert.deepEqual([response.status, response.headers.get('location')], [303, '/'])
    assert.match(await (await visit('/')).text(), /You were here 1 times/)
  })
}
