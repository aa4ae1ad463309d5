// Tests of an application with sessions, for each test runner.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'

const WRITES = 20

/** The backends that are tested, with files in a folder. */
const backends = {
  memory: () => 'memory:',
  file: (folder) => `file:${folder}`,
  sqlite: (folder) => `sqlite:${folder}/a.db`,
}

const checkSessions = async (backend) => {
  const manager = sessionManager({ backend })
  const visit = browser(
    manager(async (request) => {
      const s = await session(request)
      s.update('n', (n = 0) => n + 1)
      return Response.json(s.get('n'))
    }),
  )
  await visit('/')
  await Promise.all(Array.from({ length: WRITES }, () => visit('/')))
  const n = await (await visit('/')).json()
  await manager.close()
  if (n !== WRITES + 2) throw new Error(`The session counted ${n} visits. Expected: ${WRITES + 2}.`)
}

/** Defines the tests with the function of a test runner. */
export const defineTests = (test) => {
  for (const [name, urlIn] of Object.entries(backends)) {
    test(`no write of a session in ${name} is lost`, async () => {
      const folder = mkdtempSync(join(tmpdir(), 'keepsake-'))
      try {
        await checkSessions(urlIn(folder))
      } finally {
        rmSync(folder, { recursive: true, force: true })
      }
    })
  }
}
