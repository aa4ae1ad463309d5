// Sessions in the shape that `createSessionStorage` of React Router has, for applications that are written for it.

import { KeepsakeError } from '../../error.ts'
import type { SessionManager } from '../../manager.ts'
import type { OpenSession } from '../../open-session.ts'
import { frameworkError } from '../framework-error.ts'
import { withStatusText } from './error-status.ts'

/** The fields of a session by their names. A message that `flash` set has the name `__flash_name__`. */
type Stored<Data, FlashData> = Partial<
  Data & { [Name in keyof FlashData as `__flash_${Name & string}__`]: FlashData[Name] }
>

/** The type Session of React Router. */
export type ReactRouterSession<Data, FlashData = Data> = {
  /** The label of the session, which opens nothing. */
  readonly id: string
  readonly data: Stored<Data, FlashData>
  has(name: (keyof Data | keyof FlashData) & string): boolean
  get<Name extends (keyof Data | keyof FlashData) & string>(
    name: Name,
  ):
    | (Name extends keyof Data ? Data[Name] : undefined)
    | (Name extends keyof FlashData ? FlashData[Name] : undefined)
    | undefined
  set<Name extends keyof Data & string>(name: Name, value: Data[Name]): void
  /** Sets a value that the next `get` of the name removes. */
  flash<Name extends keyof FlashData & string>(name: Name, value: FlashData[Name]): void
  unset(name: keyof Data & string): void
}

/** The type SessionStorage of React Router. */
export type ReactRouterStorage<Data, FlashData = Data> = {
  /** The session of a Cookie header, or a new one. @throws KeepsakeError `unavailable` */
  getSession(cookieHeader?: string | null): Promise<ReactRouterSession<Data, FlashData>>
  /**
   * Saves the changes of a session.
   *
   * @returns the Set-Cookie value, which is empty if the browser keeps the cookie that it has
   * @throws KeepsakeError `ended`, `conflict` or `withheld` with the status 409; `unavailable` and all other errors of `commit`;
   *   `too_late` for a session of another storage
   */
  commitSession(session: ReactRouterSession<Data, FlashData>, options?: object): Promise<string>
  /** Ends a session. @returns the Set-Cookie value that deletes the cookie @throws as `commitSession` */
  destroySession(session: ReactRouterSession<Data, FlashData>, options?: object): Promise<string>
}

export type SessionStorageOptions = {
  /**
   * The address of the application, such as `http://localhost:3000`. Over plain HTTP the cookie has another name. Default: an
   * address over TLS.
   */
  readonly url?: string | undefined
}

const flashName = (name: string): string => `__flash_${name}__`

/** A session with the methods of React Router's. */
class StoredSession {
  readonly #session: OpenSession
  /** The Set-Cookie value, from the first commit on. */
  #committed: Promise<string> | undefined

  constructor(session: OpenSession) {
    this.#session = session
  }

  get id(): string {
    return this.#session.label
  }

  get data(): Readonly<Record<string, unknown>> {
    return this.#session.fields
  }

  has(name: string): boolean {
    return this.#session.get(name) !== undefined || this.#session.get(flashName(name)) !== undefined
  }

  get(name: string): unknown {
    const value = this.#session.get(name)
    if (value !== undefined) return value
    const message = this.#session.get(flashName(name))
    if (message !== undefined) this.#session.delete(flashName(name))
    return message
  }

  set(name: string, value: unknown): void {
    this.#session.set(name, value)
  }

  flash(name: string, value: unknown): void {
    this.#session.set(flashName(name), value)
  }

  unset(name: string): void {
    this.#session.delete(name)
  }

  end(): void {
    if (this.#committed === undefined) this.#session.invalidate()
  }

  commit(): Promise<string> {
    this.#committed ??= this.#commit()
    return this.#committed
  }

  async #commit(): Promise<string> {
    const result = await this.#session.commit()
    const lines = result.headers?.getSetCookie() ?? []
    // React Router has room for one header field. Without the second one, the browser keeps its pre-session.
    const [line = ''] = lines
    if (result.ok) return line
    throw withStatusText(frameworkError({ failure: result.error, cookies: lines }))
  }
}

const storedSession = (session: unknown): StoredSession => {
  if (session instanceof StoredSession) return session
  throw new KeepsakeError(
    'invalid_option',
    'The session is not of this storage. Pass the session that its getSession() returned.',
  )
}

const checkOptions = (options: object | undefined, caller: string): void => {
  const names = Object.keys(options ?? {})
  if (names.length === 0) return
  throw new KeepsakeError(
    'invalid_option',
    `The options of ${caller} are ${names.join(', ')}. Set the cookie and its lifetime in the options of sessionManager().`,
  )
}

/**
 * The functions `getSession`, `commitSession` and `destroySession` over a manager. Changes of different fields in concurrent
 * requests are merged, and a session that has ended stays ended. Only the changes of a session that is committed are saved. The
 * caller adds the Set-Cookie value to its response.
 *
 * @param sessions the result of `sessionManager`
 */
export const createSessionStorage = <Data = Record<string, unknown>, FlashData = Data>(
  sessions: Pick<SessionManager, 'open'>,
  { url }: SessionStorageOptions = {},
): ReactRouterStorage<Data, FlashData> => {
  const storage = {
    async getSession(cookieHeader?: string | null) {
      const headers = new Headers(cookieHeader ? { cookie: cookieHeader } : {})
      return new StoredSession(await sessions.open({ headers, url }))
    },
    async commitSession(session: unknown, options?: object) {
      checkOptions(options, 'commitSession()')
      return storedSession(session).commit()
    },
    async destroySession(session: unknown, options?: object) {
      checkOptions(options, 'destroySession()')
      const stored = storedSession(session)
      stored.end()
      return stored.commit()
    },
  }
  return storage as unknown as ReactRouterStorage<Data, FlashData>
}
