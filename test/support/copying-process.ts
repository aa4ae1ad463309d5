// Copies the sessions of a SQLite file to a Redis Cluster, slowly, and says of each batch what it read and how far it is.

import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, copySessions } from 'keepsake'
import { connectRedis } from 'keepsake/redis'

const [file = '', cluster = '', cursor] = process.argv.slice(2)
const [from, to] = [await connect(file), await connectRedis(cluster, { waitReplicas: 1 })]
const say = (what: object) => writeSync(1, `${JSON.stringify(what)}\n`)
/** Between the reading of a batch and its writing there is time to end a session of it: the keys are told, and it waits. */
const slow = {
  ...from,
  async scan(cursor: string | undefined, limit: number) {
    const part = (await from.scan?.(cursor, limit)) ?? { entries: [], cursor: undefined }
    say({ keys: part.entries.map(({ key }) => key) })
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
