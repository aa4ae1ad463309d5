// Starts a MariaDB server for one test, with an empty database.

import { program, type Server, startServer } from './servers.ts'

export type MariadbServer = Server & { readonly url: string }

/** The reason to skip tests that end a server: the other tests use the server of TEST_MYSQL_URL, and none is installed here. */
export const noMariadb = (): string | false => {
  try {
    program('mariadbd', 'mariadb-server')
    return false
  } catch (error) {
    return process.env.TEST_MYSQL_URL ? (error as Error).message : false
  }
}

/** @param settings more options of the server. By default it never waits for the disk. */
export const mariadbServer = async (settings: readonly string[] = []): Promise<MariadbServer> => {
  const server = await startServer({
    program: program('mariadbd', 'mariadb-server'),
    prepare: (folder) => [
      program('mariadb-install-db', 'mariadb-server'),
      [
        ...['--no-defaults', `--datadir=${folder}/data`, '--auth-root-authentication-method=normal'],
        ...['--skip-test-db', '--skip-name-resolve', '--innodb-flush-log-at-trx-commit=0'],
      ],
    ],
    args: ({ port }, folder) => [
      ...['--no-defaults', `--datadir=${folder}/data`, `--port=${port}`, '--bind-address=127.0.0.1'],
      ...[`--socket=${folder}/s.sock`, `--pid-file=${folder}/pid`, '--skip-name-resolve', '--max-connections=300'],
      ...['--innodb-flush-log-at-trx-commit=0', ...settings],
    ],
    ready: /ready for connections/,
    signal: 'SIGTERM',
  })
  const { createConnection } = await import('mysql2/promise')
  const root = await createConnection({ socketPath: `${server.folder}/s.sock`, user: 'root' })
  await root.query('create database app')
  await root.query("create user app@'127.0.0.1'")
  await root.query("grant all on *.* to app@'127.0.0.1' with grant option")
  await root.end()
  return { ...server, url: `mysql://app@127.0.0.1:${server.port}/app` }
}
