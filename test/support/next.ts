// Takes the place of Next.js in tests of its adapter: `headers()`, `cookies()` and `refresh()` of a request in progress.

import { AsyncLocalStorage } from 'node:async_hooks'
import { registerHooks } from 'node:module'

type CookieOptions = { readonly maxAge?: number; readonly httpOnly?: boolean; readonly secure?: boolean }

/** The cookies of a page or of an action: one for a name, as in Next.js. */
class Jar {
  readonly set_: [name: string, value: string, options: CookieOptions][] = []
  readonly #values: Map<string, string>
  readonly #writable: boolean

  constructor(values: Map<string, string>, writable: boolean) {
    this.#values = values
    this.#writable = writable
  }

  getAll() {
    return [...this.#values].map(([name, value]) => ({ name, value }))
  }

  set(name: string, value: string, options: CookieOptions): void {
    if (!this.#writable) throw new Error('Cookies can only be modified in a Server Action or Route Handler.')
    this.#values.set(name, value)
    this.set_.push([name, value, options])
  }
}

type Running = { headers: Headers; jar: Jar; refreshed: number }
const running = new AsyncLocalStorage<Running>()
const place = globalThis as { nextInTests?: typeof running }
place.nextInTests = running

const modules: Readonly<Record<string, string>> = {
  'next/headers.js': `
    const { nextInTests } = globalThis
    export const headers = async () => nextInTests.getStore().headers
    export const cookies = async () => nextInTests.getStore().jar`,
  'next/cache.js': `export const refresh = () => { globalThis.nextInTests.getStore().refreshed += 1 }`,
}

registerHooks({
  resolve: (specifier, context, next) =>
    modules[specifier] === undefined
      ? next(specifier, context)
      : { url: `data:text/javascript,${encodeURIComponent(modules[specifier])}`, shortCircuit: true },
})

/** A browser of the application. */
export class Visitor {
  readonly cookies = new Map<string, string>()
  /** The cookies that the last action set. */
  set: Jar['set_'] = []
  /** Whether the page is rendered again after the last action. */
  refreshed = false
  readonly #headers: Readonly<Record<string, string>>

  constructor(headers: Readonly<Record<string, string>> = {}) {
    this.#headers = headers
  }

  #request(writable: boolean): Running {
    const headers = new Headers({
      host: 'localhost:3000',
      'x-forwarded-host': 'localhost:3000',
      'x-forwarded-port': '3000',
      'x-forwarded-proto': 'http',
      'x-forwarded-for': '::1',
      ...(this.cookies.size > 0 && { cookie: [...this.cookies].map((pair) => pair.join('=')).join('; ') }),
      ...this.#headers,
    })
    return { headers, jar: new Jar(new Map(this.cookies), writable), refreshed: 0 }
  }

  /** Runs a server action. The browser keeps its cookies, also if it throws. */
  async act<T>(action: () => Promise<T>): Promise<T> {
    const request = this.#request(true)
    try {
      return await running.run(request, action)
    } finally {
      this.set = request.jar.set_
      this.refreshed = request.refreshed > 0
      for (const [name, value, { maxAge }] of this.set) {
        if (maxAge === 0) this.cookies.delete(name)
        else this.cookies.set(name, value)
      }
    }
  }

  /** Renders a page. */
  render<T>(page: () => Promise<T>): Promise<T> {
    return running.run(this.#request(false), page)
  }
}

/** The errors by which Next.js leaves an action. */
export const redirectError = (to: string): Error =>
  Object.assign(new Error(), { digest: `NEXT_REDIRECT;push;${to};307;` })
export const notFoundError = (): Error => Object.assign(new Error(), { digest: 'NEXT_HTTP_ERROR_FALLBACK;404' })
