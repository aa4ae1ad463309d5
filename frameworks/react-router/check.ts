// Builds the application for production, and tries it over sockets and in Chromium.

import assert from 'node:assert/strict'
import { call, check, checks, chromium, freePort, startServer } from '../checks.ts'
import { cookiesOf, textOf, visitInChromium, visitOverSockets } from '../shop.ts'
import { answerCases } from './cases.ts'

const folder = import.meta.dirname

const visitRoutes = async (url: string): Promise<void> => {
  const get = (path: string, cookie = '') => fetch(`${url}${path}`, { headers: { cookie }, redirect: 'manual' })
  const post = (path: string, cookie = '') =>
    fetch(`${url}${path}`, { method: 'POST', headers: { cookie, origin: url }, redirect: 'manual' })

  await check('the loaders after an action have the session of the action', async () => {
    const response = await post('/echo')
    assert.equal(textOf(await response.text(), 'fields'), '{&quot;api&quot;:&quot;action&quot;}')
    assert.equal(response.headers.getSetCookie().length, 1)
  })
  await check('the ErrorBoundary gets the 409 of a session that has ended in the meantime', async () => {
    for (const path of ['/race', '/race.data']) {
      const response = await get(path, cookiesOf(await get('/steps')))
      assert.equal(response.status, 409)
      assert.deepEqual(response.headers.getSetCookie(), [])
      assert.match(await response.text(), /Your session ended/)
    }
  })
  await check('createSessionStorage saves, shows a message once, and ends a session', async () => {
    // Without an address of the application, the storage is one over TLS.
    const cookie = cookiesOf(await post('/storage'))
    assert.match(cookie, /^__Host-Http-sid=/)
    await Promise.all(Array.from({ length: 3 }, () => post('/storage', cookie)))
    assert.deepEqual(await (await get('/storage', cookie)).json(), { n: 4, error: 'An error.' })
    assert.deepEqual(await (await get('/storage', cookie)).json(), { n: 4, error: null })
    assert.match((await post('/storage?end', cookie)).headers.getSetCookie()[0] ?? '', /^__Host-Http-sid=;.*Max-Age=0/)
    assert.deepEqual(await (await get('/storage', cookie)).json(), { n: null, error: null })
  })
}

const visitByScripts = async (url: string): Promise<void> => {
  const browser = await chromium()
  const page = await browser.newPage()
  page.setDefaultTimeout(20_000)
  await check('a navigation in the browser shows the ErrorBoundary with the status 409', async () => {
    await page.goto(`${url}/steps`)
    await page.waitForLoadState('networkidle')
    await page.click('a')
    await page.locator('#error', { hasText: '409 Your session ended' }).waitFor()
  })
  await browser.close()
}

await checks(async () => {
  const port = await freePort()
  const url = `http://localhost:${port}`
  await check('the application builds', () => call(folder, 'npm', 'run', 'build'))
  await check('the application has the right types in strict mode', () => call(folder, 'npm', 'run', 'types'))
  const serve = 'node_modules/@react-router/serve/bin.cjs'
  const env = { PORT: String(port), NODE_ENV: 'production' }
  await startServer(folder, 'http://', env, process.execPath, serve, 'build/server/index.js')
  await visitOverSockets(url)
  await visitRoutes(url)
  await visitInChromium(url)
  await visitByScripts(url)
  await answerCases()
})
