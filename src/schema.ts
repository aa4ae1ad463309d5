// Standard Schema v1, the part that is called: a value is accepted, perhaps as another, or refused with reasons.

import type { Awaitable } from './outcome.ts'

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

/** Where an issue lies, such as `cart[0].price`. */
export const placeOf = ({ path = [] }: Issue): string =>
  path
    .map((step) => (typeof step === 'object' ? step.key : step))
    .reduce<string>(
      (text, key) => (typeof key === 'number' ? `${text}[${key}]` : `${text}${text === '' ? '' : '.'}${String(key)}`),
      '',
    )
