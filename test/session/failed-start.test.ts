// A manager that cannot start closes the backend that it opened, because it opens another one for the next request.

import assert from 'node:assert/strict'
import { existsSync, readdirSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { sessionManager } from 'keepsake'
import { PATIENT } from '../support/clock.ts'
import { folder } from '../support/folder.ts'

const DESCRIPTORS = '/proc/self/fd'

const openFilesIn = (path: string): number =>
  readdirSync(DESCRIPTORS).filter((name) => {
    try {
      return readlinkSync(join(DESCRIPTORS, name)).startsWith(path)
    } catch {
      return false
    }
  }).length

test('ten starts that fail leave no file of the backend open', { skip: !existsSync(DESCRIPTORS) }, async (t) => {
  const path = folder(t)
  const manager = sessionManager({
    backend: `cookie:sqlite:${join(path, 'ends.db')}`,
    secret: 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw',
    maxSessionsPerOwner: 1,
    storeTimeout: PATIENT,
  })
  for (let i = 0; i < 10; i++) await assert.rejects(manager.ready(), { code: 'invalid_option' })
  assert.equal(openFilesIn(path), 0)
})
