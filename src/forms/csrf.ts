// Tokens that only a page of ours can have got for this visitor: stateless, other at each rendering, an hour good.

import { randomBuffer } from '../crypto/random.ts'
import { checkOptionNames, KeepsakeError, type Result } from '../error.ts'
import { workOf } from '../request.ts'
import type { ManagerContext } from '../session/context.ts'
import { acceptedSecrets, formSecret, lacksOrigin, rememberToken } from '../session/form-secret.ts'
import type { UnitOfWork } from '../session/work.ts'

export type TokenOptions = {
  /** Seconds that the token is good. Default an hour. */
  readonly validFor?: number | undefined
  /** What the token is for, such as `delete account`: it is good for nothing else. Default none. */
  readonly action?: string | undefined
}

/** The field of a form, and the header of a script's request, that carry the token. */
export const TOKEN_FIELD = '_csrf'
export const TOKEN_HEADER = 'x-csrf-token'

/*
 * version(1) · expiry(6) · nonce(16) · binding(16) · mac(24), 84 characters of base64url.
 * The binding is an HMAC of the nonce and the form secret: it tells a token of another session from one that nobody
 * made, and is new each time, so that a compressed page does not leak it (BREACH). The MAC covers all before it, the
 * namespace and the action.
 */
const VERSION = 1
const NONCE = 7
const BINDING = 23
const MAC = 39
const LENGTH = 63
const CHARACTERS = 84
const LONGEST = 400 * 86_400

const bound = (nonce: Uint8Array, secret: string): Buffer =>
  Buffer.concat([Buffer.from('keepsake/1 form binding\0'), nonce, Buffer.from(secret)])

const covered = (token: Uint8Array, namespace: string, action: string): Buffer =>
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
  token.set(keyRing.sign(bound(nonce, secret)).subarray(0, MAC - BINDING), BINDING)
  token.set(keyRing.sign(covered(token, namespace, action)).subarray(0, LENGTH - MAC), MAC)
  return token.toString('base64url')
}

/** Names a token, to whoever has it: a part of its nonce. */
const nameOf = (token: unknown): string => (typeof token === 'string' ? token.slice(12, 20) : '')

/** When a token expires that is good for one of these secrets and the action, in milliseconds since 1970; or why it is not. */
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
  if (!keyRing.signed(covered(bytes, namespace, action), bytes.subarray(MAC))) return invalid
  const nonce = bytes.subarray(NONCE, BINDING)
  const binding = bytes.subarray(BINDING, MAC)
  if (!secrets.some((secret) => keyRing.signed(bound(nonce, secret), binding)))
    return { ok: false, error: 'wrong_session' }
  return { ok: true, value: bytes.readUIntBE(1, 6) }
}

const actionOf = (options: TokenOptions, where = 'csrfToken()'): string => {
  checkOptionNames(options, where === 'csrfToken()' ? ['validFor', 'action'] : ['action'], where)
  const { action = '' } = options
  if (typeof action === 'string') return action
  throw new KeepsakeError('invalid_option', 'The action of a form token has to be a string.')
}

/**
 * Whether a token was taken. `wrong_session`: from a page that another visitor got, or before a login or logout; or, where
 * others can plant the cookies of a visitor without a session, from a page that does not show that it is yours. Times are
 * in milliseconds since 1970.
 */
export type CsrfResult =
  | { readonly ok: true }
  | { readonly ok: false; readonly error: 'expired'; readonly expiredAt: number }
  | { readonly ok: false; readonly error: 'wrong_session' | 'invalid_token' }

/** Whether the token of a request is this visitor's. Whatever it is, an array or a novel, the answer is a value. */
export const verifyToken = (
  work: UnitOfWork,
  request: Request,
  token: unknown,
  options: Pick<TokenOptions, 'action'> = {},
): CsrfResult => {
  const { context } = work
  const outcome = checkToken(
    context,
    acceptedSecrets(work, request, nameOf(token)),
    actionOf(options, 'verifyCsrfToken()'),
    token,
  )
  if (!outcome.ok) return outcome
  return context.now() < outcome.value ? { ok: true } : { ok: false, error: 'expired', expiredAt: outcome.value }
}

const tooLittle =
  'wrong_session: the visitor has no session, others can plant his cookies (cookie.domain, cookie.path, no TLS), and the request shows neither by Sec-Fetch-Site nor by Origin that it comes from a page of yours.'

/** Says that a form or a script was refused, and never with what. */
export const reportRejected = (work: UnitOfWork, request: Request, outcome: string): void => {
  const { context, snapshot } = work
  const message = outcome === 'wrong_session' && lacksOrigin(work, request) ? tooLittle : outcome
  context.emit('form_rejected', { ...(snapshot && { label: snapshot.label }), message })
}

/**
 * A token for a form, or for a script to send in the header `X-CSRF-Token`. It is bound to the visitor's session, or to
 * a sealed cookie that this response sends where he has none; it dies at login and logout and survives renewals. It may
 * be used more than once. A response that was asked for one is not kept by shared caches.
 *
 * @throws KeepsakeError `invalid_option`, and as `session`
 */
export const csrfToken = async (request: Request, options: TokenOptions = {}): Promise<string> => {
  const { validFor = 3600 } = options
  if (typeof validFor !== 'number' || !(validFor > 0 && validFor <= LONGEST)) {
    throw new KeepsakeError(
      'invalid_option',
      `validFor has to be a number of seconds, more than 0 and at most ${LONGEST}.`,
    )
  }
  const action = actionOf(options)
  const work = await workOf(request)
  work.privateResponse = true
  const token = createToken(work.context, formSecret(work), action, Math.ceil(work.context.now() + validFor * 1000))
  rememberToken(work, nameOf(token))
  return token
}

/** The name and the value of a form's hidden field, for JSX and templates. @throws as `csrfToken` */
export const csrfField = async (
  request: Request,
  options: TokenOptions = {},
): Promise<{ readonly name: string; readonly value: string }> => ({
  name: TOKEN_FIELD,
  value: await csrfToken(request, options),
})

/** The hidden field as HTML. Put it right behind `<form>`: an upload is read only once its token was seen. @throws as `csrfToken` */
export const csrfTag = async (request: Request, options: TokenOptions = {}): Promise<string> =>
  `<input name="${TOKEN_FIELD}" type="hidden" value="${await csrfToken(request, options)}">`

/**
 * Whether a token is one that a page of ours got for this visitor, for whoever reads his bodies himself, such as JSON.
 * Answer 403 where it is not; the event is `form_rejected`.
 *
 * @param token default: the header `X-CSRF-Token`
 * @throws KeepsakeError `invalid_option`, and as `session`
 */
export const verifyCsrfToken = async (
  request: Request,
  token: unknown = request.headers.get(TOKEN_HEADER),
  options: Pick<TokenOptions, 'action'> = {},
): Promise<CsrfResult> => {
  const work = await workOf(request)
  const outcome = verifyToken(work, request, token, options)
  if (!outcome.ok) reportRejected(work, request, outcome.error)
  return outcome
}
