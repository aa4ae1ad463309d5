// The fields and files of a request's body, urlencoded or multipart, read within limits and as they come.

import type { BusboyHeaders } from '@fastify/busboy'
import { type FilePart, filePart } from './form-file.ts'
import type { Awaitable } from './outcome.ts'

/** A file on its way. */
export type Upload = {
  /** The name of the form's field. */
  readonly field: string
  /** As the visitor's machine calls it, without folders. Never use it as a path. */
  readonly filename: string
  /** The media type that the visitor's machine claims. */
  readonly type: string
  /** The bytes. What is not read is discarded; a file that breaks off or is too large ends it with an error. */
  readonly stream: ReadableStream<Uint8Array>
}

export type BodyLimits = {
  /** Bytes of a body whose files are kept in memory; and of all fields together where they are not. */
  readonly maxBytes: number
  /** Fields and files together. */
  readonly maxParts: number
  /** Bytes of one file that is not kept in memory. */
  readonly maxFileBytes: number
}

/** What takes the parts as they come. To give false is to stop. */
export type BodyReader = {
  readonly field: (name: string, value: string) => boolean
  /** Absent: files are discarded. */
  readonly file?: (file: Upload) => Awaitable<boolean>
  /** Whether files stay in memory, and count to the body's bytes. */
  readonly buffers: boolean
}

/** How reading went. `broken`: the body is no such form, or it broke off. */
export type BodyRead = 'done' | 'stopped' | 'broken' | 'too_large' | 'wrong_content_type'

type Kind = 'urlencoded' | 'multipart'

const kindOf = (headers: Headers): Kind | undefined => {
  const type = headers.get('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type === 'application/x-www-form-urlencoded') return 'urlencoded'
  return type === 'multipart/form-data' ? 'multipart' : undefined
}

/** Bytes of a part's name and of its headers, far over what browsers send. */
const LONGEST_NAME = 1_000
const LONGEST_HEADERS = 16_384
/** Files that are not kept in memory, in one body: what bounds the whole. */
const MOST_FILES = 100

/** The chunks of a body until they are too many, or one of them cannot be had. */
const chunksOf = async (
  reader: ReadableStreamDefaultReader<Uint8Array>,
  most: number,
  take: (chunk: Uint8Array) => Awaitable<boolean>,
): Promise<BodyRead> => {
  let bytes = 0
  for (;;) {
    let next: ReadableStreamReadResult<Uint8Array>
    try {
      next = await reader.read()
    } catch {
      return 'broken'
    }
    if (next.done) return 'done'
    bytes += next.value.byteLength
    if (bytes > most) return 'too_large'
    if (!(await take(next.value))) return 'stopped'
  }
}

type Source = ReadableStreamDefaultReader<Uint8Array>

const readUrlencoded = async (source: Source, limits: BodyLimits, reader: BodyReader): Promise<BodyRead> => {
  const chunks: Uint8Array[] = []
  const read = await chunksOf(source, limits.maxBytes, (chunk) => chunks.push(chunk) > 0)
  if (read !== 'done') return read
  let parts = 0
  for (const [name, value] of new URLSearchParams(Buffer.concat(chunks).toString())) {
    if (++parts > limits.maxParts) return 'too_large'
    if (!reader.field(name, value)) return 'stopped'
  }
  return 'done'
}

const readMultipart = async (
  source: Source,
  headers: Headers,
  limits: BodyLimits,
  reader: BodyReader,
): Promise<BodyRead> => {
  const { Busboy } = await import('@fastify/busboy')
  const { maxBytes, maxParts, maxFileBytes } = limits
  const fileSize = reader.buffers ? maxBytes : maxFileBytes
  let parser: InstanceType<typeof Busboy>
  try {
    parser = new Busboy({
      headers: { 'content-type': headers.get('content-type') } as BusboyHeaders,
      limits: {
        fieldNameSize: LONGEST_NAME,
        fieldSize: maxBytes + 1,
        fields: maxParts,
        files: reader.buffers ? maxParts : MOST_FILES,
        parts: maxParts + 1,
        fileSize,
        headerSize: LONGEST_HEADERS,
      },
    })
  } catch {
    // A boundary is missing.
    return 'broken'
  }
  let fieldBytes = 0
  let outcome: BodyRead | undefined
  let failure: { readonly error: unknown } | undefined
  const { promise: ended, resolve: end } = Promise.withResolvers<void>()
  const stop = (why: BodyRead): void => {
    outcome ??= why
    end()
  }

  const taken = async (part: FilePart, file: Omit<Upload, 'stream'>): Promise<void> => {
    try {
      const more = outcome === undefined && ((await reader.file?.({ ...file, stream: part.stream })) ?? true)
      if (!more) stop('stopped')
    } catch (error) {
      // A reader of what broke off fails too; what it says then is no news.
      if (part.fault() === undefined) {
        failure ??= { error }
        stop('stopped')
      }
    }
    part.discard()
    const fault = part.fault()
    if (fault !== undefined) stop(fault)
  }
  const parts: FilePart[] = []
  /** One file after the other, also where several came in one chunk. */
  let queue = Promise.resolve()
  parser.on('field', (name, value, nameCut, valueCut) => {
    if (outcome !== undefined) return
    fieldBytes += Buffer.byteLength(name) + Buffer.byteLength(value)
    if (nameCut || valueCut || fieldBytes > maxBytes) return stop('too_large')
    if (!reader.field(name, value)) stop('stopped')
  })
  parser.on('file', (field, stream, filename, _encoding, type) => {
    const part = filePart(stream)
    parts.push(part)
    queue = queue.then(() => taken(part, { field: field ?? '', filename: filename ?? '', type }))
  })
  for (const limit of ['partsLimit', 'filesLimit', 'fieldsLimit'] as const) parser.on(limit, () => stop('too_large'))
  parser.on('error', () => stop('broken'))
  parser.on('finish', () => {
    queue = queue.then(() => stop('done'))
  })

  const most = reader.buffers ? maxBytes : maxBytes + MOST_FILES * maxFileBytes
  const drained = () => Promise.race([ended, new Promise<void>((resolve) => parser.once('drain', () => resolve()))])
  const read = await chunksOf(source, most, async (chunk) => {
    if (outcome === undefined && !parser.write(chunk)) await drained()
    return outcome === undefined
  })
  if (read === 'done') {
    parser.end()
    await ended
  } else {
    stop(read)
    parser.destroy()
    for (const part of parts) part.breakOff()
  }
  await queue
  if (failure !== undefined) throw failure.error
  return outcome ?? 'broken'
}

/**
 * Reads a body, part by part, in the order in which they come.
 *
 * What a visitor can do wrong is told, not thrown; what a reader of files throws is thrown on. After a stop the rest is
 * left in the body.
 */
export const readBody = async (request: Request, limits: BodyLimits, reader: BodyReader): Promise<BodyRead> => {
  const kind = kindOf(request.headers)
  if (kind === undefined) return 'wrong_content_type'
  if (request.body === null) return kind === 'urlencoded' ? 'done' : 'broken'
  const source = request.body.getReader() as Source
  try {
    return kind === 'urlencoded'
      ? await readUrlencoded(source, limits, reader)
      : await readMultipart(source, request.headers, limits, reader)
  } finally {
    source.releaseLock()
  }
}

/** Bytes of a refused body that are still taken from its sender. */
const LINGER = 64 * 2 ** 20

/**
 * Reads on, while the answer is under way, and throws away: a browser whose upload is broken off shows no answer but an
 * error of its own.
 */
export const discardRest = async ({ body }: Request): Promise<void> => {
  if (body === null || body.locked) return
  const source = body.getReader()
  await chunksOf(source as Source, LINGER, () => true)
  await source.cancel().catch(() => {})
}

/** The first field of this name in a body that stays readable: within its first MiB. */
export const fieldIn = async (request: Request, wanted: string): Promise<string | undefined> => {
  if (kindOf(request.headers) === undefined || request.bodyUsed || request.body === null) return undefined
  const copy = request.clone()
  let found: string | undefined
  const field = (name: string, value: string): boolean => {
    if (name !== wanted) return true
    found = value
    return false
  }
  await readBody(copy, { maxBytes: 2 ** 20, maxParts: 1_000, maxFileBytes: 2 ** 20 }, { field, buffers: true })
  // Without an end, all that the other copy reads would be kept for this one. It is over when that one is too.
  copy.body?.cancel().catch(() => {})
  return found
}
