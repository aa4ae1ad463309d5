// A process that runs the private servers of the tests. They end with it, and it ends with the benchmark.

import { answerQuestions } from '../child.ts'

export type Question = 'redis' | 'postgres' | 'mysql'

/** The URL of a server, or the reason why it did not start. */
export type Server = { readonly url?: string; readonly why?: string }

const start = async (kind: Question): Promise<{ readonly url: string }> => {
  if (kind === 'redis') return (await import('../../test/support/redis-server.ts')).redisServer()
  if (kind === 'mysql') return (await import('../../test/support/mariadb-server.ts')).mariadbServer()
  return (await import('../../test/support/postgres-server.ts')).postgresServer()
}

answerQuestions(async (kind: Question): Promise<Server> => {
  try {
    return { url: (await start(kind)).url }
  } catch (error) {
    return { why: error instanceof Error ? error.message : String(error) }
  }
})
