// Writes to one session until it is killed, and prints the saved number after each commit.

import { writeSync } from 'node:fs'
import { sessionManager } from 'keepsake'
import { PATIENT } from './clock.ts'
import { hasStalled, now } from './lost.ts'

const [backend = '', cookie = ''] = process.argv.slice(2)
const manager = sessionManager({ backend, storeTimeout: PATIENT })
for (;;) {
  const since = now()
  try {
    const s = await manager.open({ headers: new Headers({ cookie }) })
    s.update('n', (n = 0) => n + 1)
    s.set('padding', 'x'.repeat(2000))
    const result = await s.commit()
    if (!result.ok) throw new Error(result.error)
    writeSync(1, `${s.get('n')}\n`)
  } catch (error) {
    if (!hasStalled(since)) throw error
  }
}
