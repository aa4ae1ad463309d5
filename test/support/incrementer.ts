// Increments a counter in one session, as one of several processes, and prints how many increments have an unknown outcome.

import { sessionManager } from 'keepsake'
import { PATIENT } from './clock.ts'
import { hasStalled, now } from './lost.ts'

const [backend = '', cookie = '', times = '0'] = process.argv.slice(2)
const manager = sessionManager({ backend, storeTimeout: PATIENT })
let unknown = 0
for (let done = 0; done < Number(times); ) {
  const since = now()
  try {
    const s = await manager.open({ headers: new Headers({ cookie }) })
    s.update('n', (n = 0) => n + 1)
    const committed = await s.commit()
    if (!committed.ok) throw new Error(committed.error)
    done++
  } catch (error) {
    // SQLite gives up after two seconds, even if the machine stalled in the meantime.
    if (!hasStalled(since)) throw error
    unknown++
  }
}
await manager.close()
console.log(unknown)
