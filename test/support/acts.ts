// Acts of handlers on the session of one request, for the tests of visitors.

import type { Session } from 'keepsake'
import { workOf } from '../../src/request.ts'
import { formSecret } from '../../src/session/form-secret.ts'
import type { Visitor } from './visits.ts'

/** Adds one to the field `n`. */
export const add = (s: Session) => s.update('n', (n = 0) => n + 1)

export const set =
  (field: string, value: unknown = true) =>
  (s: Session) =>
    s.set(field, value)

export const get = (field: string) => (s: Session) => s.get(field)

/** The names of the fields. */
export const fields = (s: Session): string[] => Object.keys(s.fields).sort()

/** The form secret of the visitor. */
export const form = async (_: unknown, request: Request) => formSecret(await workOf(request))

/** The values of all Set-Cookie headers of a response. */
export const cookiesOf = (response: Response): string[] => response.headers.getSetCookie()

/** Sends a request that sets a field. Its handler waits until another request has done `act`. Returns its response. */
export const writeDuring = async (visit: Visitor, act: () => Promise<unknown>): Promise<Response> => {
  const { promise: wait, resolve: go } = Promise.withResolvers<void>()
  const slow = visit.raw(async (s) => {
    s.set('late', 1)
    await wait
  })
  await act()
  go()
  return slow
}
