// Reads the fields and files of a request's body, urlencoded or multipart, and discards the rest of a refused body.

import type { FormRequest, RequestHeaders } from '../http/request-head.ts'
import { type BlocksRead, type BodySource, inBlocks } from './blocks.ts'
import { type BodyLimits, type BodyReader, readMultipart } from './multipart.ts'
import { readParsedBody } from './parsed-body.ts'
import { readUrlencoded } from './urlencoded.ts'

/** The result of reading. */
export type BodyRead = BlocksRead | 'wrong_content_type'

type BodyFormat = 'urlencoded' | 'multipart'

const formatOf = (headers: RequestHeaders): BodyFormat | undefined => {
  const type = headers.get('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type === 'application/x-www-form-urlencoded') return 'urlencoded'
  return type === 'multipart/form-data' ? 'multipart' : undefined
}

/**
 * Reads the parts of a body in their order. The visitor's mistakes are results and are not thrown. After a stop, the
 * rest is left in the body. If a body parser has read the body, its fields are used, and no files.
 *
 * @throws the errors of `reader.upload`
 */
export const readBody = async (request: FormRequest, limits: BodyLimits, reader: BodyReader): Promise<BodyRead> => {
  const format = formatOf(request.headers)
  if (format === undefined) return 'wrong_content_type'
  if (request.parsedBody !== undefined) return readParsedBody(request.parsedBody.value, limits, reader.field)
  if (request.body === null) return format === 'urlencoded' ? 'done' : 'broken'
  const source = request.body.getReader() as BodySource
  try {
    if (format === 'multipart') return await readMultipart(source, request.headers, limits, reader)
    const { maxBytes: bytes, maxPieces, maxParts } = limits
    return await readUrlencoded(source, { bytes, ...(maxPieces && { pieces: maxPieces }) }, maxParts, reader.field)
  } finally {
    source.releaseLock()
  }
}

/** The most bytes of a refused body that are read and discarded. */
const MAX_DISCARDED = 64 * 2 ** 20

/**
 * Reads and discards the rest of a body while the response is sent. Otherwise a browser that is still uploading shows
 * its own error page and not the response, and the connection takes no further request. Never rejects.
 */
export const discardRest = async (request: Pick<FormRequest, 'body' | 'parsedBody'>): Promise<void> => {
  if (request.parsedBody !== undefined) return
  const { body } = request
  if (body === null || body.locked) return
  const source = body.getReader() as BodySource
  await inBlocks(source, { bytes: MAX_DISCARDED }, () => true)
  await source.cancel().catch(() => {})
}

/**
 * The most pieces of a body that are searched. The other copy keeps each of them, at about 300 bytes more than its own.
 */
const MAX_PIECES = 2_000

/** The first field of this name within the body's first MiB and its first 2000 pieces. The body stays readable. */
export const findField = async (request: Request, fieldName: string): Promise<string | undefined> => {
  if (formatOf(request.headers) === undefined || request.bodyUsed || !request.body || request.body.locked)
    return undefined
  const copy = request.clone()
  let found: string | undefined
  const field = (name: string, value: string): boolean => {
    if (name !== fieldName) return true
    found = value
    return false
  }
  const limits = { maxBytes: 2 ** 20, maxParts: 1_000, maxFileBytes: 2 ** 20, maxPieces: MAX_PIECES }
  try {
    await readBody(copy, limits, { field })
    return found
  } finally {
    // Without this, the other copy would keep all its bytes for this one. The promise settles only after that one's
    // end.
    copy.body?.cancel().catch(() => {})
  }
}
