// Copies the sessions of a SQLite file to a Redis Cluster, on from a cursor, and says after each batch how far it is.

import { writeSync } from 'node:fs'
import { connect, copySessions } from 'keepsake'
import { connectRedis } from 'keepsake/redis'

const [file = '', cluster = '', cursor] = process.argv.slice(2)
const [from, to] = [await connect(file), await connectRedis(cluster, { waitReplicas: 1 })]
await copySessions(from, to, {
  batch: 20,
  ...(cursor && { cursor }),
  onProgress: (progress) => writeSync(1, `${JSON.stringify(progress)}\n`),
})
await from.close?.()
await to.close?.()
