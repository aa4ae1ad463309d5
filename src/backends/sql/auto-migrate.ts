// A backend that creates its table before its first use.

import { property } from './driver.ts'
import type { SqlBackend } from './table.ts'

/** A storage key that no session has: it names no namespace. */
const NO_SESSION = 'migrated'

/**
 * A backend that creates its table before its first use, and does not connect before. If the account may not create
 * tables, a table that exists already is used.
 *
 * @param isForbidden whether an error of the driver means that this account may not create tables
 * @param end closes the connections
 */
export const withAutoMigrate = (
  backend: SqlBackend,
  isForbidden: (error: unknown) => boolean,
  end: () => Promise<unknown>,
): SqlBackend => {
  let isMigrated = false
  let migrating: Promise<void> | undefined
  let ending: Promise<unknown> | undefined

  const migrate = async () => {
    try {
      await backend.migrate()
    } catch (error) {
      if (!isForbidden(property(error, 'cause'))) throw error
      const read = async () => backend.get(NO_SESSION)
      await read().catch(() => {
        throw error
      })
    }
    isMigrated = true
  }
  /** Migrates once for all calls that come in the meantime. After a failure, the next call migrates again. */
  const migrateOnce = (): Promise<void> => {
    migrating ??= migrate().finally(() => {
      migrating = undefined
    })
    return migrating
  }
  const afterMigration =
    <A extends unknown[], R>(call: (...args: A) => R) =>
    (...args: A): R | Promise<Awaited<R>> =>
      isMigrated ? call(...args) : migrateOnce().then(() => call(...args) as Awaited<R>)

  const { sweep, scan, byOwner } = backend
  return {
    ...backend,
    get: afterMigration(backend.get),
    generate: afterMigration(backend.generate),
    set: afterMigration(backend.set),
    clear: afterMigration(backend.clear),
    touch: afterMigration(backend.touch),
    ...(sweep && { sweep: afterMigration(sweep) }),
    ...(scan && { scan: afterMigration(scan) }),
    ...(byOwner && { byOwner: { list: afterMigration(byOwner.list), clear: afterMigration(byOwner.clear) } }),
    async close() {
      ending ??= end()
      await ending
    },
  }
}
