// The session cookie of a manager: the same for all requests, or chosen for each request.

import { inspect } from 'node:util'
import { checkOptionNames, checkSynchronous, KeepsakeError } from '../error.ts'
import type { CookieAttributes } from './cookie.ts'
import { type CookieOptions, type CookieSettings, cookieSettingsFor, type TransportOptions } from './cookie-names.ts'
import type { IncomingRequest } from './request-head.ts'

export type SessionCookie = {
  /** Without a prefix. */
  readonly name: string
  readonly settingsFor: (request: IncomingRequest) => CookieSettings
  /** The attributes that make a browser withhold the cookie from some requests. */
  readonly placed: Pick<CookieAttributes, 'path' | 'sameSite'>
}

const optionNames = [
  'name',
  'domain',
  'path',
  'sameSite',
  'partitioned',
  'priority',
] as const satisfies readonly (keyof CookieOptions)[]

/** How the cookies of all requests are sent. */
type Transport = Omit<TransportOptions, 'cookie'>

/** @throws KeepsakeError `invalid_option` */
const cookieWith = ({ secure, trustProxy }: Transport, cookie: CookieOptions): SessionCookie => {
  checkOptionNames(cookie, optionNames, 'cookie')
  const { name = 'sid', path, sameSite } = cookie
  return {
    name,
    settingsFor: cookieSettingsFor({ secure, trustProxy, cookie }),
    placed: { ...(path !== undefined && { path }), ...(sameSite !== undefined && { sameSite }) },
  }
}

/** The options as a text, which is equal for equal options. Undefined if they are not valid. */
const idOf = (cookie: CookieOptions): string | undefined => {
  const values: unknown[] = []
  for (const name of optionNames) {
    const value: unknown = cookie[name]
    if (value !== undefined && typeof value !== 'string' && typeof value !== 'boolean') return undefined
    // A number is no valid option, so 0 can stand for an option that is absent.
    values.push(value ?? 0)
  }
  return JSON.stringify(values)
}

/** The most cookies that are kept. A function that returns more of them costs a new check for each, and no more memory. */
const MAX_COOKIES = 1_000

/** The session cookies that the function returns. Each is checked once, and found by its options after that. */
const cookieByRequest = (
  transport: Transport,
  cookieOf: (request: IncomingRequest) => CookieOptions,
): ((request: IncomingRequest) => SessionCookie) => {
  const cookies = new Map<string, SessionCookie>()
  return (request) => {
    const returned: unknown = checkSynchronous('cookie', cookieOf(request))
    if (typeof returned !== 'object' || returned === null) {
      throw new KeepsakeError(
        'invalid_option',
        `The function in the option cookie returned ${inspect(returned)}. It must return an object, such as { name: 'sid' }.`,
      )
    }
    // A copy, because the application may change its object at any time.
    const cookie: CookieOptions = { ...returned }
    checkOptionNames(cookie, optionNames, 'cookie')
    const id = idOf(cookie)
    const known = id === undefined ? undefined : cookies.get(id)
    if (known !== undefined) return known
    const checked = cookieWith(transport, cookie)
    if (cookies.size >= MAX_COOKIES) cookies.clear()
    if (id !== undefined) cookies.set(id, checked)
    return checked
  }
}

/** The session cookie by the options of a manager. @throws KeepsakeError `invalid_option` */
export const sessionCookie = ({
  cookie = {},
  ...transport
}: TransportOptions): SessionCookie | ((request: IncomingRequest) => SessionCookie) => {
  if (typeof cookie !== 'function') return cookieWith(transport, cookie)
  // Checks the options `secure` and `trustProxy` now, and not at the first request.
  cookieWith(transport, {})
  return cookieByRequest(transport, cookie)
}
