// Checks the options that most adapters have.

import { inspect } from 'node:util'
import { checkOptionNames, KeepsakeError } from '../error.ts'

/** The option `load` of an adapter that has no other option. @throws KeepsakeError `invalid_option` */
export const checkLoad = (options: { readonly load?: unknown }, caller: string): boolean => {
  checkOptionNames(options, ['load'], caller)
  const { load = false } = options
  if (typeof load === 'boolean') return load
  throw new KeepsakeError(
    'invalid_option',
    `The option load of ${caller} is ${inspect(load)}. It must be true or false.`,
  )
}
