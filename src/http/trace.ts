// Prints an error: its stack, its code and its causes, but none of its other properties.

import { messageOf } from '../error.ts'

/** The most levels of causes that are printed. Causes may be circular. */
const MAX_DEPTH = 5

type ErrorParts = { stack?: unknown; code?: unknown; cause?: unknown; errors?: unknown }

const traceOf = (error: unknown, depth: number): string => {
  const { stack, code, cause, errors } = (error ?? {}) as ErrorParts
  const own = typeof stack === 'string' ? stack : messageOf(error)
  const coded = typeof code === 'string' && !own.includes(code) ? `${own}\n    code: ${code}` : own
  const causes = [...(Array.isArray(errors) ? errors : []), ...(cause === undefined ? [] : [cause])]
  if (depth === MAX_DEPTH || causes.length === 0) return coded
  return [coded, ...causes.map((inner) => `  caused by: ${traceOf(inner, depth + 1).replaceAll('\n', '\n  ')}`)].join(
    '\n',
  )
}

/**
 * The text to print for a thrown value. `console.error` would print every property too, and drivers keep the failed
 * command there, with its values: for a login, the password.
 */
export const trace = (error: unknown): string => {
  try {
    return traceOf(error, 1)
  } catch {
    return `An error was thrown that cannot be printed (${typeof error}).`
  }
}
