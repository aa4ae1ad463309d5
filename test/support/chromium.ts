// The installed Chromium, for tests. It is closed when the test ends.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { TestContext } from 'node:test'
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'

/** Milliseconds for one step of the browser. It is long, because no test is about speed and a machine may pause. */
const STEP_TIMEOUT = 600_000

const programs = ['chromium-headless-shell', 'chromium', 'google-chrome']
const installed = () =>
  process.env.CHROME_PATH ??
  (process.env.PATH ?? '')
    .split(delimiter)
    .flatMap((folder) => programs.map((program) => join(folder, program)))
    .find(existsSync)

const launchOptions = () => {
  const executablePath = installed()
  assert.ok(executablePath, 'no Chromium was found: npm test installs one, or prints how')
  return {
    executablePath,
    timeout: STEP_TIMEOUT,
    args: ['--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  }
}

export const opened = async (t: TestContext): Promise<Browser> => {
  const chrome = await chromium.launch(launchOptions())
  t.after(() => chrome.close())
  // A page that is opened without a context gets one, too.
  const { newContext } = chrome
  chrome.newContext = async (...options) => {
    const context = await newContext.apply(chrome, options)
    context.setDefaultTimeout(STEP_TIMEOUT)
    return context
  }
  return chrome
}

/** Opens the browser of a visitor who opened it before: its profile is a folder, which keeps cookies while it is closed. */
export const openProfile = async (t: TestContext, folder: string): Promise<BrowserContext> => {
  const context = await chromium.launchPersistentContext(folder, launchOptions())
  t.after(() => context.close())
  context.setDefaultTimeout(STEP_TIMEOUT)
  return context
}

/** Clicks on an element that leads to another page, and waits for that page, because a click alone does not wait. */
export const follow = async (page: Page, selector: string): Promise<void> => {
  const navigation = page.waitForNavigation()
  await page.click(selector)
  await navigation
}
