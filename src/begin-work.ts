// Begins the work of a request: it reads the cookies, and finds the session that one of their keys opens.

import type { Deadline } from './backends/deadline.ts'
import { isKey } from './crypto/keys.ts'
import { isToken } from './crypto/seal.ts'
import type { Awaitable } from './error.ts'
import { cookieValues } from './http/cookie.ts'
import type { RequestHead } from './http/request-head.ts'
import { withheldFrom } from './http/withheld.ts'
import { failedContext, type LazyBackend } from './lazy-backend.ts'
import type { Configuration } from './options.ts'
import type { ManagerContext, SharedContext } from './session/context.ts'
import { open } from './session/open.ts'
import type { RequestTenant } from './session/tenant.ts'
import type { UnitOfWork } from './session/work.ts'

/** Before the backend is open, a cookie may hold a key or a sealed session. */
const isKeyOrToken = (value: string): boolean => isKey(value) || isToken(value)

/** How a manager begins the work of a request. */
export const workStarter = (
  checked: Configuration,
  trustProxy: boolean,
  { current, opened, isChecked, check }: LazyBackend,
  contextOf: (shared: SharedContext, namespace: string) => ManagerContext,
) => {
  const { emit } = checked.settings
  const inFlight = { count: 0, max: checked.maxInFlight }
  const warned = new Set<string>()
  const newDeadline = (): Deadline => ({ left: checked.storeTimeout, limit: checked.storeTimeout, inFlight })

  const workFor = (shared: SharedContext, request: RequestHead, tenant: RequestTenant): Awaitable<UnitOfWork> => {
    const { settingsFor, placed } = tenant.cookie
    const cookies = settingsFor(request)
    const { notice } = cookies
    if (notice !== undefined && !warned.has(notice.type)) {
      warned.add(notice.type)
      emit(notice.type, { message: notice.message })
    }
    const isOpen = shared === current()
    if (isOpen && !isChecked()) check(shared).catch(() => {})
    const deadline = newDeadline()
    const cookieHeader = request.headers.get('cookie')
    const values = cookieHeader === null ? [] : cookieValues(cookieHeader, cookies.session, () => true)
    const withheld = values.length === 0 ? withheldFrom(request, placed, trustProxy) : undefined
    const mayOpen = isOpen ? (shared.backend.stateless ? isToken : isKey) : isKeyOrToken
    return open(contextOf(shared, tenant.namespace), deadline, {
      request,
      keys: values.filter(mayOpen),
      cookies,
      cookieHeader,
      withheld,
    })
  }

  const beginWork = (request: RequestHead, tenant: RequestTenant): Awaitable<UnitOfWork> => {
    const shared = current()
    if (shared !== undefined) return workFor(shared, request, tenant)
    return opened().then(
      (shared) => workFor(shared, request, tenant),
      (error) => {
        if (error.status !== 503) throw error
        return workFor(failedContext(checked, error), request, tenant)
      },
    )
  }

  return { beginWork, newDeadline }
}
