// The goals: ratios between figures of one run, each with its limit.

import { SIZES } from './parts/stores.ts'
import { ratio, type Summary, sum, summary } from './statistics.ts'

/** The values of a figure in each round, by the name of the figure. undefined if it was not measured. */
export type Figures = (name: string) => readonly number[] | undefined

type Goal = {
  readonly title: string
  readonly figure: string
  /** The figures whose sum divides this one. Absent: the figure itself is compared. */
  readonly by?: readonly string[]
  readonly atMost?: number
  readonly atLeast?: number
}

export type CheckedGoal = {
  readonly title: string
  readonly goal: string
  readonly value: Summary
  readonly met: boolean
}

const atMost = (title: string, figure: string, limit: number, ...by: string[]): Goal => ({
  title,
  figure,
  by,
  atMost: limit,
})
const atLeast = (title: string, figure: string, limit: number, ...by: string[]): Goal => ({
  title,
  figure,
  by,
  atLeast: limit,
})

/** The least factor by which keepsake must be cheaper than a peer. */
const cheaper = (title: string, ours: string, times: number, peer: string): Goal => atLeast(title, peer, times, ours)

const SELECT = 'raw: SQLite SELECT (+ UPDATE)'
const MEMORY = 'floor: memory'
const ENCRYPTED = 'floor: encrypted cookie'
const FIRST = 'keepsake: cookie, first sight'

/** In process: microseconds that a session adds to a request. The names are `contestant read`. */
const added: readonly Goal[] = [
  atMost('untouched, µs', 'keepsake: memory untouched', 0.5),
  atMost('anonymous, µs', 'keepsake: memory anonymous', 1.5),
  atMost('read, memory / floor', 'keepsake: memory read', 2, `${MEMORY} read`),
  cheaper('read, express-session / memory', 'keepsake: memory read', 8, 'express-session, MemoryStore read'),
  cheaper('read, @fastify/session / memory', 'keepsake: memory read', 5, '@fastify/session, memory read'),
  atMost('write, memory / floor', 'keepsake: memory write', 2.2, `${MEMORY} write`),
  cheaper('write, express-session / memory', 'keepsake: memory write', 4, 'express-session, MemoryStore write'),
  cheaper('write, @fastify/session / memory', 'keepsake: memory write', 2, '@fastify/session, memory write'),
  atMost('login, memory / floor', 'keepsake: memory login', 2.2, `${MEMORY} login`),
  atMost('read, cookie seen before / floor', 'keepsake: cookie read', 0.6, `${ENCRYPTED} read`),
  atMost('read, cookie at first sight / floor', `${FIRST} read`, 2, `${ENCRYPTED} read`),
  cheaper('read, iron-session / cookie at first sight', `${FIRST} read`, 15, 'iron-session read'),
  atMost('write, cookie seen before / floor', 'keepsake: cookie write', 1.5, `${ENCRYPTED} write`),
  atMost('write, cookie at first sight / floor', `${FIRST} write`, 2, `${ENCRYPTED} write`),
  cheaper('write, iron-session / cookie at first sight', `${FIRST} write`, 15, 'iron-session write'),
  atMost('read, sqlite / raw SELECT', 'keepsake: sqlite read', 1.6, `${SELECT} read`),
  atMost('write, sqlite / raw SELECT + UPDATE', 'keepsake: sqlite write', 1.4, `${SELECT} write`),
  cheaper('read, express-session in memory / sqlite', 'keepsake: sqlite read', 2, 'express-session, MemoryStore read'),
  atMost('read, file / readFileSync', 'keepsake: file read', 4, 'raw: readFileSync read'),
  cheaper('read, session-file-store / file', 'keepsake: file read', 10, 'express-session, session-file-store read'),
]

/** Over HTTP: requests per second of CPU time. The names are `http contestant read`. */
const served: readonly Goal[] = [
  atLeast('HTTP read, memory / memory floor', 'http keepsake: memory, node:http read', 0.92, `http ${MEMORY} read`),
  atLeast('HTTP read, sqlite / memory floor', 'http keepsake: sqlite, node:http read', 0.85, `http ${MEMORY} read`),
  atLeast(
    'HTTP read, cookie seen before / memory floor',
    'http keepsake: cookie, node:http read',
    0.92,
    `http ${MEMORY} read`,
  ),
  atLeast(
    'HTTP read, cookie at first sight / encrypted floor',
    `http ${FIRST}, node:http read`,
    0.9,
    `http ${ENCRYPTED} read`,
  ),
  atLeast(
    'HTTP untouched / bare node:http',
    'http keepsake: memory, node:http untouched',
    0.98,
    'http bare: node:http read',
  ),
  atLeast(
    'HTTP read, Express adapter / bare Express',
    'http keepsake: memory, Express read',
    0.85,
    'http bare: express read',
  ),
  atLeast(
    'HTTP read, Fastify adapter / bare Fastify',
    'http keepsake: memory, Fastify read',
    0.8,
    'http bare: fastify read',
  ),
  atLeast('HTTP read, Hono adapter / bare Hono', 'http keepsake: memory, Hono read', 0.9, 'http bare: hono read'),
  atLeast(
    'HTTP read, Fastify adapter / @fastify/session',
    'http keepsake: memory, Fastify read',
    2,
    'http @fastify/session, memory read',
  ),
]

const grown: readonly Goal[] = [
  atMost('bytes per session, memory / plain map of JSON', 'bytes memory', 1.5, 'bytes map'),
  atMost('p99 of a read, memory, most / fewest sessions', 'p99 memory most', 1.5, 'p99 memory fewest'),
  atMost('p99 of a read, sqlite, most / fewest sessions', 'p99 sqlite most', 3, 'p99 sqlite fewest'),
  atMost('longest sweep of 50, memory, ms', 'sweep memory', 10),
  atMost('longest sweep of 50, sqlite, ms', 'sweep sqlite', 10),
  atMost('bytes left behind by an untouched request', 'left untouched', 1),
]

const REDIS_FLOOR = 'http floor: redis read'

/** On servers: microseconds of CPU time, with requests in flight. The names are `bytes contestant read`. */
const onServers: readonly Goal[] = [
  ...SIZES.flatMap((size) => {
    const title = (name: string) => `${name}, ${size} bytes`
    const besideDriver = (ours: string, raw: string): Goal[] =>
      (['read', 'write'] as const).map((workload) =>
        atMost(
          title(`${workload}, ${ours} / ${raw}`),
          `${size} keepsake: ${ours} ${workload}`,
          1.25,
          `${size} raw: ${raw} ${workload}`,
        ),
      )
    const besidePeer = (workload: string, ours: string, times: number, peer: string): Goal =>
      cheaper(
        title(`${workload}, ${peer} / ${ours}`),
        `${size} keepsake: ${ours} ${workload}`,
        times,
        `${size} ${peer} ${workload}`,
      )
    return [
      ...besideDriver('redis, ioredis', 'ioredis GET (+ EVALSHA)'),
      ...besideDriver('redis, ioredis, opened', 'ioredis GET (+ EVALSHA)'),
      ...besideDriver('redis, node-redis', 'node-redis GET (+ EVALSHA)'),
      ...besideDriver('redis, node-redis, opened', 'node-redis GET (+ EVALSHA)'),
      besidePeer('read', 'redis, ioredis', 2.5, 'express-session, connect-redis'),
      besidePeer('read', 'redis, node-redis', 2.5, 'express-session, connect-redis'),
      ...besideDriver('postgres, pg', 'pg SELECT (+ UPDATE)'),
      ...besideDriver('postgres, pg, opened', 'pg SELECT (+ UPDATE)'),
      besidePeer('read', 'postgres, pg', 3, 'express-session, connect-pg-simple'),
      besidePeer('write', 'postgres, pg', 1.5, 'express-session, connect-pg-simple'),
      ...besideDriver('mysql, mysql2', 'mysql2 SELECT (+ UPDATE)'),
      ...besideDriver('mysql, mysql2, opened', 'mysql2 SELECT (+ UPDATE)'),
    ]
  }),
  atLeast('HTTP read, redis / redis floor', 'http keepsake: redis, ioredis, node:http read', 0.92, REDIS_FLOOR),
]

/** Checks the goals whose figures were all measured. */
export const checkGoals = (figures: Figures): CheckedGoal[] =>
  [...added, ...served, ...grown, ...onServers].flatMap(({ title, figure, by = [], atMost, atLeast }) => {
    const values = figures(figure)
    const others = by.map(figures).filter((other) => other !== undefined)
    if (values === undefined || others.length < by.length) return []
    const value = by.length === 0 ? summary(values) : ratio(values, sum(others))
    const met = atMost === undefined ? value.median >= (atLeast ?? 0) : value.median <= atMost
    return [{ title, goal: atMost === undefined ? `≥ ${atLeast}` : `≤ ${atMost}`, value, met }]
  })
