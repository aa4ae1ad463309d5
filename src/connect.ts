// A backend from a URL, loaded when it is first wanted.

import type { Backend } from './backend.ts'
import type { Listener } from './events.ts'
import { Fault } from './outcome.ts'

export type ConnectOptions = {
  /** Milliseconds since 1970; for a backend that tidies up by itself. */
  readonly now?: () => number
  /** Hears of evictions. */
  readonly onEvent?: Listener
}

type Opener = (rest: string, options: ConnectOptions) => Promise<Backend>

const schemes: Readonly<Record<string, Opener>> = {
  memory: async (rest, options) => {
    if (rest !== '') throw new Fault('no_backend', "'memory:' takes nothing behind the colon.")
    const { memoryBackend } = await import('./backends/memory.ts')
    return memoryBackend(options)
  },
  sqlite: async (rest) => {
    const { sqliteBackend } = await import('./backends/sqlite.ts')
    return sqliteBackend(rest.replace(/^\/\//, ''))
  },
}

const split = (url: string): { readonly open: Opener; readonly rest: string } => {
  const colon = url.indexOf(':')
  const scheme = url.slice(0, Math.max(colon, 0))
  if (!Object.hasOwn(schemes, scheme)) {
    // The URL itself may hold a password: it stays out of the message.
    throw new Fault(
      'no_backend',
      `A backend's URL begins with one of ${Object.keys(schemes)
        .map((name) => `'${name}:'`)
        .join(', ')}; this one does not.`,
    )
  }
  return { open: schemes[scheme] as Opener, rest: url.slice(colon + 1) }
}

/** Whether a URL names a backend. @throws Fault `no_backend` where it names none */
export const checkUrl = (url: string): void => {
  split(url)
}

/**
 * The backend that a URL names: `memory:`, or `sqlite:` and the path of a file (`sqlite:a.db`, `sqlite:///var/a.db`).
 *
 * @throws Fault `no_backend`, `unavailable`
 */
export const connect = async (url: string, options: ConnectOptions = {}): Promise<Backend> => {
  const { open, rest } = split(url)
  return open(rest, options)
}
