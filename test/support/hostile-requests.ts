// Requests whose headers no well-meant runtime would build, and a second reader of cookies to judge the first by.

import { type Backend, type EventType, session, sessionManager } from 'keepsake'
import { labelOf, storageKeys } from '../../src/crypto/keys.ts'
import { workOf } from '../../src/request.ts'
import { formSecret } from '../../src/session/form-secret.ts'
import { PATIENT } from './clock.ts'
import { type Setup, setup } from './visits.ts'

export const NAME = '__Host-Http-sid'
export const PRE = '__Host-Http-sid-pre'

/** A test's own: 32 bytes that look random and guard nothing. */
export const SECRET = 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE'
export const OTHER_SECRET = 'f9Kx2LwQv7RbT1yHn5ZcJm8GdS3aPe6UoV0iXtE4uYg'

/** 43 characters of base64url, the last of which ends on two zero bits. */
export const shaped = (text: string): boolean => /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/.test(text)

const trimmed = (text: string): string => {
  let [start, end] = [0, text.length]
  while (start < end && ' \t'.includes(text.charAt(start))) start++
  while (end > start && ' \t'.includes(text.charAt(end - 1))) end--
  return text.slice(start, end)
}

/** What RFC 6265bis makes of a Cookie header, written the plain way: split at semicolons, then at the first equals sign. */
export const pairsOf = (header: string): [name: string, value: string][] =>
  header.split(';').flatMap((pair): [string, string][] => {
    const equals = pair.indexOf('=')
    if (equals === -1) return []
    const [value = ''] = pair.slice(equals + 1).split(',')
    return [[trimmed(pair.slice(0, equals)), trimmed(value)]]
  })

/** The keys that a Cookie header may be tried for: of this name and shape, all different, at most four. */
export const keysIn = (header: string, name = NAME): string[] => {
  const values = pairsOf(header).flatMap(([found, value]) => (found === name && shaped(value) ? [value] : []))
  return [...new Set(values)].slice(0, 4)
}

/** The one of `live` that a Cookie header opens: none where it has none of them, or two. */
export const openedBy = (header: string, live: ReadonlySet<string>, name = NAME): string | undefined => {
  const [key, ...more] = keysIn(header, name).filter((found) => live.has(found))
  return more.length === 0 ? key : undefined
}

/** A request with this Cookie header to the letter: as an adapter may give it, past whatever `Headers` refuses or mends. */
export const adapted = (cookie: string | undefined, url = 'https://app.test/', more: object = {}): Request => {
  const fields = new Map<string, string>(Object.entries(more))
  if (cookie !== undefined) fields.set('cookie', cookie)
  const headers = { get: (name: string) => fields.get(name.toLowerCase()) ?? null, keys: () => fields.keys() }
  return { method: 'GET', url, headers } as unknown as Request
}

/** The same as a real Request, where the runtime keeps the header as it is. */
export const standard = (cookie: string, url = 'https://app.test/'): Request | undefined => {
  try {
    const request = new Request(url, { headers: { cookie } })
    return request.headers.get('cookie') === cookie ? request : undefined
  } catch {
    return undefined
  }
}

export type Seen = {
  readonly response: Response
  /** The field `who` of the session that was opened. */
  readonly who: string | undefined
  readonly owner: string | undefined
  readonly fields: readonly string[]
  readonly form: string | undefined
}

export type Stage = Setup & {
  /** A session's key, whose field `who` is this name. */
  readonly live: (who: string) => Promise<string>
  /** Answers a request by a handler that reads the session, or asks for its form secret as well. */
  readonly see: (request: Request, form?: 'form') => Promise<Seen>
  /** Where the entry of a key lies. */
  readonly address: (key: string) => string
  /** The events told since the last time this was asked. */
  readonly news: () => EventType[]
}

/** A house whose sessions are made by name and seen through handlers that only look. */
export const stage = async (backend?: Backend): Promise<Stage> => {
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
      form: asked ? formSecret(await workOf(request)) : undefined,
    })
    return new Response('seen')
  })
  let asked = false
  const addressOfLabel = storageKeys('sid')
  return {
    ...h,
    async live(who) {
      const visit = h.visitor()
      await visit((s) => s.set('who', who))
      return visit.browser.cookies.get(NAME) as string
    },
    async see(request, form) {
      asked = form !== undefined
      const response = await page(request)
      return { response, ...(seen.get(request) as Omit<Seen, 'response'>) }
    },
    address: (key) => addressOfLabel(labelOf(key)),
    news: () => h.types.splice(0),
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

/** A text of the file of bad inputs: itself, or spelt as a repetition. */
export const spelt = (value: unknown): string => {
  if (typeof value === 'string') return value
  const { $repeat, times, prefix = '', middle = '', close = '', suffix = '' } = value as Repeat
  return prefix + $repeat.repeat(times) + middle + close.repeat(times) + suffix
}

/**
 * Makes `Object.prototype` and its like unchangeable for this process, so that whatever would change it throws; and says
 * whether they are as they were.
 */
export const guardPrototypes = (): (() => boolean) => {
  const guarded = [Object.prototype, Array.prototype, Function.prototype, String.prototype]
  const names = () => guarded.map((one) => Reflect.ownKeys(one).length).join()
  const before = names()
  Object.freeze(Object.prototype)
  return () => names() === before && !('admin' in {}) && !('x' in {}) && !('y' in {})
}
