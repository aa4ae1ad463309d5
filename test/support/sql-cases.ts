// Cases that hold for the backends in PostgreSQL and in MariaDB: concurrent statements, the table, and backends by URL.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { registerHooks } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { suite, type TestContext, test } from 'node:test'
import { inspect } from 'node:util'
import type { Backend, Entry } from 'keepsake'
import { code } from './assert.ts'
import { change, entryWith, freshKey, freshVersion, OWNER } from './entries.ts'
import { retryIfStalled } from './lost.ts'
import type { Server } from './servers.ts'
import { closing, freshTable, tableFor } from './stores.ts'
import { until } from './until.ts'

const HOUR = 3_600_000

/** A backend of `postgresBackend` or `mysqlBackend`. */
export type SqlBackend = Backend & { schema(): string; migrate(): Promise<void> }

/** Statements of another program, in a transaction on the same table. */
type OtherTransaction = {
  begin(): Promise<unknown>
  commit(): Promise<unknown>
  rollback(): Promise<unknown>
  /** Inserts an entry that expires at 1 and has the metadata `other`. */
  insert(key: string, version: string, owner?: string): Promise<unknown>
  setVersion(key: string, version: string): Promise<unknown>
  /** Adds milliseconds to the expiry. */
  extend(key: string, milliseconds: number): Promise<unknown>
  remove(key: string): Promise<unknown>
  /** The column `value` of the row with this key. */
  valueOf(key: string): Promise<unknown>
}

/** A backend in a fresh table, and the transaction of another program. */
export type Stage = {
  readonly table: string
  readonly backend: SqlBackend
  readonly other: OtherTransaction
  /** Resolves when a statement on the table waits for a lock. */
  waiting(): Promise<void>
  /** Inserts as many entries. The first expires at 1, the second at 2, and so on. Every tenth has an owner, `app:10` and so on. */
  fill(count: number): Promise<unknown>
  /** A backend in the same table with a pool of its own. */
  another(): Promise<SqlBackend>
}

export type SqlDatabase = {
  readonly stage: (t: TestContext) => Promise<Stage>
  /** `postgresBackend` or `mysqlBackend`. */
  readonly backend: (client: unknown, options?: unknown) => SqlBackend
  /** `connectPostgres` or `connectMysql`. */
  readonly connect: (url: string, options: { readonly table: string }) => Promise<SqlBackend>
  readonly url: () => Promise<string>
  /** Another protocol for such URLs. */
  readonly alias: string

  /** The property of a driver's error that has its code. */
  readonly codeProperty: 'code' | 'errno'
  /** Codes of errors that undid the statement. */
  readonly undone: readonly (string | number)[]
  /** Codes of errors after which the outcome is unknown. */
  readonly unknown: readonly (string | number)[]
  /** A client whose one function fails as the argument does, or returns no rows. */
  readonly clientOf: (run: () => Promise<void>) => unknown

  /** A URL, the number of connections that were made with it, and a table that is dropped after the test. */
  readonly counted: (t: TestContext) => Promise<{
    readonly url: string
    readonly table: string
    readonly count: () => Promise<number>
  }>
  /** A URL of an account that may not create tables, and a function that lets it use one. */
  readonly restricted: (t: TestContext) => Promise<{ readonly url: string; grant(table: string): Promise<unknown> }>
  /** Starts a server of the test's own. */
  readonly server: () => Promise<Server & { readonly url: string }>
  /** The reason why no server can be started. */
  readonly noServer: string | false
  /** URLs of a host, with `user:password`, that fail for a reason of this database. */
  readonly failingUrls: (login: string, host: string) => readonly string[]

  /** The package of the driver, and the file that imports it. */
  readonly driver: { readonly name: string; readonly file: string; readonly connect: string; readonly url: string }
}

/** Generates an entry. */
export const generated = async (backend: Backend, more: Partial<Entry> = {}) => {
  const key = freshKey()
  const entry = entryWith(more)
  assert.equal(await backend.generate(key, entry), undefined)
  return { key, entry }
}

/** Opens a backend, which is closed after the test. */
export const openByUrl = async (t: TestContext, connect: SqlDatabase['connect'], url: string, table = freshTable()) => {
  const backend = await connect(url, { table })
  closing(t, () => backend.close?.())
  return backend
}

/** An error that names a refused connection, and states that nothing was changed. */
const isUnreached = (error: unknown): boolean => {
  assert.match((error as Error).message, /ECONNREFUSED.* Nothing was changed\./)
  return code('unavailable')(error)
}

/**
 * Makes a deadlock between the clear of an owner and the transaction of another program, by two entries of the owner. If
 * the database undoes the transaction, and not the clear, its error is a deadlock too.
 *
 * @param keys of the two entries, in the order in which the clear locks them
 */
export const clearInDeadlock = async (
  { other, waiting }: Pick<Stage, 'other' | 'waiting'>,
  clear: () => unknown,
  keys: readonly [string, string],
  isDeadlock: (error: unknown) => boolean,
) => {
  await other.setVersion(keys[1], 'another1')
  const cleared = clear()
  await waiting()
  const hasWon = await other.setVersion(keys[0], 'another1').then(
    () => true,
    (error) => {
      assert.ok(isDeadlock(error))
      return false
    },
  )
  await (hasWon ? other.commit() : other.rollback())
  assert.equal(await cleared, 2)
}

const tableCases = ({ stage }: SqlDatabase) =>
  test('an operator finds the entry of a label by its storage key', async (t) => {
    const { backend, other } = await stage(t)
    await backend.generate('sid.Q2hhcmxvdHRl', entryWith())
    await backend.generate('sid.q2hhcmxvdHRl', entryWith({ value: '{"n":2}' }))
    assert.equal(await other.valueOf('sid.Q2hhcmxvdHRl'), '{"n":1}', 'upper and lower case are different keys')
  })

const concurrencyCases = ({ stage }: SqlDatabase) =>
  suite('two concurrent statements on one entry', () => {
    test('a set that waited for another set is stale, or done if the other one was its own first try', async (t) => {
      const { backend, other, waiting } = await stage(t)
      for (const isOwn of [false, true]) {
        const { key, entry } = await generated(backend)
        const next = change()
        const version = isOwn ? next.version : 'another1'
        await other.begin()
        await other.setVersion(key, version)
        const set = backend.set(key, next, entry.version)
        await waiting()
        await other.commit()
        assert.equal(await set, isOwn ? undefined : 'stale')
        assert.equal((await backend.get(key))?.version, version)
        assert.equal((await backend.get(key))?.value, entry.value, 'it wrote nothing')
      }
    })
    test('a set that waited for a clear is gone and restores nothing; after a rollback it is done', async (t) => {
      const { backend, other, waiting } = await stage(t)
      for (const end of ['commit', 'rollback'] as const) {
        const { key, entry } = await generated(backend)
        const next = change()
        await other.begin()
        await other.remove(key)
        const set = backend.set(key, next, entry.version)
        await waiting()
        await other[end]()
        assert.equal(await set, end === 'commit' ? 'gone' : undefined)
        const expected = end === 'commit' ? undefined : { ...entry, ...next, owner: undefined }
        assert.deepEqual(await backend.get(key), expected)
      }
    })
    test('a set that waited for a touch is done, and keeps the later expiry', async (t) => {
      const { backend, other, waiting } = await stage(t)
      const { key, entry } = await generated(backend)
      await other.begin()
      await other.extend(key, 1)
      const set = backend.set(key, change(), entry.version)
      await waiting()
      await other.commit()
      assert.equal(await set, undefined)
      assert.equal((await backend.get(key))?.expiresAt, entry.expiresAt + 1)
    })
    test('a touch that waited moves the expiry forward only', async (t) => {
      const { backend, other, waiting } = await stage(t)
      const { key, entry } = await generated(backend)
      await other.begin()
      await other.extend(key, 5)
      const touch = backend.touch(key, entry.expiresAt + 3)
      await waiting()
      await other.commit()
      await touch
      assert.equal((await backend.get(key))?.expiresAt, entry.expiresAt + 5)
    })
    test('a generate that waited for another is taken; after its own first try, or a rollback, it is done', async (t) => {
      const { backend, other, waiting } = await stage(t)
      for (const [version, end, expected] of [
        ['another1', 'commit', 'taken'],
        ['its own1', 'commit', undefined],
        ['another1', 'rollback', undefined],
      ] as const) {
        const key = freshKey()
        const entry = entryWith({ version: 'its own1' })
        await other.begin()
        await other.insert(key, version)
        const generate = backend.generate(key, entry)
        await waiting()
        await other[end]()
        assert.equal(await generate, expected, `${version}, ${end}`)
        assert.equal((await backend.get(key))?.metadata, end === 'commit' ? 'other' : entry.metadata)
      }
    })
    test('a clear that waited for a set removes the new entry, but with a version it is stale', async (t) => {
      const { backend, other, waiting } = await stage(t)
      for (const hasVersion of [false, true]) {
        const { key, entry } = await generated(backend)
        await other.begin()
        await other.setVersion(key, 'another1')
        const clear = backend.clear(key, hasVersion ? entry.version : undefined)
        await waiting()
        await other.commit()
        assert.equal(await clear, hasVersion ? 'stale' : undefined)
        assert.equal((await backend.get(key))?.version, hasVersion ? 'another1' : undefined)
      }
    })
    test('a clear with a mark that waited for a set replaces the new entry; with a version it is stale, unless it finds its own mark', async (t) => {
      const { backend, other, waiting } = await stage(t)
      const mark = { metadata: 'm', version: 'the mark', expiresAt: Date.now() + HOUR }
      for (const [version, hasVersion, expected, versionAfter] of [
        ['another1', false, undefined, 'the mark'],
        ['another1', true, 'stale', 'another1'],
        ['the mark', true, undefined, 'the mark'],
      ] as const) {
        const { key, entry } = await generated(backend)
        await other.begin()
        await other.setVersion(key, version)
        const clear = backend.clear(key, hasVersion ? entry.version : undefined, mark)
        await waiting()
        await other.commit()
        assert.equal(await clear, expected)
        assert.equal((await backend.get(key))?.version, versionAfter)
      }
    })
    test('the clear of an owner waits for a concurrent write, and removes the entry', async (t) => {
      const { backend, other, waiting } = await stage(t)
      const { key } = await generated(backend, { owner: OWNER })
      await other.begin()
      await other.setVersion(key, 'another1')
      await other.extend(key, 1)
      const clear = backend.byOwner?.clear(OWNER)
      await waiting()
      await other.commit()
      assert.equal(await clear, 1)
      assert.equal(await backend.get(key), undefined)
    })
    test('two processes that sweep concurrently share the work, and remove no session that is alive', async (t) => {
      const { backend, fill, another } = await stage(t)
      await fill(400)
      const { key } = await generated(backend, { expiresAt: 401 })
      const sweepAll = async (process: Backend) => {
        let sum = 0
        for (let last = 50; last === 50; sum += last) last = (await process.sweep?.(400, 50)) ?? 0
        return sum
      }
      const counts = await Promise.all([sweepAll(backend), sweepAll(await another())])
      assert.equal(
        counts.reduce((a, b) => a + b),
        400,
      )
      assert.ok(await backend.get(key))
    })
  })

/** A client that fails as many times with this code, and then returns no rows. */
const failing = ({ clientOf, codeProperty }: SqlDatabase, errorCode: string | number, times: number) => {
  const stub = { calls: 0, client: undefined as unknown }
  stub.client = clientOf(async () => {
    if (++stub.calls <= times) throw Object.assign(new Error('no'), { [codeProperty]: errorCode })
  })
  return stub
}

const retryCases = (database: SqlDatabase) =>
  test('a statement that the database undid is sent again, at most three times; no other statement is', async () => {
    const { undone, unknown, codeProperty, backend } = database
    for (const [errorCode, times, calls, fails] of [
      ...undone.map((errorCode) => [errorCode, 3, 4, false] as const),
      [undone[0] ?? assert.fail(), 4, 4, true] as const,
      ...unknown.map((errorCode) => [errorCode, 1, 1, true] as const),
    ]) {
      const stub = failing(database, errorCode, times)
      const get = async () => backend(stub.client).get(freshKey())
      if (fails) await assert.rejects(get, times > 1 ? code('unavailable') : { [codeProperty]: errorCode })
      else assert.equal(await get(), undefined)
      assert.equal(stub.calls, calls, String(errorCode))
    }
  })

/**
 * Migrates in eight processes that all begin at the same moment. None of them may fail.
 *
 * @param pool removes the table after the test
 * @param connect a program that makes `connection` to `process.env.URL`, and `backend` on it in `process.env.TABLE`
 * @returns the name of the table
 */
export const migrateInEightProcesses = async (
  t: TestContext,
  pool: { query(sql: string): unknown },
  url: string,
  connect: string,
): Promise<string> => {
  const table = tableFor(t, pool)
  const program = `${connect}
    process.stdin.once('data', async () => {
      await backend.migrate()
      await connection.end()
      process.exit(0)
    })
    console.log('ready')
  `
  const children = Array.from({ length: 8 }, () => {
    const args = ['--unhandled-rejections=strict', '--input-type=module', '-e', program]
    const options = { cwd: join(import.meta.dirname, '../..'), env: { ...process.env, URL: url, TABLE: table } }
    const child = spawn(process.execPath, args, options)
    closing(t, () => child.kill())
    let errors = ''
    child.stderr.on('data', (chunk) => {
      errors += chunk
    })
    return { child, errors: () => errors, lines: createInterface({ input: child.stdout }) }
  })
  await Promise.all(children.map(({ lines }) => once(lines, 'line')))
  for (const { child } of children) child.stdin.write('go\n')
  for (const { child, errors } of children) {
    if (child.exitCode === null) await once(child, 'close')
    assert.equal(child.exitCode, 0, errors())
  }
  return table
}

const optionCases = (database: SqlDatabase) =>
  test('an invalid name of a table, option or client is refused before any statement is sent', () => {
    const { backend } = database
    const stub = failing(database, 0, 0)
    for (const table of [
      ...['', ' ', 'a b', '1a', 'a-b', 'a"; drop table x;--', 'a`; drop table x;--', 'a.b.c', '.a', 'a.', 'a\0', 'a\n'],
      ...['ä', 'a'.repeat(49), 7],
    ]) {
      assert.throws(() => backend(stub.client, { table }), code('invalid_option'), JSON.stringify(table))
    }
    for (const options of [{ tabel: 'a' }, { unlogged: true }, { synchronousCommit: false }]) {
      assert.throws(() => backend(stub.client, options), code('invalid_option'))
    }
    for (const client of [undefined, null, {}, 'postgres://', 'mysql://', () => {}]) {
      assert.throws(() => backend(client), code('invalid_option'))
    }
    assert.equal(stub.calls, 0)
  })

const urlCases = (database: SqlDatabase) =>
  suite('a backend by URL', { concurrency: true }, () => {
    const { connect, counted, restricted, server, noServer, failingUrls } = database
    test('it connects and creates its table at the first use, and close ends its connections', async (t) => {
      const { url, table, count } = await counted(t)
      const backend = await openByUrl(t, connect, url, table)
      assert.equal(await count(), 0)
      // Any call may be the first.
      const calls = [
        ...Array.from({ length: 15 }, () => () => backend.get(freshKey())),
        ...[() => backend.scan?.(undefined, 5), () => backend.sweep?.(1, 5), () => backend.clear(freshKey())],
        ...[() => backend.byOwner?.list(OWNER), () => backend.byOwner?.clear(OWNER)],
        ...[() => backend.touch(freshKey(), 1), () => backend.set(freshKey(), change(), freshVersion())],
      ]
      await Promise.all(calls.map((call) => retryIfStalled<unknown>(call)))
      assert.ok((await count()) > 0)
      assert.equal(await retryIfStalled(() => backend.generate(freshKey(), entryWith())), undefined)
      await backend.close?.()
      await backend.close?.()
      await until(async () => (await count()) === 0)
      await assert.rejects(async () => backend.get(freshKey()))
    })
    test('after a first use that failed, and after each crash of the server, it works again', {
      skip: noServer,
    }, async (t) => {
      const own = await server()
      closing(t, () => own.stop())
      const backend = await openByUrl(t, connect, own.url)
      await own.kill()
      for (let i = 0; i < 3; i++)
        await retryIfStalled(() => assert.rejects(async () => backend.get(freshKey()), isUnreached))
      for (let i = 0; i < 5; i++) {
        await own.restart()
        const key = freshKey()
        const generate = () => backend.generate(key, entryWith())
        assert.equal(await retryIfStalled(generate), undefined, 'the first call after the restart succeeds')
        assert.ok(await retryIfStalled(() => backend.get(key)))
        await own.kill()
        const calls = await Promise.allSettled(Array.from({ length: 20 }, async () => backend.get(key)))
        assert.deepEqual(new Set(calls.map(({ status }) => status)), new Set(['rejected']))
      }
    })
    test('if its account may not create tables, it uses the table that exists', async (t) => {
      const { table } = await database.stage(t)
      const { url, grant } = await restricted(t)
      await grant(table)
      const granted = await openByUrl(t, connect, url, table)
      assert.equal(await retryIfStalled(() => granted.get(freshKey())), undefined)
      const other = await openByUrl(t, connect, url)
      await retryIfStalled(() => assert.rejects(async () => other.get(freshKey()), code('unavailable')))
    })
    test('no error contains the password', async (t) => {
      const password = 'hunter2secret'
      const errors: unknown[] = []
      const { protocol, host, pathname } = new URL(await database.url())
      for (const url of [
        `${protocol}//app:${password}@127.0.0.1:1${pathname}`,
        `${protocol}//nobody:${password}@${host}${pathname}`,
        `${protocol}//app:${password}@127.0.0.1:notaport${pathname}`,
        `${protocol}//app:${password}@[::1${pathname}`,
        `${database.alias}//app:${password}@no.such.host.invalid${pathname}`,
        ...failingUrls(`app:${password}`, host),
      ]) {
        const call = async () => (await openByUrl(t, connect, url)).get(freshKey())
        await assert.rejects(call, (error) => errors.push(error) > 0, url)
      }
      for (const error of errors) {
        const text = inspect(error, { depth: 12, showHidden: true })
        assert.ok(!text.includes(password), text)
      }
      assert.ok(errors.filter(code('invalid_option')).length >= 2, 'a URL that cannot be read is an invalid option')
    })
  })

const driverCases = ({ driver: { name, file, connect, url } }: SqlDatabase) =>
  test(`if ${name} is not installed, the error is one line and names it`, async (t) => {
    const hooks = registerHooks({
      resolve(specifier, context, next) {
        if (specifier.split('/')[0] === name && context.parentURL?.includes('/src/')) {
          throw Object.assign(new Error(`Cannot find package '${name}'`), { code: 'ERR_MODULE_NOT_FOUND' })
        }
        return next(specifier, context)
      },
    })
    closing(t, () => hooks.deregister())
    const module = await import(`../../src/backends/sql/${file}?${freshVersion()}`)
    await assert.rejects(module[connect](url), (error) => {
      const message = new RegExp(`^The backend of this URL needs the package ${name}: npm install ${name}$`)
      assert.match((error as Error).message, message)
      return code('unknown_backend')(error)
    })
  })

export const sqlCases = (database: SqlDatabase): void => {
  concurrencyCases(database)
  tableCases(database)
  retryCases(database)
  optionCases(database)
  urlCases(database)
  driverCases(database)
}
