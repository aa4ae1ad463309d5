// The errors of MariaDB and MySQL by their numbers: undone, refused, too large, or of unknown outcome.

import { isKeepsakeError } from '../../error.ts'
import { property } from './driver.ts'
import type { Execute, Value } from './mysql-connection.ts'
import { deniedTable, isUnreached, missingTable, refusal } from './statement-errors.ts'

const numberOf = (error: unknown): number => property(error, 'errno') as number

/** ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK: the server undid the statement. */
export const isUndone = (error: unknown): boolean => [1205, 1213].includes(numberOf(error))

/** ER_DUP_ENTRY: a row with this key exists. */
export const isDuplicate = (error: unknown): boolean => numberOf(error) === 1062

/** ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED. */
export const isFull = (error: unknown): boolean => [1040, 1203, 1226].includes(numberOf(error))

/** ER_OPTION_PREVENTS_STATEMENT, ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION, ER_READ_ONLY_MODE. */
export const isReadOnly = (error: unknown): boolean => [1290, 1792, 1836].includes(numberOf(error))

/** ER_DBACCESS_DENIED_ERROR and ER_TABLEACCESS_DENIED_ERROR. */
const isDenied = (error: unknown): boolean => [1044, 1142].includes(numberOf(error))

/** The account may not create tables, or the server takes no writes. */
export const isForbidden = (error: unknown): boolean => isDenied(error) || isReadOnly(error)

/** ER_NO_SUCH_TABLE. */
const NO_TABLE = 1146

/** ER_NET_PACKET_TOO_LARGE. */
const TOO_LARGE = 1153
/** Bytes. If a connection was lost while fewer were sent, their size was not the reason. */
const LARGE = 65_536

/**
 * Whether the statement was larger than the server takes. The server answers with an error, or closes the connection
 * during the transfer. In the second case this reads the limit of the server and compares.
 */
export const isTooLarge = async (error: unknown, values: readonly Value[], execute: Execute): Promise<boolean> => {
  if (numberOf(error) === TOO_LARGE) return true
  const bytes = values.reduce<number>(
    (sum, one) => sum + (one === null ? 0 : typeof one === 'number' ? 8 : Buffer.byteLength(one)),
    // The rest of the statement has at least these.
    10,
  )
  if (bytes < LARGE || property(error, 'fatal') !== true) return false
  const result = await execute('select @@max_allowed_packet', [], false).catch(() => undefined)
  return bytes >= Number(result?.rows[0]?.[0] ?? Number.POSITIVE_INFINITY)
}

const READ_ONLY = 'The server or this user is read-only: connect to the primary.'
const NOT_ALLOWED = 'Check the user, the password, and the hosts that this user may connect from.'
const TRY_AGAIN = 'Another try may succeed.'

/** Refusals by number, and the help for each. The statement was not run, or was undone as a whole. */
const REFUSALS: Readonly<Record<number, string>> = {
  1040: 'The server takes no more connections.',
  1044: NOT_ALLOWED,
  1045: NOT_ALLOWED,
  1049: 'Check the name of the database.',
  1129: 'The server has blocked this host: see FLUSH HOSTS.',
  1130: NOT_ALLOWED,
  1203: 'This user has as many connections as it may have.',
  1205: TRY_AGAIN,
  1213: TRY_AGAIN,
  1226: 'This user has as many connections as it may have.',
  1290: READ_ONLY,
  1461: 'The server keeps as many prepared statements as it may: see max_prepared_stmt_count.',
  1698: NOT_ALLOWED,
  1792: READ_ONLY,
  1836: READ_ONLY,
}

/** A KeepsakeError for an error that certainly changed nothing. Any other error is returned as it is. */
export const explainError = (table: string, error: unknown): unknown => {
  if (isKeepsakeError(error)) return error
  if (numberOf(error) === NO_TABLE) return missingTable('The database', error, table)
  if (isDenied(error)) return deniedTable('The database', error, table, 'user')
  const help = REFUSALS[numberOf(error)]
  return help === undefined && !isUnreached(error) ? error : refusal('The database', error, help)
}
