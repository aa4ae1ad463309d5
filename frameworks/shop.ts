// The checks of a small shop, which is the same in several frameworks: a login, a cart, a form with a token, a flash message, a logout.

import assert from 'node:assert/strict'
import type { BrowserContext, Page } from 'playwright-core'
import { check, chromium } from './checks.ts'

/** The Cookie header that a browser would send after a response. */
export const cookiesOf = (response: Response): string =>
  response.headers
    .getSetCookie()
    .map((line) => line.split(';')[0] ?? '')
    .filter((pair) => !pair.endsWith('='))
    .join('; ')

/** The text of an element of a page by its id. */
export const textOf = (html: string, id: string): string | undefined =>
  new RegExp(`id="${id}"[^>]*>(.*?)</p>`, 's')
    .exec(html)?.[1]
    ?.replaceAll(/<!--.*?-->/g, '')
    .trim()

const visitShop = async (url: string, context: BrowserContext, scripts: string, isScripted: boolean) => {
  const page = await context.newPage()
  const open = async (path: string, on: Page = page) => {
    await on.goto(`${url}${path}`)
    if (isScripted) await on.waitForLoadState('networkidle')
  }
  const text = async (id: string, on: Page = page) => ((await on.textContent(`#${id}`)) ?? '').trim()
  /** Clicks a button, and waits until the page shows the result of its form. */
  const act = async (id: string, on: Page = page) => {
    const posted = on.waitForResponse((response) => response.request().method() === 'POST')
    await on.click(`#${id}`)
    await posted
    await on.waitForLoadState(isScripted ? 'networkidle' : 'load')
  }
  const login = async () => {
    await open('/login')
    await page.fill('input[name=name]', 'anna')
    await act('login')
    await page.waitForSelector('#visitor')
  }

  await check(`${scripts}: a form without the right token is refused`, async () => {
    await open('/login')
    await page.fill('input[name=name]', 'anna')
    await page.evaluate(() => document.querySelector('input[name=_csrf]')?.setAttribute('value', 'x'.repeat(84)))
    await act('login')
    await page.locator('#message').filter({ hasText: /\S/ }).waitFor()
    await open('/')
    assert.equal(await text('visitor'), 'anonymous')
  })
  await check(`${scripts}: a login redirects, and its flash message is shown once`, async () => {
    await login()
    assert.equal(await text('visitor'), 'anna')
    assert.equal(await text('flash'), 'Welcome.')
    await open('/')
    assert.equal(await text('flash'), '')
  })
  await check(`${scripts}: two tabs that add at once keep both items`, async () => {
    const other = await context.newPage()
    await Promise.all([open('/'), open('/', other)])
    await Promise.all([act('tea'), act('cup', other)])
    await open('/')
    assert.deepEqual((await text('cart')).split(', ').sort(), ['cup', 'tea'])
    await other.close()
  })
  await check(`${scripts}: after a logout nothing comes back`, async () => {
    const other = await context.newPage()
    await Promise.all([open('/'), open('/', other)])
    const old = await context.cookies()
    await act('logout')
    await open('/')
    assert.equal(await text('visitor'), 'anonymous')
    assert.equal(await text('cart'), '')
    // A form of the session that has ended.
    await act('tea', other)
    await open('/')
    assert.deepEqual([await text('visitor'), await text('cart')], ['anonymous', ''])
    await context.clearCookies()
    await context.addCookies(old)
    await open('/')
    assert.deepEqual([await text('visitor'), await text('cart')], ['anonymous', ''])
    await other.close()
  })
  await page.close()
}

/** Visits the shop in Chromium, with scripts and without. */
export const visitInChromium = async (url: string): Promise<void> => {
  const browser = await chromium()
  for (const javaScriptEnabled of [true, false]) {
    const context = await browser.newContext({ javaScriptEnabled })
    context.setDefaultTimeout(20_000)
    await visitShop(url, context, javaScriptEnabled ? 'with scripts' : 'without scripts', javaScriptEnabled)
    await context.close()
  }
  await browser.close()
}

/** Checks the requests that the framework makes for itself, errors and redirects over sockets. */
export const visitOverSockets = async (url: string): Promise<void> => {
  const get = (path: string, cookie = '', headers: Record<string, string> = {}) =>
    fetch(`${url}${path}`, { headers: { ...(cookie !== '' && { cookie }), ...headers }, redirect: 'manual' })

  await check('a request that the framework makes for itself has the session of its page', async () => {
    const response = await get('/steps')
    const html = await response.text()
    for (const field of ['page', 'api']) assert.match(html, new RegExp(`${field}(&quot;|[^\\w])+set`))
    assert.equal(response.headers.getSetCookie().length, 1)
    const again = await (await get('/fields', cookiesOf(response))).json()
    assert.deepEqual(again, { page: 'set', api: 'set' })
  })
  await check('a redirect that is thrown is an answer: its flash message is saved', async () => {
    const response = await get('/members')
    assert.equal(response.headers.get('location'), '/login')
    assert.match(await (await get('/login', cookiesOf(response))).text(), /Please log in\./)
  })
  await check('a handler that throws saves nothing', async () => {
    const cookie = cookiesOf(await get('/steps'))
    const response = await fetch(`${url}/fail`, { headers: { cookie, accept: 'text/html' }, redirect: 'manual' })
    assert.equal(response.status, 500)
    assert.deepEqual(await (await get('/fields', cookie)).json(), { page: 'set', api: 'set' })
  })
  await check('a stream reads the session after the head has left', async () => {
    const cookie = cookiesOf(await get('/steps'))
    assert.match(await (await get('/stream', cookie)).text(), /late set/)
  })
}
