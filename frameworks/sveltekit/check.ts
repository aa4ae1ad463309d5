// Builds the application for production, and tries it over sockets and in Chromium.

import { call, check, checks, chromium, freePort, startServer } from '../checks.ts'
import { visitInChromium, visitOverSockets } from '../shop.ts'
import { answerCases } from './cases.ts'

const folder = import.meta.dirname

const visitByScripts = async (url: string): Promise<void> => {
  const browser = await chromium()
  const page = await browser.newPage()
  page.setDefaultTimeout(20_000)
  await check('remote functions have the session of getRequestEvent()', async () => {
    await page.goto(`${url}/remote`)
    await page.locator('#fields', { hasText: 'none' }).waitFor()
    await page.click('#set')
    await page.locator('#fields', { hasText: 'remote' }).waitFor()
    await page.reload()
    await page.locator('#fields', { hasText: 'remote' }).waitFor()
  })
  for (const [what, selector] of [
    ['a navigation', 'a'],
    ['a form', '#race'],
  ] as const) {
    await check(`${what} in the browser shows the error page of a session that has ended in the meantime`, async () => {
      await page.goto(`${url}/steps`)
      await page.goto(`${url}/race`)
      await page.waitForLoadState('networkidle')
      await page.click(selector)
      await page.locator('#error', { hasText: '409 Your session ended' }).waitFor()
    })
  }
  await browser.close()
}

await checks(async () => {
  const port = await freePort()
  const url = `http://localhost:${port}`
  process.env.ORIGIN = url
  await check('the application builds', () => call(folder, 'npm', 'run', 'build'))
  await check('the application has the right types in strict mode', () => call(folder, 'npm', 'run', 'types'))
  await startServer(folder, 'Listening', { PORT: String(port) }, process.execPath, 'build/index.js')
  await visitOverSockets(url)
  await visitInChromium(url)
  await visitByScripts(url)
  await answerCases()
})
