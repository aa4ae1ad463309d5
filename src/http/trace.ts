// What is printed of an error: its stack and its causes, and none of its other properties.

import { messageOf } from '../error.ts'

/** Causes of causes: deeper than any that a reader wants, and an end for those in a circle. */
const DEEPEST = 5

type Printed = { stack?: unknown; code?: unknown; cause?: unknown; errors?: unknown }

const traceOf = (error: unknown, depth: number): string => {
  const { stack, code, cause, errors } = (error ?? {}) as Printed
  const own = typeof stack === 'string' ? stack : messageOf(error)
  const coded = typeof code === 'string' && !own.includes(code) ? `${own}\n    code: ${code}` : own
  const below = [...(Array.isArray(errors) ? errors : []), ...(cause === undefined ? [] : [cause])]
  if (depth === DEEPEST || below.length === 0) return coded
  return [coded, ...below.map((one) => `  caused by: ${traceOf(one, depth + 1).replaceAll('\n', '\n  ')}`)].join('\n')
}

/**
 * What was thrown, in words. `console.error` would print every property too, and drivers keep there the command that
 * failed: its values, and at a login the password.
 */
export const trace = (error: unknown): string => {
  try {
    return traceOf(error, 1)
  } catch {
    return `What was thrown cannot be printed (${typeof error}).`
  }
}
