// The errors of PostgreSQL by their SQLSTATE: undone, refused, or of unknown outcome.

import { isKeepsakeError } from '../../error.ts'
import { property } from './driver.ts'
import { deniedTable, isUnreached, missingTable, OWN_POOL, refusal } from './statement-errors.ts'

const stateOf = (error: unknown): unknown => property(error, 'code')

/** serialization_failure and deadlock_detected: the server undid the statement. */
export const isUndone = (error: unknown): boolean => ['40001', '40P01'].includes(stateOf(error) as string)

/** too_many_connections: of the server, of the database or of the role. */
export const isFull = (error: unknown): boolean => stateOf(error) === '53300'

/** read_only_sql_transaction. */
export const isReadOnly = (error: unknown): boolean => stateOf(error) === '25006'

/** insufficient_privilege. */
const isDenied = (error: unknown): boolean => stateOf(error) === '42501'

/** The role may not create tables, or the server takes no writes. */
export const isForbidden = (error: unknown): boolean => isDenied(error) || isReadOnly(error)

/** undefined_table. */
const NO_TABLE = '42P01'

const TRY_AGAIN = 'Another try may succeed.'

/** Refusals by SQLSTATE or by its class, and the help for each. The statement was not run, or was undone as a whole. */
const REFUSALS: Readonly<Record<string, string>> = {
  25006: 'The server or this role is read-only: connect to the primary.',
  '25P02': `The connection is in a transaction of the application. ${OWN_POOL}`,
  '28': 'Check the user, the password, and pg_hba.conf.',
  '3D000': 'Check the name of the database.',
  '3F000': 'Check the name of the schema.',
  40001: TRY_AGAIN,
  '40P01': TRY_AGAIN,
  '53': 'The server has run out of connections, memory or disk.',
  '57P03': 'The server is starting or stopping.',
  '08001': 'Check that the server is running.',
  '08004': 'Check that the server takes connections of this user.',
}

/** A KeepsakeError for an error that certainly changed nothing. Any other error is returned as it is. */
export const explainError = (table: string, error: unknown): unknown => {
  if (isKeepsakeError(error)) return error
  const state = stateOf(error)
  if (typeof state !== 'string') return error
  if (state === NO_TABLE) return missingTable('PostgreSQL', error, table)
  if (isDenied(error)) return deniedTable('PostgreSQL', error, table, 'role')
  const help = REFUSALS[state] ?? REFUSALS[state.slice(0, 2)]
  return help === undefined && !isUnreached(error) ? error : refusal('PostgreSQL', error, help)
}
