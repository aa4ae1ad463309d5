// Copies the sessions of a SQLite file to a Redis Cluster. For each batch it prints the keys, waits, and prints the progress.

import { once } from 'node:events'
import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { backendFromUrl } from 'keepsake'
import { copySessions } from 'keepsake/moving'
import { patientCluster } from './driver.ts'

const [file = '', cluster = '', cursor] = process.argv.slice(2)
const [from, to] = [await backendFromUrl(file), await patientCluster(cluster)]
const print = (message: object) => writeSync(1, `${JSON.stringify(message)}\n`)
/** Prints the keys of a batch after it was read, and waits for a message before it is written. A test ends a session in between. */
const slow = {
  ...from,
  async scan(cursor: string | undefined, limit: number) {
    const page = (await from.scan?.(cursor, limit)) ?? { entries: [], cursor: undefined }
    print({ keys: page.entries.map(({ key }) => key) })
    await once(process, 'message')
    // Time for requests.
    await sleep(60)
    return page
  },
}
await copySessions(slow, to, {
  batch: 20,
  ...(cursor && { cursor }),
  onProgress: print,
})
await from.close?.()
await to.close?.()
