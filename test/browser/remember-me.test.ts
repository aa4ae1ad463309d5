// “Remember me”, as docs/guides/accounts.md shows it, in a Chromium that is closed and opened again with the same profile.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import type { Handler } from 'keepsake'
import { serve } from 'keepsake/serve'
import type { BrowserContext } from 'playwright-core'
import { follow, openProfile } from '../support/chromium.ts'
import { folder } from '../support/folder.ts'
import { recipe } from '../support/recipe.ts'

const LOGGED_IN = 'Hello, anna!'
const LOGGED_OUT = 'Please log in.'

/** Serves the page's program, and returns the acts of one visitor, whose browser keeps its profile in a folder. */
const start = async (t: TestContext) => {
  const { handler } = await recipe<{ handler: Handler }>(t, 'docs/guides/accounts.md')
  const server = await serve(handler, { port: 0 })
  t.after(() => server.close())
  const profile = folder(t)
  let chrome: BrowserContext | undefined
  const openTab = async (path: string) => {
    const page = await chrome?.newPage()
    await page?.goto(server.url + path)
    return page ?? assert.fail('the browser is open')
  }
  return {
    openBrowser: async () => {
      chrome = await openProfile(t, profile)
    },
    closeBrowser: async () => chrome?.close(),
    heading: async () => (await openTab('/')).textContent('h1'),
    login: async ({ remember }: { readonly remember: boolean }) => {
      const page = await openTab('/login')
      await page.fill('[name=name]', 'anna')
      await page.fill('[name=password]', 'tea at four')
      await page.setChecked('[name=remember]', remember)
      await follow(page, 'button')
    },
  }
}

suite('in Chromium, after the browser was closed and opened again,', () => {
  for (const [title, remember, expected] of [
    ['a login without the box is gone', false, LOGGED_OUT],
    ['a login with the box is still there', true, LOGGED_IN],
  ] as const) {
    test(title, async (t) => {
      const { openBrowser, closeBrowser, heading, login } = await start(t)
      await openBrowser()
      await login({ remember })
      assert.equal(await heading(), LOGGED_IN, 'as long as the browser is open')
      await closeBrowser()
      await openBrowser()
      assert.equal(await heading(), expected)
    })
  }

  test('a later login without the box is gone, and with it the login with the box', async (t) => {
    const { openBrowser, closeBrowser, heading, login } = await start(t)
    await openBrowser()
    await login({ remember: true })
    await login({ remember: false })
    assert.equal(await heading(), LOGGED_IN)
    await closeBrowser()
    await openBrowser()
    assert.equal(await heading(), LOGGED_OUT)
  })
})
