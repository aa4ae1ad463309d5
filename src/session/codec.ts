// The shape that an application gives its sessions: what is kept is read into it, and only what fits it is kept.

import { type Awaitable, chain, isThenable } from '../error.ts'
import { frozenCopy, type Json } from '../json.ts'
import { checked, placesOf, type StandardSchema } from '../schema.ts'
import { type Fields, FLASH } from './changes.ts'

/** Why fields do not fit: where they do not, and never what they are. */
export type Mismatch = { readonly why: string }

export type FieldCodec = {
  /** Kept fields as the application is to see them. */
  read(fields: Fields): Awaitable<Fields | Mismatch>
  /** Fields as they are to be kept. */
  write(fields: Fields): Awaitable<Fields | Mismatch>
}

/* A registered symbol, because fields may have any names, and because a process may hold two copies of this package. */
const MISMATCH = Symbol.for('keepsake.Misfit')

export const isMismatch = (value: unknown): value is Mismatch =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, MISMATCH)

const mismatch = (why: string): Mismatch => Object.defineProperty({ why }, MISMATCH, { value: true })

const isEmpty = (fields: Fields): boolean => Object.keys(fields).length === 0

/** What kind of error was thrown. Its message and its stack stay untold, because they may quote a value. */
const kindOf = (error: unknown): string => {
  const { name } = (error ?? {}) as { name?: unknown }
  return typeof name === 'string' && /^\w{1,50}$/.test(name) ? name : 'something that has no name'
}

/** The answer of a schema or of a migration; what it throws is a refusal. */
const tryCall = <T>(who: 'schema' | 'migration', call: () => Awaitable<T>): Awaitable<T | Mismatch> => {
  const threw = (error: unknown) => mismatch(`the ${who} threw ${kindOf(error)}`)
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
export const fieldCodec = (schema: StandardSchema, migrate?: (old: unknown) => unknown): FieldCodec => {
  const asked = (fields: unknown) =>
    chain(checked(schema, fields), (result) =>
      result.issues ? mismatch(`look at ${placesOf(result.issues)}`) : { value: result.value },
    )
  const validated = (fields: unknown): Awaitable<Fields | Mismatch> =>
    chain(
      tryCall('schema', () => asked(fields)),
      (result) => {
        if (isMismatch(result)) return result
        const { value } = result
        if (typeof value !== 'object' || value === null || Array.isArray(value)) {
          return mismatch('it is no object with fields')
        }
        return frozenCopy(value, 'session') as Fields
      },
    )
  /** Does with the fields of the application, and puts the flash messages beside them again. */
  const apart = (fields: Fields, work: (own: Fields) => Awaitable<Fields | Mismatch>): Awaitable<Fields | Mismatch> => {
    if (!Object.hasOwn(fields, FLASH)) return work(fields)
    const { [FLASH]: flash, ...own } = fields
    return chain(work(own), (done) => (isMismatch(done) ? done : { ...done, [FLASH]: flash as Json }))
  }
  const read = (own: Fields): Awaitable<Fields | Mismatch> =>
    chain(validated(own), (fields) => {
      if (!isMismatch(fields)) return fields
      if (isEmpty(own)) return own
      if (migrate === undefined) return fields
      return chain(
        tryCall('migration', () => migrate(own)),
        (migrated) => (isMismatch(migrated) ? migrated : validated(migrated)),
      )
    })
  return {
    read: (fields) => apart(fields, read),
    write: (fields) => apart(fields, (own) => (isEmpty(own) ? own : validated(own))),
  }
}
