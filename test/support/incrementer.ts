// Adds to a counter in one session, so many times, as one of several processes on one store; prints how many may be either way.

import { sessionManager } from 'keepsake'
import { PATIENT } from './clock.ts'
import { now, stoodStill } from './lost.ts'

const [backend = '', cookie = '', times = '0'] = process.argv.slice(2)
const manager = sessionManager({ backend, storeTimeout: PATIENT })
let unsure = 0
for (let done = 0; done < Number(times); ) {
  const since = now()
  try {
    const s = await manager.open({ headers: new Headers({ cookie }) })
    s.update('n', (n = 0) => n + 1)
    const committed = await s.commit()
    if (!committed.ok) throw new Error(committed.error)
    done++
  } catch (error) {
    // SQLite waits for two seconds, whether the machine stands still meanwhile or not.
    if (!stoodStill(since)) throw error
    unsure++
  }
}
await manager.close()
console.log(unsure)
