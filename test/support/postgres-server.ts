// A PostgreSQL server of a test's own, with an empty database in it.

import { readdirSync } from 'node:fs'
import { program, type Server, startServer } from './servers.ts'

export type PostgresServer = Server & { readonly url: string }

/** Debian keeps the programs of each version in a folder of its own, off the PATH: the newest is taken. */
const ROOT = '/usr/lib/postgresql'
const folders = (): string[] => {
  try {
    return readdirSync(ROOT)
      .sort((a, b) => Number(b) - Number(a))
      .map((version) => `${ROOT}/${version}/bin`)
  } catch {
    return []
  }
}

/** Why no test that ends a server can run here: another one serves for the rest, and this machine has none. */
export const noPostgres = (): string | false => {
  try {
    program('postgres', 'postgresql', folders())
    return false
  } catch (error) {
    return process.env.TEST_POSTGRES_URL ? (error as Error).message : false
  }
}

/** @param settings more of its settings. Unless they say otherwise, it never waits for the disk. */
export const postgresServer = async (settings: Readonly<Record<string, string>> = {}): Promise<PostgresServer> => {
  const found = (name: string) => program(name, 'postgresql', folders())
  const all = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    fsync: 'off',
    full_page_writes: 'off',
    max_connections: '300',
    ...settings,
  }
  const server = await startServer({
    program: found('postgres'),
    prepare: (folder) => [
      found('initdb'),
      ['-D', `${folder}/data`, '-U', 'app', '--auth=trust', '--no-sync', '--encoding=UTF8', '--locale=C'],
    ],
    args: ({ port }, folder) => [
      ...['-D', `${folder}/data`, '-p', String(port)],
      ...Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ],
    ready: /database system is ready to accept connections/,
    signal: 'SIGINT',
    // By SIGKILL its other processes would outlive it for a moment, and keep the next start from the data.
    crash: 'SIGQUIT',
  })
  return { ...server, url: `postgres://app@127.0.0.1:${server.port}/postgres` }
}
