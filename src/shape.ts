// The shape that an application gives its sessions: what is kept is read into it, and only what fits it is kept.

import { type Fields, FLASH } from './changes.ts'
import { frozen, type Json } from './json.ts'
import { type Awaitable, after, isThenable } from './outcome.ts'
import { checked, placeOf, type StandardSchema } from './schema.ts'

/** Why fields do not fit: where they do not, and never what they are. */
export type Misfit = { readonly why: string; readonly error?: unknown }

export type Shape = {
  /** Kept fields as the application is to see them. */
  read(fields: Fields): Awaitable<Fields | Misfit>
  /** Fields as they are to be kept. */
  write(fields: Fields): Awaitable<Fields | Misfit>
}

export const isMisfit = (fields: Fields | Misfit): fields is Misfit => misfits.has(fields)

/* A set, because fields may have any names. */
const misfits = new WeakSet<object>()
const misfit = (why: string, error?: unknown): Misfit => {
  const one = { why, ...(error !== undefined && { error }) }
  misfits.add(one)
  return one
}

const isEmpty = (fields: Fields): boolean => Object.keys(fields).length === 0

/** A schema's or a migration's answer; what either throws is a refusal. */
const trying = <T>(call: () => Awaitable<T>): Awaitable<T | Misfit> => {
  const threw = (error: unknown) => misfit('it threw', error)
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
  const validated = (fields: unknown): Awaitable<Fields | Misfit> =>
    after(
      trying(() => checked(schema, fields)),
      (result) => {
        if (misfits.has(result)) return result as Misfit
        const { issues, value } = result as { issues?: readonly { message: string }[]; value?: unknown }
        if (issues) return misfit(issues.map((issue) => `${placeOf(issue) || 'it'}: ${issue.message}`).join('; '))
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
        trying(() => migrate(own)),
        (migrated) => (misfits.has(migrated as object) ? (migrated as Misfit) : validated(migrated)),
      )
    })
  return {
    read: (fields) => apart(fields, read),
    write: (fields) => apart(fields, (own) => (isEmpty(own) ? own : validated(own))),
  }
}
