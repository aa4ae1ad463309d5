// Requests with headers that no ordinary runtime builds, and a second cookie parser to compare the first one with.

import { type Backend, type EventType, session, sessionManager } from 'keepsake'
import { labelOf, storageKeys } from '../../src/crypto/keys.ts'
import { workOf } from '../../src/request.ts'
import { formSecret } from '../../src/session/form-secret.ts'
import { PATIENT } from './clock.ts'
import { type Setup, setup } from './visits.ts'

export const NAME = '__Host-Http-sid'
export const PRE = '__Host-Http-sid-pre'

/** For tests only: 32 bytes that look random and protect nothing. */
export const SECRET = 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE'
export const OTHER_SECRET = 'f9Kx2LwQv7RbT1yHn5ZcJm8GdS3aPe6UoV0iXtE4uYg'

/** 43 characters of base64url. The last character ends in two zero bits. */
export const isKeyText = (text: string): boolean => /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/.test(text)

const trimmed = (text: string): string => {
  let [start, end] = [0, text.length]
  while (start < end && ' \t'.includes(text.charAt(start))) start++
  while (end > start && ' \t'.includes(text.charAt(end - 1))) end--
  return text.slice(start, end)
}

/** The pairs of a Cookie header by RFC 6265bis, in the simplest way: split at semicolons, then at the first equals sign. */
export const pairsOf = (header: string): [name: string, value: string][] =>
  header.split(';').flatMap((pair): [string, string][] => {
    const equals = pair.indexOf('=')
    if (equals === -1) return []
    const [value = ''] = pair.slice(equals + 1).split(',')
    return [[trimmed(pair.slice(0, equals)), trimmed(value)]]
  })

/** The keys in a Cookie header that keepsake may try: with this name and in the form of a key, all different, at most four. */
export const keysIn = (header: string, name = NAME): string[] => {
  const values = pairsOf(header).flatMap(([found, value]) => (found === name && isKeyText(value) ? [value] : []))
  return [...new Set(values)].slice(0, 4)
}

/** The key of `live` that a Cookie header opens: undefined if the header has none of them, or two. */
export const openedBy = (header: string, live: ReadonlySet<string>, name = NAME): string | undefined => {
  const [key, ...more] = keysIn(header, name).filter((found) => live.has(found))
  return more.length === 0 ? key : undefined
}

/** A request with exactly this Cookie header, as an adapter may pass it: without the checks and corrections of `Headers`. */
export const rawRequest = (cookie: string | undefined, url = 'https://app.test/', more: object = {}): Request => {
  const fields = new Map<string, string>(Object.entries(more))
  if (cookie !== undefined) fields.set('cookie', cookie)
  const headers = { get: (name: string) => fields.get(name.toLowerCase()) ?? null, keys: () => fields.keys() }
  return { method: 'GET', url, headers } as unknown as Request
}

/** The same as a real Request. undefined if the runtime refuses or changes the header. */
export const realRequest = (cookie: string, url = 'https://app.test/'): Request | undefined => {
  try {
    const request = new Request(url, { headers: { cookie } })
    return request.headers.get('cookie') === cookie ? request : undefined
  } catch {
    return undefined
  }
}

export type Seen = {
  readonly response: Response
  /** The field `who` of the opened session. */
  readonly who: string | undefined
  readonly owner: string | undefined
  readonly fields: readonly string[]
  readonly form: string | undefined
}

export type Site = Setup & {
  /** Creates a session with this name in the field `who`. Returns its key. */
  readonly createSession: (who: string) => Promise<string>
  /** Sends a request to a handler that reads the session, and with `form` also its form secret. */
  readonly send: (request: Request, form?: 'form') => Promise<Seen>
  /** The storage key of a session key. */
  readonly storageKey: (key: string) => string
  /** The types of the events since the last call of this function. */
  readonly newEvents: () => EventType[]
}

/** Starts a manager whose sessions are created by name, with a handler that only reads. */
export const startSite = async (backend?: Backend): Promise<Site> => {
  const h = await setup({ secret: SECRET, ...(backend && { backend }) })
  const seen = new WeakMap<Request, Omit<Seen, 'response'>>()
  const page = sessionManager({
    backend: h.backend,
    storeTimeout: PATIENT,
    secret: SECRET,
    now: h.now,
    onEvent: (event) => {
      h.types.push(event.type)
      h.events.push(event)
    },
  })(async (request) => {
    const s = await session(request)
    seen.set(request, {
      who: s.get('who'),
      owner: s.owner,
      fields: Object.keys(s.fields).sort(),
      form: readsForm ? formSecret(await workOf(request)) : undefined,
    })
    return new Response('seen')
  })
  let readsForm = false
  const storageKeyOf = storageKeys('sid')
  return {
    ...h,
    async createSession(who) {
      const visit = h.visitor()
      await visit((s) => s.set('who', who))
      return visit.browser.cookies.get(NAME) as string
    },
    async send(request, form) {
      readsForm = form !== undefined
      const response = await page(request)
      return { response, ...(seen.get(request) as Omit<Seen, 'response'>) }
    },
    storageKey: (key) => storageKeyOf(labelOf(key)),
    newEvents: () => h.types.splice(0),
  }
}

type Repeat = {
  readonly $repeat: string
  readonly times: number
  readonly prefix?: string
  readonly middle?: string
  readonly close?: string
  readonly suffix?: string
}

/** A text of the file of bad inputs, which may be written as a repetition. */
export const expand = (value: unknown): string => {
  if (typeof value === 'string') return value
  const { $repeat, times, prefix = '', middle = '', close = '', suffix = '' } = value as Repeat
  return prefix + $repeat.repeat(times) + middle + close.repeat(times) + suffix
}

/**
 * Freezes `Object.prototype` for this process, so that code that changes it throws. Returns a function that checks whether
 * the built-in prototypes are unchanged.
 */
export const guardPrototypes = (): (() => boolean) => {
  const guarded = [Object.prototype, Array.prototype, Function.prototype, String.prototype]
  const names = () => guarded.map((one) => Reflect.ownKeys(one).length).join()
  const before = names()
  Object.freeze(Object.prototype)
  return () => names() === before && !('admin' in {}) && !('x' in {}) && !('y' in {})
}
