// The private servers of a run, those of the tests, in a process of their own: they end with it, and it with the bench.

import { answering } from '../child.ts'

export type Question = 'redis' | 'postgres' | 'mysql'

/** Its URL, or why there is none. */
export type Server = { readonly url?: string; readonly why?: string }

const start = async (kind: Question): Promise<{ readonly url: string }> => {
  if (kind === 'redis') return (await import('../../test/support/redis-server.ts')).redisServer()
  if (kind === 'mysql') return (await import('../../test/support/mariadb-server.ts')).mariadbServer()
  return (await import('../../test/support/postgres-server.ts')).postgresServer()
}

answering(async (kind: Question): Promise<Server> => {
  try {
    return { url: (await start(kind)).url }
  } catch (error) {
    return { why: error instanceof Error ? error.message : String(error) }
  }
})
