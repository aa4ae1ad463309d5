// Checks the options that several adapters have.

import { inspect } from 'node:util'
import { KeepsakeError } from '../error.ts'

/** @throws KeepsakeError `invalid_option` */
export const checkBoolean = (option: string, value: unknown, caller: string): boolean => {
  if (typeof value === 'boolean') return value
  throw new KeepsakeError(
    'invalid_option',
    `The option ${option} of ${caller} is ${inspect(value)}. It must be true or false.`,
  )
}
