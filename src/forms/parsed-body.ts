// Reads the fields of a form that a body parser of a framework has parsed already.

import type { BlocksRead } from './blocks.ts'

type Limits = { readonly maxBytes: number; readonly maxParts: number }

/**
 * The values of one name, as parsers of urlencoded and multipart forms return them. Undefined for any other value: some parsers
 * make objects of names such as `a[b]`, and a form must have one meaning.
 */
const valuesOf = (value: unknown): readonly string[] | undefined => {
  if (typeof value === 'string') return [value]
  return Array.isArray(value) && value.every((one) => typeof one === 'string') ? value : undefined
}

/** Passes the fields to `field`, one by one. `broken`: the body is no object of texts. */
export const readParsedBody = (
  body: unknown,
  { maxBytes, maxParts }: Limits,
  field: (name: string, value: string) => boolean,
): BlocksRead => {
  // A parser that found no field returns nothing or an empty object.
  if (body === undefined || body === null) return 'done'
  if (typeof body !== 'object' || Array.isArray(body)) return 'broken'
  let bytes = 0
  let parts = 0
  for (const [name, value] of Object.entries(body)) {
    const values = valuesOf(value)
    if (values === undefined) return 'broken'
    for (const one of values) {
      bytes += Buffer.byteLength(name) + Buffer.byteLength(one) + 2
      parts += 1
      // The last separator is not a part of the body.
      if (bytes - 1 > maxBytes || parts > maxParts) return 'too_large'
      field(name, one)
    }
  }
  return 'done'
}
