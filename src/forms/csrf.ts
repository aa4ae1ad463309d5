// CSRF tokens bound to the visitor's session: stateless, different on every render, valid for one hour.

import { inspect } from 'node:util'
import { randomBuffer } from '../crypto/random.ts'
import { checkOptionNames, KeepsakeError, type Result } from '../error.ts'
import { workOf } from '../request.ts'
import type { RequestLike } from '../request-context.ts'
import type { ManagerContext } from '../session/context.ts'
import { acceptedSecrets, formSecret, lacksOrigin, rememberToken } from '../session/form-secret.ts'
import type { UnitOfWork } from '../session/work.ts'

export type TokenOptions = {
  /** Seconds that the token is valid. Default 3600, an hour. At most 400 days. */
  readonly validFor?: number | undefined
  /** The purpose of the token, such as `delete account`. It is valid only with the same action. Default: none. */
  readonly action?: string | undefined
}

/** The field of a form that contains the token. */
export const TOKEN_FIELD = '_csrf'
/** The header of a script's request that contains the token. */
export const TOKEN_HEADER = 'x-csrf-token'

/*
 * version(1) · expiry(6) · nonce(16) · binding(16) · mac(24), 84 characters of base64url.
 * The binding is an HMAC of the nonce and the form secret. It distinguishes the token of another session from an
 * invented one, and is different on every render, so that a compressed page does not leak it (BREACH). The MAC covers
 * all bytes before it, the namespace and the action.
 */
const VERSION = 1
const NONCE = 7
const BINDING = 23
const MAC = 39
const LENGTH = 63
const CHARACTERS = 84
/** The longest validity, in seconds: 400 days. */
const MAX_VALID_FOR = 400 * 86_400

const bindingInput = (nonce: Uint8Array, secret: string): Buffer =>
  Buffer.concat([Buffer.from('keepsake/1 form binding\0'), nonce, Buffer.from(secret)])

const macInput = (token: Uint8Array, namespace: string, action: string): Buffer =>
  Buffer.concat([
    Buffer.from('keepsake/1 form token\0'),
    token.subarray(0, MAC),
    Buffer.from(JSON.stringify([namespace, action])),
  ])

const createToken = (
  { keyRing, namespace }: ManagerContext,
  secret: string,
  action: string,
  expiresAt: number,
): string => {
  const token = Buffer.alloc(LENGTH)
  token.writeUInt8(VERSION)
  token.writeUIntBE(expiresAt, 1, 6)
  const nonce = randomBuffer(BINDING - NONCE)
  token.set(nonce, NONCE)
  token.set(keyRing.sign(bindingInput(nonce, secret)).subarray(0, MAC - BINDING), BINDING)
  token.set(keyRing.sign(macInput(token, namespace, action)).subarray(0, LENGTH - MAC), MAC)
  return token.toString('base64url')
}

/** The name of a token: a part of its nonce. */
const nameOf = (token: unknown): string => (typeof token === 'string' ? token.slice(12, 20) : '')

/**
 * The time when a token expires, in milliseconds since 1970, or the reason why no secret and this action make it valid.
 */
const checkToken = (
  { keyRing, namespace }: ManagerContext,
  secrets: readonly string[],
  action: string,
  token: unknown,
): Result<number, 'wrong_session' | 'invalid_token'> => {
  const invalid = { ok: false, error: 'invalid_token' } as const
  if (typeof token !== 'string' || token.length !== CHARACTERS) return invalid
  const bytes = Buffer.from(token, 'base64url')
  if (bytes.length !== LENGTH || bytes.toString('base64url') !== token || bytes[0] !== VERSION) return invalid
  if (!keyRing.verify(macInput(bytes, namespace, action), bytes.subarray(MAC))) return invalid
  const nonce = bytes.subarray(NONCE, BINDING)
  const binding = bytes.subarray(BINDING, MAC)
  if (!secrets.some((secret) => keyRing.verify(bindingInput(nonce, secret), binding)))
    return { ok: false, error: 'wrong_session' }
  return { ok: true, value: bytes.readUIntBE(1, 6) }
}

const actionOf = (options: TokenOptions, caller = 'csrfToken()'): string => {
  checkOptionNames(options, caller === 'csrfToken()' ? ['validFor', 'action'] : ['action'], caller)
  const { action = '' } = options
  if (typeof action === 'string') return action
  throw new KeepsakeError('invalid_option', `The option action is ${inspect(action)}. It must be a string.`)
}

/**
 * Whether a token is valid. `wrong_session`: the token is from the page of another visitor, or from before a login or a
 * logout. If others can plant the cookies of anonymous visitors, it is also the result for a request that does not show
 * that it is from your page. `invalid_token`: the text is no token of this application and action. `expiredAt` is in
 * milliseconds since 1970.
 */
export type CsrfResult =
  | { readonly ok: true }
  | { readonly ok: false; readonly error: 'expired'; readonly expiredAt: number }
  | { readonly ok: false; readonly error: 'wrong_session' | 'invalid_token' }

/** Checks the token of a request. It returns a result for every value, also for one that is no string. */
export const verifyToken = (
  work: UnitOfWork,
  token: unknown,
  options: Pick<TokenOptions, 'action'> = {},
): CsrfResult => {
  const { context } = work
  const action = actionOf(options, 'verifyCsrfToken()')
  const outcome = checkToken(context, acceptedSecrets(work, nameOf(token)), action, token)
  if (!outcome.ok) return outcome
  return context.now() < outcome.value ? { ok: true } : { ok: false, error: 'expired', expiredAt: outcome.value }
}

const LACKS_ORIGIN =
  'wrong_session: the visitor is anonymous, others can plant their cookies (because of cookie.domain, cookie.path or no TLS), and neither Sec-Fetch-Site nor Origin shows that your own page sent the request.'

/** Emits `form_rejected`. The message never contains the token. */
export const reportRejected = (work: UnitOfWork, outcome: string): void => {
  const { context, snapshot } = work
  const message = outcome === 'wrong_session' && lacksOrigin(work) ? LACKS_ORIGIN : outcome
  context.emit('form_rejected', { ...(snapshot && { label: snapshot.label }), message })
}

/**
 * A token for a form, or for a script that sends it in the header `X-CSRF-Token`. It is bound to the visitor's session.
 * If the visitor is anonymous, it is bound to a sealed cookie that this response sets. It ends at a login or a logout,
 * and survives rotations. It may be used more than once. Shared caches do not keep the response.
 *
 * @param target the request inside a middleware, or outside of one the session that `manager.open` returned
 * @throws KeepsakeError `invalid_option`, and as `session`
 */
export const csrfToken = async (target: RequestLike, options: TokenOptions = {}): Promise<string> => {
  const { validFor = 3600 } = options
  if (typeof validFor !== 'number' || !(validFor > 0 && validFor <= MAX_VALID_FOR)) {
    throw new KeepsakeError(
      'invalid_option',
      `The option validFor is ${inspect(validFor)}. It must be a number of seconds, more than 0 and at most ${MAX_VALID_FOR}.`,
    )
  }
  const action = actionOf(options)
  const work = await workOf(target)
  work.privateResponse = true
  const token = createToken(work.context, formSecret(work), action, Math.ceil(work.context.now() + validFor * 1000))
  rememberToken(work, nameOf(token))
  return token
}

/** The name and the value of a form's hidden field, for JSX and templates. @throws as `csrfToken` */
export const csrfField = async (
  target: RequestLike,
  options: TokenOptions = {},
): Promise<{ readonly name: string; readonly value: string }> => ({
  name: TOKEN_FIELD,
  value: await csrfToken(target, options),
})

/**
 * The hidden field as HTML. Put it directly after `<form>`, because uploads before the token are not read.
 *
 * @throws as `csrfToken`
 */
export const csrfTag = async (target: RequestLike, options: TokenOptions = {}): Promise<string> =>
  `<input name="${TOKEN_FIELD}" type="hidden" value="${await csrfToken(target, options)}">`

/**
 * Checks a token for a handler that reads the body itself, such as JSON. If the result is not `ok`, answer 403. The
 * event is `form_rejected`.
 *
 * @param target as for `csrfToken`
 * @param token default: the header `X-CSRF-Token`
 * @throws KeepsakeError `invalid_option`, and as `session`
 */
export const verifyCsrfToken = async (
  target: RequestLike,
  token?: unknown,
  options: Pick<TokenOptions, 'action'> = {},
): Promise<CsrfResult> => {
  const work = await workOf(target)
  const outcome = verifyToken(work, token === undefined ? work.request.headers.get(TOKEN_HEADER) : token, options)
  if (!outcome.ok) reportRejected(work, outcome.error)
  return outcome
}
