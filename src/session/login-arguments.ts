// Checks the arguments of `login`: the owner, and the options of its session.

import { KeepsakeError } from '../error.ts'
import type { ManagerContext } from './context.ts'
import type { LoginSettings } from './metadata.ts'

/** The names of the fields that the new session keeps. @throws KeepsakeError `invalid_option` */
export const checkKeep = (keep: unknown): readonly string[] => {
  if (Array.isArray(keep)) return keep
  const message = `The option keep of login() was a value of type ${typeof keep}. It must be an array of field names.`
  throw new KeepsakeError('invalid_option', message)
}

/** An option of `login` in seconds, converted to milliseconds. @throws KeepsakeError `invalid_option` */
const toMilliseconds = (name: string, seconds: unknown, max: number): number | undefined => {
  if (seconds === undefined) return undefined
  if (typeof seconds === 'number' && seconds >= 0.001 && seconds * 1000 <= max) return Math.ceil(seconds * 1000)
  const value = typeof seconds === 'number' ? seconds : `a value of type ${typeof seconds}`
  throw new KeepsakeError(
    'invalid_option',
    `The option ${name} of login() was ${value}. It must be a number of seconds from 0.001 to ${max / 1000} (absoluteTimeout).`,
  )
}

/** The options of a login that apply to its session alone. @throws KeepsakeError `invalid_option` */
export const checkLoginSettings = (
  context: ManagerContext,
  options: { readonly [name in keyof LoginSettings]: unknown },
): LoginSettings | undefined => {
  const { persistent } = options
  if (persistent !== undefined && typeof persistent !== 'boolean') {
    const message = `The option persistent of login() was a value of type ${typeof persistent}. It must be true or false.`
    throw new KeepsakeError('invalid_option', message)
  }
  const absoluteTimeout = toMilliseconds('absoluteTimeout', options.absoluteTimeout, context.absoluteTimeout)
  const idleTimeout = toMilliseconds('idleTimeout', options.idleTimeout, absoluteTimeout ?? context.absoluteTimeout)
  if (idleTimeout === undefined && absoluteTimeout === undefined && persistent === undefined) return undefined
  return { idleTimeout, absoluteTimeout, persistent }
}

/** The name of an account. @throws KeepsakeError `invalid_owner` */
export const checkOwner = (owner: unknown): string => {
  const isText = typeof owner === 'string'
  if (isText && owner !== '' && owner.length <= 255 && owner.isWellFormed() && !owner.includes('\0')) return owner
  throw new KeepsakeError(
    'invalid_owner',
    `login() was given an owner that cannot name an account: ${isText ? `a string of ${owner.length} characters` : `a value of type ${typeof owner}`}. An owner must be a string of 1 to 255 characters, without a NUL character or an unpaired surrogate.`,
  )
}
