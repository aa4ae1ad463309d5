// A Chromium for tests: the one that is installed, closed when the test is over.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { TestContext } from 'node:test'
import { type Browser, chromium, type Page } from 'playwright-core'

/** Milliseconds that a browser may take for a step: no test is about that, and a machine may stand still. */
const PATIENCE = 600_000

const programs = ['chromium-headless-shell', 'chromium', 'google-chrome']
const installed = () =>
  process.env.CHROME_PATH ??
  (process.env.PATH ?? '')
    .split(delimiter)
    .flatMap((folder) => programs.map((program) => join(folder, program)))
    .find(existsSync)

export const opened = async (t: TestContext): Promise<Browser> => {
  const executablePath = installed()
  assert.ok(executablePath, 'a Chromium is installed: npm test does that, or says how')
  const chrome = await chromium.launch({
    executablePath,
    timeout: PATIENCE,
    args: ['--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  })
  t.after(() => chrome.close())
  // A page of its own has a context, too.
  const { newContext } = chrome
  chrome.newContext = async (...options) => {
    const context = await newContext.apply(chrome, options)
    context.setDefaultTimeout(PATIENCE)
    return context
  }
  return chrome
}

/** Clicks on what leads to a page, and waits until that is there: a click alone does not. */
export const follow = async (page: Page, selector: string): Promise<void> => {
  const there = page.waitForNavigation()
  await page.click(selector)
  await there
}
