// Builds the application for production, and tries it over sockets and in Chromium.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import { after, call, check, checks, chromium, freePort, startServer } from '../checks.ts'
import { runCases } from './cases.ts'

const folder = import.meta.dirname
const cli = join(folder, 'node_modules/next/dist/bin/next')

const start = async (command: string, env: Readonly<Record<string, string>>) => {
  const port = await freePort()
  const server = await startServer(folder, 'Ready', env, process.execPath, cli, command, '-p', String(port))
  return { ...server, port, url: `http://localhost:${port}` }
}

const cookiesOf = (response: Response): string =>
  response.headers
    .getSetCookie()
    .map((line) => line.split(';')[0] ?? '')
    .filter((pair) => !pair.endsWith('='))
    .join('; ')

const textOf = (html: string, id: string): string | undefined =>
  new RegExp(`id="${id}">(.*?)</p>`).exec(html)?.[1]?.replaceAll('<!-- -->', '')

/** The text of an element once it is the expected one: an action changes the page after its response. */
const shows = async (page: Page, id: string, expected: string): Promise<void> => {
  const element = page.locator(`#${id}`)
  await page
    .waitForFunction(([id, expected]) => document.getElementById(id ?? '')?.textContent === expected, [id, expected], {
      timeout: 20_000,
    })
    .catch(async () => assert.equal(await element.textContent(), expected))
}

type Application = Awaited<ReturnType<typeof start>>

const routeHandlers = async ({ url, port, output }: Application) => {
  const get = (path: string, cookie = '') => fetch(`${url}${path}`, { headers: { cookie }, redirect: 'manual' })
  const post = (path: string, cookie = '') =>
    fetch(`${url}${path}`, { method: 'POST', headers: { cookie }, redirect: 'manual' })

  await check('a cookie for localhost has no Secure, although Next.js adds X-Forwarded headers', async () => {
    const [line = ''] = (await post('/api/cart?item=tea')).headers.getSetCookie()
    assert.match(line, new RegExp(`^sid-${port}=[\\w-]{43}; Max-Age=2592000; Path=/; HttpOnly; SameSite=Lax$`))
    assert.doesNotMatch(output(), /insecure_request/)
  })
  await check('a request that a proxy forwarded gets a Secure cookie', async () => {
    for (const headers of [
      { 'x-forwarded-proto': 'https' },
      { 'x-forwarded-host': 'shop.example' },
      { 'x-forwarded-for': '192.0.2.7' },
      { 'x-forwarded-for': '127.0.0.1, 192.0.2.7' },
      { forwarded: 'for=192.0.2.7' },
    ] as Record<string, string>[]) {
      const response = await fetch(`${url}/api/cart?item=tea`, { method: 'POST', headers })
      assert.match(response.headers.getSetCookie()[0] ?? '', /^__Host-Http-sid=.*; Secure/, JSON.stringify(headers))
    }
  })
  await check('a handler that does not ask for its session gets no Vary: Cookie and no cookie', async () => {
    const { headers } = await get('/api/me')
    assert.doesNotMatch(headers.get('vary') ?? '', /cookie/i)
    assert.deepEqual(headers.getSetCookie(), [])
  })
  await check('a handler that asks gets Vary: Cookie, and Cache-Control beside a cookie', async () => {
    const { headers } = await post('/api/cart?item=tea')
    assert.match(headers.get('vary') ?? '', /cookie/i)
    assert.equal(headers.get('cache-control'), 'no-store')
  })
  await check('fifty requests at once add fifty items', async () => {
    const cookie = cookiesOf(await post('/api/cart?item=first'))
    await Promise.all(Array.from({ length: 50 }, (_, i) => post(`/api/cart?item=${i}`, cookie)))
    const { cart } = (await (await get('/api/cart', cookie)).json()) as { cart: string[] }
    assert.equal(cart.length, 51)
  })
  await check('a route handler and a page have one store and one session', async () => {
    const cookie = cookiesOf(await post('/api/cart?item=oolong'))
    assert.equal(textOf(await (await get('/', cookie)).text(), 'cart'), 'oolong')
  })
  await check('notFound() in a handler is an answer: it is saved, and has the cookie', async () => {
    const response = await get('/api/gone')
    assert.equal(response.status, 404)
    const cookie = cookiesOf(response)
    assert.match(cookie, /own=1/)
    const { n } = (await (await get('/api/cart', cookie)).json()) as { n: number }
    assert.equal(n, 1)
  })
  await check('redirect() in a handler is an answer: a logout clears the cookie', async () => {
    const cookie = cookiesOf(await post('/api/cart?item=tea'))
    const response = await post('/logout', cookie)
    assert.equal(response.status, 307)
    assert.equal(response.headers.get('location'), '/')
    assert.equal(await (await get('/api/cart', cookie)).text(), '{"owner":null}')
  })
  await check('redirect() after a form is 303', async () => {
    const response = await fetch(`${url}/logout`, {
      method: 'POST',
      redirect: 'manual',
      body: new URLSearchParams('a=1'),
    })
    assert.equal(response.status, 303)
  })
  await check('a handler that throws saves nothing', async () => {
    const cookie = cookiesOf(await post('/api/cart?item=tea'))
    assert.equal((await post('/api/gone', cookie)).status, 500)
    assert.equal(await (await get('/api/cart', cookie)).text(), '{"owner":null,"cart":["tea"]}')
  })
}

const components = async ({ url }: Application) => {
  await check('every change in a server component throws read_only, and all components have one visit', async () => {
    const html = await (await fetch(`${url}/changes`)).text()
    assert.equal(textOf(html, 'codes'), `${'read_only '.repeat(6)}one visit`)
  })
  await check('proxy gives an anonymous visitor a cookie, and the page a token for it', async () => {
    const response = await fetch(`${url}/login`)
    assert.match(cookiesOf(response), /^sid-pre-\d+=/)
    assert.match(response.headers.get('cache-control') ?? '', /no-store/)
    assert.match(await response.text(), /name="_csrf" value="[\w-]{84}"/)
  })
  await check('csrfField() in a page that proxy leaves out throws read_only', async () => {
    assert.equal(textOf(await (await fetch(`${url}/none`)).text(), 'code'), 'read_only')
  })
  await check('a second request brings the cookie, and gets no other', async () => {
    const cookie = cookiesOf(await fetch(`${url}/login`))
    assert.equal(cookiesOf(await fetch(`${url}/login`, { headers: { cookie } })), '')
  })
}

const inChromium = async ({ url }: Application, javaScriptEnabled: boolean) => {
  const browser = await chromium()
  const context = await browser.newContext({ javaScriptEnabled })
  context.setDefaultTimeout(20_000)
  const script = javaScriptEnabled ? 'with scripts' : 'without scripts'
  const page = await context.newPage()
  const act = async (id: string, on = page) => {
    const posted = on.waitForResponse((response) => response.request().method() === 'POST')
    await on.click(`#${id}`)
    await posted
  }
  const open = async (path: string, on = page) => {
    await on.goto(`${url}${path}`)
    if (javaScriptEnabled) await on.waitForLoadState('networkidle')
  }
  const text = (id: string, expected: string, on = page) =>
    javaScriptEnabled
      ? shows(on, id, expected)
      : on
          .locator(`#${id}`)
          .textContent()
          .then((found) => assert.equal(found, expected))

  await check(`${script}: an action adds to the cart of an anonymous visitor, and its page shows it`, async () => {
    await open('/')
    await act('add')
    await text('cart', 'tea')
  })
  await check(`${script}: a second action, which sets no cookie, is shown too`, async () => {
    await act('count')
    await text('n', '1')
    await act('count')
    await text('n', '2')
  })
  await check(`${script}: an anonymous visitor gets a flash message once`, async () => {
    const stranger = await (await browser.newContext({ javaScriptEnabled })).newPage()
    stranger.setDefaultTimeout(20_000)
    await open('/', stranger)
    await act('message', stranger)
    await text('flash', 'A message.', stranger)
    await open('/', stranger)
    await text('flash', '', stranger)
  })
  await check(`${script}: an action reads a form with a token and a file`, async () => {
    await open('/')
    await page.setInputFiles('input[type=file]', {
      name: 'a.txt',
      mimeType: 'text/plain',
      buffer: Buffer.from('leaves'),
    })
    await act('send')
    await text('flash', 'file a.txt leaves note=green')
  })
  await check(`${script}: a form with the token of another visitor is refused`, async () => {
    await open('/login')
    await page.evaluate(() => document.querySelector('input[name=_csrf]')?.setAttribute('value', 'x'.repeat(84)))
    await act('login')
    await text('owner', 'anonymous')
  })
  await check(
    `${script}: a login keeps the cart, gets another session, and redirects with a flash message`,
    async () => {
      await open('/login')
      await act('login')
      await text('owner', 'anna')
      await text('cart', 'tea')
      await text('flash', 'Welcome.')
    },
  )
  await check(`${script}: two tabs that add at once keep both items`, async () => {
    const other = await context.newPage()
    await Promise.all([open('/'), open('/', other)])
    await page.fill('input[name=item]', 'milk')
    await other.fill('input[name=item]', 'lemon')
    await Promise.all([act('add'), act('add', other)])
    await open('/')
    const cart = (await page.textContent('#cart'))?.split(',').sort()
    assert.deepEqual(cart, ['lemon', 'milk', 'tea'])
    await other.close()
  })
  await check(`${script}: notFound() in an action is an answer`, async () => {
    await open('/')
    await act('disappear')
    await open('/')
    await text('n', '404')
  })
  await check(`${script}: an action that throws saves nothing`, async () => {
    await open('/')
    await act('fail')
    await open('/')
    await text('n', '404')
  })
  await check(`${script}: an action outside of saving() changes nothing, and fails`, async () => {
    await open('/')
    await act('unwrapped')
    if (javaScriptEnabled) await page.waitForSelector('#error')
    await open('/')
    await text('n', '404')
  })
  await check(
    `${script}: after a logout nothing of the session comes back, also not with its old cookies`,
    async () => {
      const old = await context.cookies()
      await open('/')
      const navigation = page.waitForNavigation()
      await page.click('#logout')
      await navigation
      await text('owner', 'anonymous')
      await text('cart', '')
      await text('flash', 'Goodbye.')
      await context.clearCookies()
      await context.addCookies(old)
      await open('/')
      await text('owner', 'anonymous')
      await text('cart', '')
    },
  )
  await check(
    `${script}: an action whose session ended meanwhile saves nothing, and shows the error boundary`,
    async () => {
      await context.clearCookies()
      await open('/')
      await act('count')
      await act('slow')
      if (javaScriptEnabled) {
        await page.waitForSelector('#error')
        assert.equal(await page.textContent('#error'), 'keepsake;ended')
      }
      await open('/')
      await text('n', '0')
    },
  )
  await browser.close()
}

const inDevelopment = async () => {
  const { url, port, output } = await start('dev', { SESSIONS: 'memory:' })
  await check('in development: a route handler, a page and proxy have one store in memory', async () => {
    const first = await fetch(`${url}/api/cart?item=tea`, { method: 'POST' })
    const cookie = cookiesOf(first)
    assert.match(cookie, new RegExp(`^sid-${port}=`))
    const page = await fetch(url, { headers: { cookie } })
    assert.equal(textOf(await page.text(), 'cart'), 'tea')
    assert.deepEqual(page.headers.getSetCookie(), [])
    assert.doesNotMatch(output(), /insecure_request/)
  })
}

await checks(async () => {
  const work = mkdtempSync(join(tmpdir(), 'keepsake-next-'))
  after(() => rmSync(work, { recursive: true, force: true }))
  await check('the application builds, with TypeScript in strict mode', () =>
    call(folder, process.execPath, cli, 'build'),
  )
  for (const backend of ['memory:', `sqlite:${join(work, 'sessions.db')}`]) {
    console.log(`# ${backend.split(':')[0]}`)
    const application = await start('start', { SESSIONS: backend })
    await routeHandlers(application)
    await components(application)
    await inChromium(application, true)
    await inChromium(application, false)
    await application.stop()
  }
  console.log('# development')
  await inDevelopment()
  console.log('# the cases of adapters, on a route handler')
  await runCases()
})
process.exit()
