// A form as it came back, with the token that its page was given: one of the outcomes of Dream's form, or a limit.

import { type Awaitable, checkOptionNames, KeepsakeError } from '../error.ts'
import { type Json, setOwn } from '../json.ts'
import { workOf } from '../request.ts'
import { checked, type Issue, isSchema, type OutputOf, type StandardSchema } from '../schema.ts'
import { type BodyRead, discardRest, readBody } from './body.ts'
import { reportRejected, TOKEN_FIELD, TOKEN_HEADER, verifyToken } from './csrf.ts'
import type { BodyLimits, UploadedFile } from './multipart.ts'

export type FormOptions = {
  /** What the form is for, as its token was made for. */
  readonly action?: string | undefined
  /** false takes a form without a token, such as a search: everybody may have sent it. Default true. */
  readonly csrf?: boolean | undefined
  /** Bytes of the whole body; with `upload`, of the names and values of its fields together. Default 1 MiB. */
  readonly maxBytes?: number | undefined
  /** How many fields and files a form may have. Default 1000. */
  readonly maxFields?: number | undefined
  /** Bytes of one file where there is an `upload`, read or not. Default 10 MiB. */
  readonly maxFileBytes?: number | undefined
  /**
   * Takes each file as it comes, so that none is kept in memory, and only once the token was seen: put `csrfTag` right
   * behind `<form>`. The next one waits for it. What it throws is thrown on. At most 100 files.
   */
  readonly upload?: ((file: UploadedFile) => Awaitable<unknown>) | undefined
}

/** The files of a form with their fields, sorted by these. An empty file input is none. */
export type FormFiles = readonly (readonly [field: string, file: File])[]

type Submitted = {
  /** Without the token, sorted by name; fields of one name in the order in which they came. */
  readonly fields: URLSearchParams
  readonly files: FormFiles
}

type Refusal = {
  readonly ok: false
  /** The HTTP status that fits. */
  readonly status: 403 | 413 | 415 | 422
  /** A sentence for the visitor. */
  readonly message: string
}

type TokenError = 'wrong_session' | 'invalid_token' | 'missing_token' | 'many_tokens'

/** What became of a form. What came without a good token may be shown again for another try, and must not be acted upon. */
export type FormResult<F = URLSearchParams> =
  | { readonly ok: true; readonly fields: F; readonly files: FormFiles }
  | (Refusal & Submitted & { readonly error: 'expired'; readonly expiredAt: number })
  | (Refusal & Submitted & { readonly error: TokenError })
  | (Refusal & { readonly error: 'wrong_content_type' | 'too_large' })
  | (Refusal & Submitted & { readonly error: 'invalid_fields'; readonly issues: readonly Issue[] })

const messages = {
  expired: 'This form was open for too long. Please send it again.',
  wrong_session: 'You logged in or out since this form was opened. Please send it again.',
  invalid_token: 'This form could not be checked. Please open the page again.',
  missing_token: 'This form did not come from our page. Please open the page again.',
  many_tokens: 'This form could not be checked. Please open the page again.',
  wrong_content_type: 'This is not a form.',
  too_large: 'This form is too large.',
} as const

const refusal = <E extends keyof typeof messages>(error: E, status: Refusal['status']) =>
  ({ ok: false, error, status, message: messages[error] }) as const

/** What came under each name, the names in the order of their UTF-8 bytes; what has one name stays in its order. */
const byName = <T>(pairs: readonly (readonly [string, T])[]): ReadonlyMap<string, readonly T[]> => {
  const groups = new Map<string, T[]>()
  for (const [name, value] of pairs) {
    const group = groups.get(name)
    if (group === undefined) groups.set(name, [value])
    else group.push(value)
  }
  const named = [...groups].map(([name, group]) => ({ name, group, bytes: Buffer.from(name) }))
  named.sort((a, b) => Buffer.compare(a.bytes, b.bytes))
  return new Map(named.map(({ name, group }) => [name, group]))
}

const pairsOf = <T>(groups: ReadonlyMap<string, readonly T[]>): [string, T][] =>
  [...groups].flatMap(([name, group]) => group.map((value): [string, T] => [name, value]))

/** Fields as schemas take them: a text, or a list of texts where a name came more than once. */
const asObject = (fields: ReadonlyMap<string, readonly string[]>): Record<string, Json> => {
  const object: Record<string, Json> = {}
  for (const [name, values] of fields) setOwn(object, name, values.length === 1 ? (values[0] as string) : values)
  return object
}

const limitOf = (name: string, value: number): number => {
  if (typeof value === 'number' && value >= 1) return value
  throw new KeepsakeError('invalid_option', `${name} has to be a number of at least 1.`)
}

const optionNames = ['action', 'csrf', 'maxBytes', 'maxFields', 'maxFileBytes', 'upload'] as const

/** What became of the body, where that is not a form with fields. */
const bodyProblem = (read: BodyRead) => {
  if (read === 'too_large') return refusal('too_large', 413)
  return read === 'wrong_content_type' || read === 'broken' ? refusal('wrong_content_type', 415) : undefined
}

/**
 * Reads the form of a request, urlencoded or multipart, and says whether the page that it was on is one of ours, got by
 * this very visitor. The token is the field that `csrfTag` makes, or the header `X-CSRF-Token`.
 *
 * The outcomes are `ok` and, in Dream's words, `expired`, `wrong_session`, `invalid_token`, `missing_token`,
 * `many_tokens`, `wrong_content_type` (also of a body that breaks off, or has a part without a name); and `invalid_fields` where the schema refuses
 * them, `too_large` where a limit does. The event of a token that was not taken is `form_rejected`. No body makes it throw. What
 * is left of the body, of at most 64 MiB, is read and thrown away.
 *
 * @throws KeepsakeError `invalid_option`, and as `session`; and whatever `upload` throws
 */
export function readForm(request: Request, schema?: undefined, options?: FormOptions): Promise<FormResult>
export function readForm<S extends StandardSchema>(
  request: Request,
  schema: S,
  options?: FormOptions,
): Promise<FormResult<OutputOf<S>>>
export async function readForm(
  request: Request,
  schema?: StandardSchema,
  options: FormOptions = {},
): Promise<FormResult<unknown>> {
  checkOptionNames(options, optionNames, 'readForm()')
  if (schema !== undefined && !isSchema(schema)) {
    throw new KeepsakeError(
      'invalid_option',
      'The schema of a form has to be a Standard Schema. Options are the third argument.',
    )
  }
  const { csrf = true, upload, action } = options
  const limits: BodyLimits = {
    maxBytes: limitOf('maxBytes', options.maxBytes ?? 2 ** 20),
    maxParts: limitOf('maxFields', options.maxFields ?? 1_000) + 1,
    maxFileBytes: limitOf('maxFileBytes', options.maxFileBytes ?? 10 * 2 ** 20),
  }
  const work = await workOf(request)
  const tokens: string[] = []
  const pairs: [string, string][] = []
  const files: [string, File][] = []
  const judge = (): TokenError | { readonly expiredAt: number } | undefined => {
    if (!csrf) return undefined
    if (tokens.length > 1) return 'many_tokens'
    const token = tokens[0] ?? request.headers.get(TOKEN_HEADER)
    if (token === null) return 'missing_token'
    const outcome = verifyToken(work, request, token, action === undefined ? {} : { action })
    if (outcome.ok) return undefined
    return outcome.error === 'expired' ? { expiredAt: outcome.expiredAt } : outcome.error
  }
  const field = (name: string, value: string): boolean => {
    if (name === TOKEN_FIELD) tokens.push(value)
    else pairs.push([name, value])
    return true
  }
  // Without this, a mebibyte of it would be read first.
  const announced = upload === undefined ? Number(request.headers.get('content-length')) : 0
  if (announced > limits.maxBytes) {
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
            /** An upload before its token is not read: nobody knows whose it is. */
            async upload(file) {
              if (judge() !== undefined) return false
              if (file.filename !== '') await upload(file)
              return true
            },
          }),
    })
  } finally {
    void discardRest(request)
  }
  const failed = bodyProblem(read)
  if (failed !== undefined) return failed
  const fields = byName(pairs)
  const came: Submitted = { fields: new URLSearchParams(pairsOf(fields)), files: pairsOf(byName(files)) }
  const trouble = judge()
  if (trouble !== undefined) {
    reportRejected(work, request, typeof trouble === 'string' ? trouble : 'expired')
    return typeof trouble === 'string'
      ? { ...refusal(trouble, 403), ...came }
      : { ...refusal('expired', 403), ...came, ...trouble }
  }
  if (schema === undefined) return { ok: true, ...came }
  const result = await checked(schema, asObject(fields))
  if (result.issues === undefined) return { ok: true, fields: result.value, files: came.files }
  return {
    ok: false,
    error: 'invalid_fields',
    status: 422,
    message: 'Please look at what you filled in.',
    issues: result.issues,
    ...came,
  }
}
