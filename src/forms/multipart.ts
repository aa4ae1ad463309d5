// Reads the fields and files of a multipart body as they arrive, one after another and within limits.

import type { BusboyFileStream, BusboyHeaders } from '@fastify/busboy'
import type { Awaitable } from '../error.ts'
import type { RequestHeaders } from '../http/request-head.ts'
import { type BlocksRead, type BodySource, inBlocks } from './blocks.ts'
import { multipartParser } from './multipart-parser.ts'
import { type Part, partOf } from './part.ts'

type FileInfo = {
  /** The name of the form's field. */
  readonly field: string
  /** The name on the visitor's machine, without folders. Never use it as a path. */
  readonly filename: string
  /** The media type, as the browser sent it. It is not checked. */
  readonly type: string
}

/** A file that is still arriving. */
export type UploadedFile = FileInfo & {
  /**
   * The bytes. Bytes that are not read are discarded. If the file breaks off or is too large, the stream ends with an
   * error.
   */
  readonly stream: ReadableStream<Uint8Array>
}

export type BodyLimits = {
  /** The most bytes of the whole body. If there is `upload`: the most bytes of all fields together. */
  readonly maxBytes: number
  /** The most fields and files together. */
  readonly maxParts: number
  /** The most bytes of one upload. */
  readonly maxFileBytes: number
  /** The most pieces of the body's stream. Default: no limit. */
  readonly maxPieces?: number
}

/** Receives the parts as they arrive. Return false to stop. */
export type BodyReader = {
  readonly field: (name: string, value: string) => boolean
  /** Receives each file as a stream, so that none is kept in memory. */
  readonly upload?: (file: UploadedFile) => Awaitable<boolean>
  /** Receives each file whole, if there is no `upload`. Without either, files are discarded. */
  readonly file?: (file: FileInfo & { readonly bytes: Uint8Array<ArrayBuffer> }) => boolean
}

/** The most bytes of a part's headers, far more than browsers send, and of the text between two parts. */
const MAX_HEADER_BYTES = 16_384
/** The most uploads in one body. With `maxFileBytes` it limits the size of the whole body. */
const MAX_UPLOADS = 100

const text = (bytes: Uint8Array<ArrayBuffer>) => Buffer.from(bytes.buffer, 0, bytes.length).toString()

/** A parser. Undefined if the Content-Type has no boundary. */
const createParser = async (headers: RequestHeaders, maxParts: number) => {
  const Busboy = await multipartParser()
  try {
    return new Busboy({
      headers: { 'content-type': headers.get('content-type') } as BusboyHeaders,
      // One block at a time. A block that waits in a buffer is parsed later, and nothing could catch an error of that.
      highWaterMark: 1,
      // Fields are streams too, so that an endless field can be stopped.
      isPartAFile: () => true,
      limits: { parts: maxParts, headerSize: MAX_HEADER_BYTES },
    })
  } catch {
    return undefined
  }
}

/** How the parts of a body reach its reader: each kind of part in its own way. */
const createTakers = (
  reader: BodyReader,
  isReading: () => boolean,
  stop: (result: BlocksRead) => void,
  fail: (error: unknown) => void,
) => ({
  async takeField(part: Part, name: string): Promise<void> {
    const bytes = await part.whole()
    if (isReading() && bytes !== undefined && !reader.field(name, text(bytes))) stop('stopped')
  },
  async takeFile(part: Part, info: FileInfo): Promise<void> {
    const bytes = await part.whole()
    if (isReading() && bytes !== undefined && reader.file?.({ ...info, bytes }) === false) stop('stopped')
  },
  async takeUpload(part: Part, info: FileInfo): Promise<void> {
    try {
      if (!(await reader.upload?.({ ...info, stream: part.stream() }))) stop('stopped')
    } catch (error) {
      // If the body broke off, its reader fails too. That error adds nothing.
      if (isReading()) fail(error)
      stop('stopped')
    }
    part.discard()
  },
})

/** Wraps listeners of the parser, because an error that one throws would end the process. */
const createGuard =
  (failed: () => void) =>
  <A extends unknown[]>(listener: (...args: A) => void) =>
  (...args: A): void => {
    try {
      listener(...args)
    } catch {
      failed()
    }
  }

/** Reads the parts of a body. @throws the errors of `reader.upload` */
export const readMultipart = async (
  source: BodySource,
  headers: RequestHeaders,
  limits: BodyLimits,
  reader: BodyReader,
): Promise<BlocksRead> => {
  const { maxBytes, maxParts, maxFileBytes, maxPieces } = limits
  const parser = await createParser(headers, maxParts)
  if (parser === undefined) return 'broken'
  let outcome: BlocksRead | undefined
  let failure: { readonly error: unknown } | undefined
  let wake = () => {}
  const { promise: ended, resolve: end } = Promise.withResolvers<void>()
  const stop = (result: BlocksRead): void => {
    if (outcome !== undefined) return
    outcome = result
    const message = result === 'too_large' ? 'The upload is too large.' : 'The upload broke off.'
    if (result !== 'done') for (const part of unfinished.values()) part.breakOff(message)
    // A pending read fails now, so nothing waits for the rest of a body that is read no further.
    source.releaseLock()
    wake()
    end()
  }
  /** A counter with a limit. It returns whether `more` is within the limit, and stops reading if not. */
  const counter = (limit: number) => {
    let count = 0
    return (more: number): boolean => {
      count += more
      if (count > limit) stop('too_large')
      return count <= limit
    }
  }

  /** The parts that have not ended. */
  const unfinished = new Map<BusboyFileStream, Part>()
  let count = 0
  /** Bytes of the parts that have ended. */
  let endedBytes = 0
  const countFieldBytes = counter(maxBytes)
  const countUpload = counter(MAX_UPLOADS)

  const { takeField, takeFile, takeUpload } = createTakers(
    reader,
    () => outcome === undefined,
    stop,
    (error) => {
      failure = { error }
    },
  )
  /** Handles one part after another, also if several arrived in one block. It never rejects. */
  let queue = Promise.resolve()
  const enqueue = (take: () => Promise<void>): void => {
    queue = queue.then(() => (outcome === undefined ? take() : undefined)).catch(() => stop('broken'))
  }
  const partArrived = (field: unknown, stream: BusboyFileStream, name: unknown, contentType: unknown): void => {
    const type = typeof contentType === 'string' ? contentType : ''
    const filename = typeof name === 'string' ? name : ''
    const isFile = typeof name === 'string' || type === 'application/octet-stream'
    const isUpload = isFile && reader.upload !== undefined
    const part = partOf(stream, isUpload ? counter(maxFileBytes) : isFile ? () => true : countFieldBytes)
    count++
    unfinished.set(stream, part)
    stream.once('end', () => {
      unfinished.delete(stream)
      endedBytes += stream.bytesRead
    })
    // RFC 7578 §4.2: each part has a name.
    if (typeof field !== 'string') stop('broken')
    else if (isUpload && countUpload(1)) enqueue(() => takeUpload(part, { field, filename, type }))
    else if (!isFile && countFieldBytes(Buffer.byteLength(field))) enqueue(() => takeField(part, field))
    else if (isFile && reader.file !== undefined) enqueue(() => takeFile(part, { field, filename, type }))
    else part.discard()
  }

  const guard = createGuard(() => stop('broken'))
  const tooMany = guard(() => stop('too_large'))
  const failed = guard(() => stop('broken'))
  const complete = guard(() => {
    queue = queue.then(() => stop('done'))
  })
  parser
    .on('file', (field, stream, filename, _encoding, type) => guard(partArrived)(field, stream, filename, type))
    .on('partsLimit', tooMany)
    .on('error', failed)
    .on('finish', complete)

  let bytes = 0
  /** Whether the bytes outside parts are few enough for the headers of so many parts, because they might never end. */
  const isPlausible = (): boolean => {
    let inParts = endedBytes
    for (const stream of unfinished.keys()) inParts += stream.bytesRead
    return bytes - inParts <= (count + 1) * MAX_HEADER_BYTES
  }
  const feed = async (block: Buffer): Promise<boolean> => {
    if (outcome === undefined && !isPlausible()) stop('too_large')
    if (outcome !== undefined) return false
    bytes += block.length
    await new Promise<void>((resolve) => {
      wake = resolve
      parser.write(block, () => resolve())
    })
    return outcome === undefined
  }
  const maxBodyBytes = reader.upload === undefined ? maxBytes : maxBytes + MAX_UPLOADS * maxFileBytes
  const read = await inBlocks(
    source,
    { bytes: maxBodyBytes, ...(maxPieces !== undefined && { pieces: maxPieces }) },
    feed,
  )
  if (read === 'done') {
    parser.end()
    await ended
  } else stop(read)
  parser.destroy()
  await queue
  if (failure !== undefined) throw failure.error
  return outcome ?? 'broken'
}
