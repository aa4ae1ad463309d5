// A Chromium for tests: the one that is installed, closed when the test is over.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { TestContext } from 'node:test'
import { type Browser, chromium } from 'playwright-core'

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
    args: ['--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  })
  t.after(() => chrome.close())
  return chrome
}
