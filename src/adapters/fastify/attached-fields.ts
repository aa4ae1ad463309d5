// Reads `request.body` as body parsers of Fastify set it: the values of fields, or the objects of @fastify/multipart.

/** A field or a file in a body of @fastify/multipart with the option `attachFieldsToBody`. */
type Part = { readonly value?: unknown; readonly valueTruncated?: unknown; readonly toBuffer?: unknown }

/** Each part refers to the whole body. No parser makes that of a name such as `a[fields]`, so no visitor can. */
const isPart = (value: unknown, body: object): value is Part =>
  typeof value === 'object' && value !== null && (value as { readonly fields?: unknown }).fields === body

/** The values of a name. Files are left out, because the application takes them from the parser. */
const valuesOf = (values: unknown, body: object): readonly unknown[] =>
  (Array.isArray(values) ? values : [values]).flatMap((value) => {
    if (value instanceof Uint8Array) return []
    if (!isPart(value, body)) return [value]
    if (typeof value.toBuffer === 'function') return []
    // The parser has cut it off. `readForm` refuses a form with a value that is no text.
    return [value.valueTruncated === true ? undefined : value.value]
  })

/** The body with a list of values for each name. Any other body is returned as it is. */
const plainBody = (body: unknown): unknown =>
  typeof body !== 'object' || body === null || Array.isArray(body)
    ? body
    : Object.fromEntries(Object.entries(body).map(([name, values]) => [name, valuesOf(values, body)]))

/** The owner of a parsed body, for `readForm`. */
export const attachedFields = (request: { readonly body?: unknown }): { readonly body?: unknown } => ({
  get body() {
    return plainBody(request.body)
  },
})
