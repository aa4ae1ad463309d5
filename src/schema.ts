// Standard Schema v1, the part that is called: a value is accepted, perhaps as another, or refused with reasons.

import type { Awaitable } from './error.ts'

/** One reason why a schema refuses a value, and where in it. */
export type Issue = {
  readonly message: string
  readonly path?: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined
}

type Validated<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: ReadonlyArray<Issue> }

/** What zod, valibot, arktype and others all are (https://standardschema.dev). */
export type StandardSchema<Output = unknown> = {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => Validated<Output> | Promise<Validated<Output>>
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined
  }
}

/** The type of what a schema gives. */
export type OutputOf<S extends StandardSchema> = NonNullable<S['~standard']['types']>['output']

export const isSchema = (value: unknown): value is StandardSchema =>
  (typeof value === 'object' || typeof value === 'function') &&
  value !== null &&
  typeof (value as StandardSchema)['~standard']?.validate === 'function'

/** What a schema says of a value: at once where the schema is synchronous. */
export const checked = <Output>(schema: StandardSchema<Output>, value: unknown): Awaitable<Validated<Output>> =>
  schema['~standard'].validate(value)

/** How many places a message names, and characters of one. */
const MOST = 10
const LONGEST = 200

const step = (key: unknown): string => {
  if (typeof key === 'number') return `[${key}]`
  if (typeof key !== 'string') return `[a ${typeof key}]`
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
}

/** Where an issue lies, such as `cart[0].price`. */
const placeOf = ({ path = [] }: Issue): string => {
  const place = path.map((part) => step(typeof part === 'object' && part !== null ? part.key : part)).join('')
  if (place === '') return 'the whole'
  const whole = place.replace(/^\./, '')
  return whole.length > LONGEST ? `${whole.slice(0, LONGEST)}…` : whole
}

/**
 * Where issues lie, in words, and nothing else of them: a schema's own words quote the value that it refuses.
 */
export const placesOf = (issues: readonly Issue[]): string => {
  const places = [...new Set(issues.map(placeOf))]
  const more = places.length - MOST
  return more > 0 ? `${places.slice(0, MOST).join(', ')} and ${more} more` : places.join(', ')
}
