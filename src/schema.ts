// Standard Schema v1, the part that keepsake calls: a schema accepts or converts a value, or refuses it with reasons.

import type { Awaitable } from './error.ts'

/** One reason why a schema refuses a value, and the path to the part that it refuses. */
export type Issue = {
  readonly message: string
  readonly path?: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined
}

type Validated<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: ReadonlyArray<Issue> }

/** The interface of the schemas of zod, valibot, arktype and others (https://standardschema.dev). */
export type StandardSchema<Output = unknown> = {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => Validated<Output> | Promise<Validated<Output>>
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined
  }
}

/** The type of a schema's output. */
export type OutputOf<S extends StandardSchema> = NonNullable<S['~standard']['types']>['output']

export const isSchema = (value: unknown): value is StandardSchema =>
  (typeof value === 'object' || typeof value === 'function') &&
  value !== null &&
  typeof (value as StandardSchema)['~standard']?.validate === 'function'

/** Validates a value: at once if the schema is synchronous, otherwise as a promise. */
export const checked = <Output>(schema: StandardSchema<Output>, value: unknown): Awaitable<Validated<Output>> =>
  schema['~standard'].validate(value)

/** The most paths that a message names. */
const MAX_PATHS = 10
/** The most characters of one path. */
const MAX_PATH_LENGTH = 200

const step = (key: unknown): string => {
  if (typeof key === 'number') return `[${key}]`
  if (typeof key !== 'string') return `[a ${typeof key}]`
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
}

/** The path of an issue, such as `cart[0].price`. */
const pathOf = ({ path = [] }: Issue): string => {
  const joined = path.map((part) => step(typeof part === 'object' && part !== null ? part.key : part)).join('')
  if (joined === '') return 'the whole'
  const whole = joined.replace(/^\./, '')
  return whole.length > MAX_PATH_LENGTH ? `${whole.slice(0, MAX_PATH_LENGTH)}…` : whole
}

/**
 * The paths of issues, for a message. The messages of a schema are left out, because they may quote the refused value.
 */
export const placesOf = (issues: readonly Issue[]): string => {
  const paths = [...new Set(issues.map(pathOf))]
  const more = paths.length - MAX_PATHS
  return more > 0 ? `${paths.slice(0, MAX_PATHS).join(', ')} and ${more} more` : paths.join(', ')
}
