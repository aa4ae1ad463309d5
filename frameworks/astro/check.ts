// Builds the application for production, and tries it over sockets and in Chromium.

import assert from 'node:assert/strict'
import { call, check, checks, freePort, startServer } from '../checks.ts'
import { cookiesOf, textOf, visitInChromium, visitOverSockets } from '../shop.ts'
import { answerCases } from './cases.ts'

const folder = import.meta.dirname

const visitPages = async (url: string): Promise<void> => {
  const get = (path: string, cookie = '') => fetch(`${url}${path}`, { headers: { cookie }, redirect: 'manual' })

  await check('a page that a later middleware rewrites has the session', async () => {
    const response = await get('/rewritten')
    assert.deepEqual(await (await get('/fields', cookiesOf(response))).json(), { api: 'set' })
  })
  await check('the pages for 404 and 500 show the visitor', async () => {
    for (const path of ['/nothing', '/fail']) {
      const html = await (await get(path, cookiesOf(await get('/steps')))).text()
      assert.equal(textOf(html, 'visitor'), 'anonymous')
      assert.match(html, /id="error"/)
    }
  })
  await check('an action and its page have one session', async () => {
    const response = await fetch(`${url}/acting?_action=add`, {
      method: 'POST',
      headers: { origin: url },
      body: new URLSearchParams({ item: 'tea' }),
    })
    const html = await response.text()
    assert.deepEqual([textOf(html, 'count'), textOf(html, 'cart')], ['1', 'tea'])
    assert.equal(response.headers.getSetCookie().length, 1)
  })
  await check('a session that has ended in the meantime is 409', async () => {
    const response = await get('/race', cookiesOf(await get('/steps')))
    assert.equal(response.status, 409)
    assert.match(await response.text(), /^Your session ended/)
  })
  await check('a prerendered page has no session', async () => {
    const response = await get('/about')
    assert.match(await response.text(), /the same for all visitors/)
    assert.deepEqual(response.headers.getSetCookie(), [])
  })
}

await checks(async () => {
  const port = await freePort()
  const url = `http://localhost:${port}`
  await check('the application builds', () => call(folder, 'npm', 'run', 'build'))
  await check('the application has the right types in strict mode', () => call(folder, 'npm', 'run', 'types'))
  await startServer(folder, 'http://', { PORT: String(port) }, process.execPath, 'build/server/entry.mjs')
  await visitOverSockets(url)
  await visitPages(url)
  await visitInChromium(url)
  await answerCases()
})
