// Applies the application's schema to the fields: after they are read, and before they are written.

import { type Awaitable, chain, isThenable } from '../error.ts'
import { frozenCopy, type Json } from '../json.ts'
import { checked, placesOf, type StandardSchema } from '../schema.ts'
import { type Fields, FLASH } from './changes.ts'

/** Why fields do not fit the schema: it names the places, and never a value. */
export type Mismatch = { readonly why: string }

export type FieldCodec = {
  /** Stored fields as the application sees them. */
  read(fields: Fields): Awaitable<Fields | Mismatch>
  /** Fields as the backend stores them. */
  write(fields: Fields): Awaitable<Fields | Mismatch>
}

/* A registered symbol, because fields may have any names, and because a process may hold two copies of this package. */
const MISMATCH = Symbol.for('keepsake.Mismatch')

export const isMismatch = (value: unknown): value is Mismatch =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, MISMATCH)

const mismatch = (why: string): Mismatch => Object.defineProperty({ why }, MISMATCH, { value: true })

const isEmpty = (fields: Fields): boolean => Object.keys(fields).length === 0

/** The name of an error's class. Its message and its stack are not printed, because they may quote a value. */
const kindOf = (error: unknown): string => {
  const { name } = (error ?? {}) as { name?: unknown }
  return typeof name === 'string' && /^\w{1,50}$/.test(name) ? name : 'an error without a name'
}

/** Calls a schema or a migration. An error that it throws becomes a mismatch. */
const tryCall = <T>(callee: 'schema' | 'migration', call: () => Awaitable<T>): Awaitable<T | Mismatch> => {
  const threw = (error: unknown) => mismatch(`the ${callee} threw ${kindOf(error)}`)
  try {
    const answer = call()
    return isThenable(answer) ? Promise.resolve(answer).catch(threw) : answer
  } catch (error) {
    return threw(error)
  }
}

/**
 * The codec of a schema, with a migration for fields that older deployments stored.
 *
 * A session without fields always fits, because it may be new. The application then sees the defaults of the schema, if the
 * schema accepts an empty object.
 */
export const fieldCodec = (schema: StandardSchema, migrate?: (old: unknown) => unknown): FieldCodec => {
  const validateOnly = (fields: unknown) =>
    chain(checked(schema, fields), (result) =>
      result.issues ? mismatch(`look at ${placesOf(result.issues)}`) : { value: result.value },
    )
  const validate = (fields: unknown): Awaitable<Fields | Mismatch> =>
    chain(
      tryCall('schema', () => validateOnly(fields)),
      (result) => {
        if (isMismatch(result)) return result
        const { value } = result
        if (typeof value !== 'object' || value === null || Array.isArray(value)) {
          return mismatch('its result is not an object with fields')
        }
        return frozenCopy(value, 'session') as Fields
      },
    )
  /** Converts the application's fields, and keeps the flash messages beside them. */
  const withoutFlash = (
    fields: Fields,
    convert: (own: Fields) => Awaitable<Fields | Mismatch>,
  ): Awaitable<Fields | Mismatch> => {
    if (!Object.hasOwn(fields, FLASH)) return convert(fields)
    const { [FLASH]: flash, ...own } = fields
    return chain(convert(own), (converted) =>
      isMismatch(converted) ? converted : { ...converted, [FLASH]: flash as Json },
    )
  }
  const read = (own: Fields): Awaitable<Fields | Mismatch> =>
    chain(validate(own), (fields) => {
      if (!isMismatch(fields)) return fields
      if (isEmpty(own)) return own
      if (migrate === undefined) return fields
      return chain(
        tryCall('migration', () => migrate(own)),
        (migrated) => (isMismatch(migrated) ? migrated : validate(migrated)),
      )
    })
  return {
    read: (fields) => withoutFlash(fields, read),
    write: (fields) => withoutFlash(fields, (own) => (isEmpty(own) ? own : validate(own))),
  }
}
