// Copies the sessions of a SQLite file to a Redis Cluster, and says of each batch what it read, and waits, and how far it is.

import { once } from 'node:events'
import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { backendFromUrl } from 'keepsake'
import { copySessions } from 'keepsake/moving'
import { patientCluster } from './driver.ts'

const [file = '', cluster = '', cursor] = process.argv.slice(2)
const [from, to] = [await backendFromUrl(file), await patientCluster(cluster)]
const say = (what: object) => writeSync(1, `${JSON.stringify(what)}\n`)
/** Between the reading of a batch and its writing the keys are told, and a session of it may end before the answer. */
const slow = {
  ...from,
  async scan(cursor: string | undefined, limit: number) {
    const part = (await from.scan?.(cursor, limit)) ?? { entries: [], cursor: undefined }
    say({ keys: part.entries.map(({ key }) => key) })
    await once(process, 'message')
    // For visitors to come meanwhile.
    await sleep(60)
    return part
  },
}
await copySessions(slow, to, {
  batch: 20,
  ...(cursor && { cursor }),
  onProgress: say,
})
await from.close?.()
await to.close?.()
