// The warning before a session ends, as docs/guides/time-left.md shows it, in Chromium with the clocks of the test.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import type { Handler } from 'keepsake'
import { serve } from 'keepsake/serve'
import type { Page } from 'playwright-core'
import { opened } from '../support/chromium.ts'
import { recipe } from '../support/recipe.ts'

const MINUTE = 60_000
const SHOWN = '#warning:not([hidden])'
const HIDDEN = '#warning[hidden]'

type Recipe = { readonly clock: { now: number }; readonly handler: Handler }

const waitFor = (page: Page, selector: string) => page.waitForSelector(selector, { state: 'attached' })

/** Serves the recipe, logs a visitor in, and returns their tabs and a function that moves all clocks. */
const start = async (t: TestContext) => {
  const { clock, handler } = await recipe<Recipe>(t, 'docs/guides/time-left.md')
  const server = await serve(handler, { port: 0 })
  t.after(() => server.close())
  const context = await (await opened(t)).newContext()
  const tabs: Page[] = []
  const openTab = async (path: string): Promise<Page> => {
    const tab = await context.newPage()
    await tab.clock.install({ time: clock.now })
    await tab.goto(server.url + path)
    // The page has the first answer, and has set its timer.
    await waitFor(tab, '#warning span:not(:empty)')
    tabs.push(tab)
    return tab
  }
  const pass = async (minutes: number) => {
    clock.now += minutes * MINUTE
    for (const tab of tabs) await tab.clock.fastForward(minutes * MINUTE)
  }
  return { url: server.url, openTab, pass }
}

suite('in Chromium, the warning', () => {
  test('appears two minutes before the end, and a click on it keeps the visitor logged in', async (t) => {
    const { openTab, pass } = await start(t)
    const tab = await openTab('/login')
    await waitFor(tab, HIDDEN)
    await pass(13)
    await waitFor(tab, SHOWN)
    assert.match((await tab.textContent('#warning')) ?? '', /logged out in 2 min/)
    await tab.click('button')
    await waitFor(tab, HIDDEN)
    await pass(12)
    await waitFor(tab, HIDDEN)
    await pass(1)
    await waitFor(tab, SHOWN)
    assert.equal(await tab.textContent('h1'), 'Welcome, anna!')
  })

  test('is followed by the login page if nobody clicks on it', async (t) => {
    const { openTab, pass } = await start(t)
    const tab = await openTab('/login')
    await pass(13)
    await waitFor(tab, SHOWN)
    const loggedOut = tab.waitForSelector('text=Please log in.')
    await pass(2)
    await loggedOut
  })

  test('disappears if the visitor uses another tab', async (t) => {
    const { openTab, pass } = await start(t)
    const tab = await openTab('/login')
    await pass(13)
    await waitFor(tab, SHOWN)
    await openTab('/')
    await pass(10 / 60)
    await waitFor(tab, HIDDEN)
  })
})
