// Starts a PostgreSQL server for one test, with an empty database.

import { readdirSync } from 'node:fs'
import { program, type Server, startServer } from './servers.ts'

export type PostgresServer = Server & { readonly url: string }

/** Debian installs each version in a folder of its own, which is not in the PATH. The tests use the newest version. */
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

/** The reason to skip tests that end a server: the other tests use the server of TEST_POSTGRES_URL, and none is installed here. */
export const noPostgres = (): string | false => {
  try {
    program('postgres', 'postgresql', folders())
    return false
  } catch (error) {
    return process.env.TEST_POSTGRES_URL ? (error as Error).message : false
  }
}

/** @param settings more settings of the server. By default it never waits for the disk. */
export const postgresServer = async (settings: Readonly<Record<string, string>> = {}): Promise<PostgresServer> => {
  const find = (name: string) => program(name, 'postgresql', folders())
  const all = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    fsync: 'off',
    full_page_writes: 'off',
    max_connections: '300',
    ...settings,
  }
  const server = await startServer({
    program: find('postgres'),
    prepare: (folder) => [
      find('initdb'),
      ['-D', `${folder}/data`, '-U', 'app', '--auth=trust', '--no-sync', '--encoding=UTF8', '--locale=C'],
    ],
    args: ({ port }, folder) => [
      ...['-D', `${folder}/data`, '-p', String(port)],
      ...Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ],
    ready: /database system is ready to accept connections/,
    signal: 'SIGINT',
    // After SIGKILL its other processes would live for a moment, and the next start could not open the data.
    crash: 'SIGQUIT',
  })
  return { ...server, url: `postgres://app@127.0.0.1:${server.port}/postgres` }
}
