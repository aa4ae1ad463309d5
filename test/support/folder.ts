// A temporary folder for one test, removed after the test.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

export const folder = (t: TestContext): string => {
  const path = mkdtempSync(join(tmpdir(), 'keepsake-'))
  t.after(() => rmSync(path, { recursive: true, force: true }))
  return path
}
