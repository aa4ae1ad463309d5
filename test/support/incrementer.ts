// Adds to a counter in one session, so many times, as one of several processes on one store.

import { sessions } from 'keepsake'

const [backend = '', cookie = '', times = '0'] = process.argv.slice(2)
const manager = sessions({ backend, budget: 20 })
for (let i = 0; i < Number(times); i++) {
  const s = await manager.open({ headers: new Headers({ cookie }) })
  s.update('n', (n = 0) => n + 1)
  const done = await s.commit()
  if (!done.ok) throw new Error(done.error)
}
await manager.close()
