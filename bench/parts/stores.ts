// Sessions on private servers: their cost beside the driver alone and beside peers, and their bytes in Redis.

import { contestantsOn } from '../contestants/store-contestants.ts'
import { type Http, http } from './http.ts'
import { type InProcess, inProcess } from './in-process.ts'
import { type RedisBytes, redisBytes } from './redis-bytes.ts'
import type { Store } from './servers.ts'

export type Stores = {
  /** By the bytes of a session's fields. */
  readonly added: ReadonlyMap<number, InProcess>
  readonly rates: Http | undefined
  readonly bytes: readonly RedisBytes[]
}

type Plan = {
  readonly folder: string
  readonly rounds: number
  readonly leg: number
  readonly seconds: number
  readonly words: readonly string[]
  readonly say: (line: string) => void
}

/** Bytes of the fields as JSON: the size of the other parts, and a kilobyte. */
export const SIZES = [145, 1024] as const

export const stores = async (running: ReadonlySet<Store>, plan: Plan): Promise<Stores> => {
  const { folder, rounds, leg, seconds, words, say } = plan
  const competing = contestantsOn(running).filter(
    ({ name }) => words.length === 0 || words.some((word) => name.includes(word)),
  )
  const added = new Map<number, InProcess>()
  for (const size of SIZES) {
    const sayWithSize = (line: string) => say(`stores, ${size} bytes: ${line}`)
    const env = { BENCH_BYTES: String(size) }
    added.set(
      size,
      await inProcess(competing, {
        folder: `${folder}/stores-${size}`,
        rounds,
        leg,
        alone: true,
        env,
        say: sayWithSize,
      }),
    )
  }
  const serving = competing.filter(({ name }) => name.includes('redis'))
  const rates =
    serving.length === 0
      ? undefined
      : await http(serving, { folder: `${folder}/stores-http`, rounds: Math.min(rounds, 5), seconds, say })
  say('memory in Redis')
  return { added, rates, bytes: running.has('redis') ? await redisBytes() : [] }
}
