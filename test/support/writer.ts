// Writes into one session for ever, and says after each commit what is now saved, until it is killed.

import { writeSync } from 'node:fs'
import { sessionManager } from 'keepsake'
import { PATIENT } from './clock.ts'
import { now, stoodStill } from './lost.ts'

const [backend = '', cookie = ''] = process.argv.slice(2)
const manager = sessionManager({ backend, storeTimeout: PATIENT })
for (;;) {
  const since = now()
  try {
    const s = await manager.open({ headers: new Headers({ cookie }) })
    s.update('n', (n = 0) => n + 1)
    s.set('padding', 'x'.repeat(2000))
    const done = await s.commit()
    if (!done.ok) throw new Error(done.error)
    writeSync(1, `${s.get('n')}\n`)
  } catch (error) {
    if (!stoodStill(since)) throw error
  }
}
