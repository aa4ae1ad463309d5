// Reads a form and checks its CSRF token, with the outcomes of Dream's form, and limits.

import { inspect } from 'node:util'
import { type Awaitable, checkOptionNames, KeepsakeError } from '../error.ts'
import type { FormRequest } from '../http/request-head.ts'
import { type Json, setOwn } from '../json.ts'
import { workOf } from '../request.ts'
import type { RequestLike } from '../request-context.ts'
import { checked, type Issue, isSchema, type OutputOf, type StandardSchema } from '../schema.ts'
import type { UnitOfWork } from '../session/work.ts'
import { type BodyRead, discardRest, readBody } from './body.ts'
import { reportRejected, TOKEN_FIELD, TOKEN_HEADER, verifyToken } from './csrf.ts'
import type { BodyLimits, UploadedFile } from './multipart.ts'

export type FormOptions = {
  /** The action that the form's token was made for. Default: none. */
  readonly action?: string | undefined
  /** false: accept a form without a token, such as a search. Any page may have sent it. Default true. */
  readonly csrf?: boolean | undefined
  /** The most bytes of the whole body; with `upload`, of the names and values of all fields together. Default 1 MiB. */
  readonly maxBytes?: number | undefined
  /** The most fields and files together, without the token. Default 1000. */
  readonly maxFields?: number | undefined
  /** The most bytes of one file, read or not, if there is `upload`. Default 10 MiB. */
  readonly maxFileBytes?: number | undefined
  /**
   * Receives each file as a stream, so that none is kept in memory. The next file waits for it. It is called only after
   * the token was checked, so put `csrfTag` directly after `<form>`. `readForm` throws its errors. At most 100 files.
   */
  readonly upload?: ((file: UploadedFile) => Awaitable<unknown>) | undefined
}

/** The files of a form with the names of their fields, sorted by name. An empty file input gives no file. */
export type FormFiles = readonly (readonly [field: string, file: File])[]

type Submitted = {
  /** Without the token, sorted by name. Fields of one name stay in their order. */
  readonly fields: URLSearchParams
  readonly files: FormFiles
}

type Refusal = {
  readonly ok: false
  /** The HTTP status for the response. */
  readonly status: 403 | 413 | 415 | 422
  /** A sentence for the visitor. */
  readonly message: string
}

type TokenError = 'wrong_session' | 'invalid_token' | 'missing_token' | 'many_tokens'

/**
 * The outcome of a form. Without a valid token, the fields may be shown again for another try, but the handler must not
 * use them.
 */
export type FormResult<F = URLSearchParams> =
  | { readonly ok: true; readonly fields: F; readonly files: FormFiles }
  | (Refusal & Submitted & { readonly error: 'expired'; readonly expiredAt: number })
  | (Refusal & Submitted & { readonly error: TokenError })
  | (Refusal & { readonly error: 'wrong_content_type' | 'too_large' })
  | (Refusal & Submitted & { readonly error: 'invalid_fields'; readonly issues: readonly Issue[] })

const messages = {
  expired: 'This form was open for too long. Please send it again.',
  wrong_session: 'You logged in or out after you opened this form. Please send it again.',
  invalid_token: 'This form could not be checked. Please open the page again.',
  missing_token: 'This form is incomplete. Please open the page again.',
  many_tokens: 'This form could not be checked. Please open the page again.',
  wrong_content_type: 'This form did not arrive completely. Please send it again.',
  too_large: 'Your entries or files are too large. Please shorten them and try again.',
} as const

const refusal = <E extends keyof typeof messages>(error: E, status: Refusal['status']) =>
  ({ ok: false, error, status, message: messages[error] }) as const

/**
 * Groups values by name. The names are in the order of their UTF-8 bytes, and the values of one name stay in their
 * order.
 */
const byName = <T>(pairs: readonly (readonly [string, T])[]): ReadonlyMap<string, readonly T[]> => {
  const groups = new Map<string, T[]>()
  for (const [name, value] of pairs) {
    const group = groups.get(name)
    if (group === undefined) groups.set(name, [value])
    else group.push(value)
  }
  const withBytes = [...groups].map(([name, group]) => ({ name, group, bytes: Buffer.from(name) }))
  withBytes.sort((a, b) => Buffer.compare(a.bytes, b.bytes))
  return new Map(withBytes.map(({ name, group }) => [name, group]))
}

const pairsOf = <T>(groups: ReadonlyMap<string, readonly T[]>): [string, T][] =>
  [...groups].flatMap(([name, group]) => group.map((value): [string, T] => [name, value]))

/** The fields as an object for schemas: a string, or a list of strings if a name occurs more than once. */
const asObject = (fields: ReadonlyMap<string, readonly string[]>): Record<string, Json> => {
  const object: Record<string, Json> = {}
  for (const [name, values] of fields) setOwn(object, name, values.length === 1 ? (values[0] as string) : values)
  return object
}

const limitOf = (name: string, value: number): number => {
  if (typeof value === 'number' && value >= 1) return value
  throw new KeepsakeError(
    'invalid_option',
    `The option ${name} is ${inspect(value)}. It must be a number of at least 1.`,
  )
}

const optionNames = ['action', 'csrf', 'maxBytes', 'maxFields', 'maxFileBytes', 'upload'] as const

/** The request that has the form. @throws KeepsakeError `invalid_option` if `manager.open` got only its headers */
const requestWithBody = ({ request }: UnitOfWork): FormRequest => {
  if ('body' in request) return request as FormRequest
  throw new KeepsakeError(
    'invalid_option',
    'readForm() was given a session that manager.open() opened from headers, so there is no form to read. Pass the Request itself to manager.open(), or check the token of your form with verifyCsrfToken().',
  )
}

const uploadIsParsed = (): KeepsakeError =>
  new KeepsakeError(
    'invalid_option',
    'readForm() has the option upload, but a body parser has read the form before, so there are no files to stream. Mount the parser for other routes only, or take the files from the parser and leave the option out.',
  )

/** The refusal of a body that is no form, or too large. Undefined for any other. */
const bodyProblem = (read: BodyRead) => {
  if (read === 'too_large') return refusal('too_large', 413)
  return read === 'wrong_content_type' || read === 'broken' ? refusal('wrong_content_type', 415) : undefined
}

/**
 * Reads the form of a request, urlencoded or multipart, and checks that the application made its page for this visitor.
 * The token is the field of `csrfTag`, or the header `X-CSRF-Token`.
 *
 * The outcomes are `ok` and, with Dream's names, `expired`, `wrong_session`, `invalid_token`, `missing_token`,
 * `many_tokens` and `wrong_content_type`, which is also the outcome of a body that breaks off or has a part without a
 * name. `invalid_fields`: the schema refuses the fields. `too_large`: the form exceeds a limit. If the token is not
 * valid, the event is `form_rejected`. No body makes it throw. The rest of a refused body, at most 64 MiB, is read and
 * discarded.
 *
 * In a framework, a body parser may have read the form before, for example `express.urlencoded()`: then the result has its
 * fields and no files, and a field that it parsed as an object makes the form `wrong_content_type`.
 *
 * @param target the request inside a middleware, or outside of one the session that `manager.open` returned for a Request
 * @throws KeepsakeError `invalid_option`, and as `session`; and the errors of `upload`
 */
export function readForm(target: RequestLike, schema?: undefined, options?: FormOptions): Promise<FormResult>
export function readForm<S extends StandardSchema>(
  target: RequestLike,
  schema: S,
  options?: FormOptions,
): Promise<FormResult<OutputOf<S>>>
export async function readForm(
  target: RequestLike,
  schema?: StandardSchema,
  options: FormOptions = {},
): Promise<FormResult<unknown>> {
  checkOptionNames(options, optionNames, 'readForm()')
  if (schema !== undefined && !isSchema(schema)) {
    throw new KeepsakeError(
      'invalid_option',
      'The second argument of readForm() is no Standard Schema. Pass a schema or undefined, and options as the third argument.',
    )
  }
  const { csrf = true, upload, action } = options
  const limits: BodyLimits = {
    maxBytes: limitOf('maxBytes', options.maxBytes ?? 2 ** 20),
    maxParts: limitOf('maxFields', options.maxFields ?? 1_000) + 1,
    maxFileBytes: limitOf('maxFileBytes', options.maxFileBytes ?? 10 * 2 ** 20),
  }
  const work = await workOf(target)
  const request = requestWithBody(work)
  if (upload !== undefined && request.parsedBody !== undefined) throw uploadIsParsed()
  const tokens: string[] = []
  const pairs: [string, string][] = []
  const files: [string, File][] = []
  const tokenProblem = (): TokenError | { readonly expiredAt: number } | undefined => {
    if (!csrf) return undefined
    if (tokens.length > 1) return 'many_tokens'
    const token = tokens[0] ?? request.headers.get(TOKEN_HEADER)
    if (token === null) return 'missing_token'
    const outcome = verifyToken(work, token, action === undefined ? {} : { action })
    if (outcome.ok) return undefined
    return outcome.error === 'expired' ? { expiredAt: outcome.expiredAt } : outcome.error
  }
  const field = (name: string, value: string): boolean => {
    if (name === TOKEN_FIELD) tokens.push(value)
    else pairs.push([name, value])
    return true
  }
  // Otherwise up to 1 MiB would be read first.
  const contentLength = upload === undefined ? Number(request.headers.get('content-length')) : 0
  if (contentLength > limits.maxBytes) {
    void discardRest(request)
    return refusal('too_large', 413)
  }
  let read: BodyRead
  try {
    read = await readBody(request, limits, {
      field,
      ...(upload === undefined
        ? {
            file({ field, filename, type, bytes }) {
              if (filename !== '' || bytes.length > 0) files.push([field, new File([bytes], filename, { type })])
              return true
            },
          }
        : {
            /** An upload before its token is not read, because its sender is not known yet. */
            async upload(file) {
              if (tokenProblem() !== undefined) return false
              if (file.filename !== '') await upload(file)
              return true
            },
          }),
    })
  } finally {
    void discardRest(request)
  }
  const refused = bodyProblem(read)
  if (refused !== undefined) return refused
  const fields = byName(pairs)
  const submitted: Submitted = { fields: new URLSearchParams(pairsOf(fields)), files: pairsOf(byName(files)) }
  const problem = tokenProblem()
  if (problem !== undefined) {
    reportRejected(work, typeof problem === 'string' ? problem : 'expired')
    return typeof problem === 'string'
      ? { ...refusal(problem, 403), ...submitted }
      : { ...refusal('expired', 403), ...submitted, ...problem }
  }
  if (schema === undefined) return { ok: true, ...submitted }
  const result = await checked(schema, asObject(fields))
  if (result.issues === undefined) return { ok: true, fields: result.value, files: submitted.files }
  return {
    ok: false,
    error: 'invalid_fields',
    status: 422,
    message: 'Please check your entries and try again.',
    issues: result.issues,
    ...submitted,
  }
}
