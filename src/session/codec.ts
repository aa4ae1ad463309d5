// The shape that an application gives its sessions: what is kept is read into it, and only what fits it is kept.

import { type Awaitable, after, isThenable } from '../error.ts'
import { frozen, type Json } from '../json.ts'
import { checked, placesOf, type StandardSchema } from '../schema.ts'
import { type Fields, FLASH } from './changes.ts'

/** Why fields do not fit: where they do not, and never what they are. */
export type Misfit = { readonly why: string }

export type Shape = {
  /** Kept fields as the application is to see them. */
  read(fields: Fields): Awaitable<Fields | Misfit>
  /** Fields as they are to be kept. */
  write(fields: Fields): Awaitable<Fields | Misfit>
}

/* A registered symbol, because fields may have any names, and because a process may hold two copies of this package. */
const MISFIT = Symbol.for('keepsake.Misfit')

export const isMisfit = (value: unknown): value is Misfit =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, MISFIT)

const misfit = (why: string): Misfit => Object.defineProperty({ why }, MISFIT, { value: true })

const isEmpty = (fields: Fields): boolean => Object.keys(fields).length === 0

/** What kind of error was thrown. Its message and its stack stay untold, because they may quote a value. */
const kindOf = (error: unknown): string => {
  const { name } = (error ?? {}) as { name?: unknown }
  return typeof name === 'string' && /^\w{1,50}$/.test(name) ? name : 'something that has no name'
}

/** The answer of a schema or of a migration; what it throws is a refusal. */
const trying = <T>(who: 'schema' | 'migration', call: () => Awaitable<T>): Awaitable<T | Misfit> => {
  const threw = (error: unknown) => misfit(`the ${who} threw ${kindOf(error)}`)
  try {
    const answer = call()
    return isThenable(answer) ? Promise.resolve(answer).catch(threw) : answer
  } catch (error) {
    return threw(error)
  }
}

/**
 * The shape that a schema gives, with a migration for what older deployments kept.
 *
 * No fields at all always fit: a session may have begun and hold nothing yet. What a schema makes of them, its defaults,
 * is what the application sees then.
 */
export const shapeOf = (schema: StandardSchema, migrate?: (old: unknown) => unknown): Shape => {
  const asked = (fields: unknown) =>
    after(checked(schema, fields), (result) =>
      result.issues ? misfit(`look at ${placesOf(result.issues)}`) : { value: result.value },
    )
  const validated = (fields: unknown): Awaitable<Fields | Misfit> =>
    after(
      trying('schema', () => asked(fields)),
      (result) => {
        if (isMisfit(result)) return result
        const { value } = result
        if (typeof value !== 'object' || value === null || Array.isArray(value)) {
          return misfit('it is no object with fields')
        }
        return frozen(value, 'session') as Fields
      },
    )
  /** Does with the fields of the application, and puts the flash messages beside them again. */
  const apart = (fields: Fields, work: (own: Fields) => Awaitable<Fields | Misfit>): Awaitable<Fields | Misfit> => {
    if (!Object.hasOwn(fields, FLASH)) return work(fields)
    const { [FLASH]: flash, ...own } = fields
    return after(work(own), (done) => (isMisfit(done) ? done : { ...done, [FLASH]: flash as Json }))
  }
  const read = (own: Fields): Awaitable<Fields | Misfit> =>
    after(validated(own), (fields) => {
      if (!isMisfit(fields)) return fields
      if (isEmpty(own)) return own
      if (migrate === undefined) return fields
      return after(
        trying('migration', () => migrate(own)),
        (migrated) => (isMisfit(migrated) ? migrated : validated(migrated)),
      )
    })
  return {
    read: (fields) => apart(fields, read),
    write: (fields) => apart(fields, (own) => (isEmpty(own) ? own : validated(own))),
  }
}
