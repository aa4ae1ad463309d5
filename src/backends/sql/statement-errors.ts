// Statements that a database undid, refused, or ran in a transaction of the application: retries and errors.

import { KeepsakeError, messageOf } from '../../error.ts'
import { property } from './driver.ts'

/** How often a statement is sent again. */
const RETRIES = 3

/** Sends a statement again, at most three times, if the database undid it because of concurrent statements. */
export const retry = async <T>(attempt: () => Promise<T>, isUndone: (error: unknown) => boolean): Promise<T> => {
  for (let left = RETRIES; ; left--) {
    try {
      return await attempt()
    } catch (error) {
      if (left === 0 || !isUndone(error)) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 30))
  }
}

/**
 * The error for a refusal by the database, or by the network before it, that certainly changed nothing.
 *
 * @param help the last sentence of the message: a remedy
 */
export const refusal = (database: string, error: unknown, help = 'Check that it is running.'): KeepsakeError => {
  const reason = messageOf(error) || String(property(error, 'code'))
  return new KeepsakeError(
    'unavailable',
    `${database} refused: ${reason.replace(/\.?$/, '.')} Nothing was changed. ${help}`,
    { cause: error },
  )
}

/** The table does not exist. */
export const missingTable = (database: string, error: unknown, table: string): KeepsakeError =>
  refusal(database, error, `The table ${table} does not exist: call migrate() once, or run the statements of schema().`)

/** The account may not create or use the table. @param account the word of the database for an account */
export const deniedTable = (database: string, error: unknown, table: string, account: 'user' | 'role'): KeepsakeError =>
  refusal(
    database,
    error,
    `This ${account} may not create or use the table ${table}: run the statements of schema() as a ${account} that may, and grant this ${account} select, insert, update and delete.`,
  )

/** Whether an error means that the driver did not reach the server. */
export const isUnreached = (error: unknown): boolean =>
  ['connect', 'getaddrinfo'].includes(property(error, 'syscall') as string)

export const OWN_POOL = 'Give keepsake a pool of its own.'

/** The connection is in a transaction of the application, and the statement changed nothing. */
export const inTransaction = (): KeepsakeError =>
  new KeepsakeError(
    'unavailable',
    `The connection is in a transaction of the application, and a rollback would undo changes to sessions. Nothing was changed. ${OWN_POOL}`,
  )

/** The statement ran in a transaction of the application, which is still open, so its outcome is unknown. */
export const undecided = (): Error =>
  new Error(`The statement ran in a transaction of the application, and a rollback may undo it. ${OWN_POOL}`)
