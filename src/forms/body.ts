// The fields and files of a request's body, urlencoded or multipart, and what becomes of a body that is read no further.

import { type BlocksRead, inBlocks, type Source } from './blocks.ts'
import { type BodyLimits, type BodyReader, readMultipart } from './multipart.ts'
import { readUrlencoded } from './urlencoded.ts'

/** How reading went. `broken`: the body is no such form, or it broke off. */
export type BodyRead = BlocksRead | 'wrong_content_type'

type Kind = 'urlencoded' | 'multipart'

const kindOf = (headers: Headers): Kind | undefined => {
  const type = headers.get('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type === 'application/x-www-form-urlencoded') return 'urlencoded'
  return type === 'multipart/form-data' ? 'multipart' : undefined
}

/**
 * Reads a body, part by part, in the order in which they come.
 *
 * What a visitor can do wrong is told, not thrown; what a reader of uploads throws is thrown on. After a stop the rest is
 * left in the body.
 */
export const readBody = async (request: Request, limits: BodyLimits, reader: BodyReader): Promise<BodyRead> => {
  const kind = kindOf(request.headers)
  if (kind === undefined) return 'wrong_content_type'
  if (request.body === null) return kind === 'urlencoded' ? 'done' : 'broken'
  const source = request.body.getReader() as Source
  try {
    if (kind === 'multipart') return await readMultipart(source, request.headers, limits, reader)
    const { maxBytes: bytes, maxPieces, maxParts } = limits
    return await readUrlencoded(source, { bytes, ...(maxPieces && { pieces: maxPieces }) }, maxParts, reader.field)
  } finally {
    source.releaseLock()
  }
}

/** Bytes of a refused body that are still taken from its sender. */
const LINGER = 64 * 2 ** 20

/**
 * Reads on, while the answer is under way, and throws away: a browser whose upload is broken off shows no answer but an
 * error of its own, and a connection whose body waits for a reader takes no other request. Never rejects.
 */
export const discardRest = async ({ body }: Request): Promise<void> => {
  if (body === null || body.locked) return
  const source = body.getReader() as Source
  await inBlocks(source, { bytes: LINGER }, () => true)
  await source.cancel().catch(() => {})
}

/** Pieces of a body that are looked into: the other copy keeps each, and each takes some 300 bytes more than it has. */
const MOST_PIECES = 2_000

/** The first field of this name in a body that stays readable: within its first MiB, and its first 2000 pieces. */
export const fieldIn = async (request: Request, wanted: string): Promise<string | undefined> => {
  if (kindOf(request.headers) === undefined || request.bodyUsed || !request.body || request.body.locked)
    return undefined
  const copy = request.clone()
  let found: string | undefined
  const field = (name: string, value: string): boolean => {
    if (name !== wanted) return true
    found = value
    return false
  }
  const limits = { maxBytes: 2 ** 20, maxParts: 1_000, maxFileBytes: 2 ** 20, maxPieces: MOST_PIECES }
  try {
    await readBody(copy, limits, { field })
    return found
  } finally {
    // Without an end, all that the other copy reads would be kept for this one. It is over when that one is too.
    copy.body?.cancel().catch(() => {})
  }
}
