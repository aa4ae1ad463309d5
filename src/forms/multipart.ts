// The fields and files of a multipart body, one after the other, read within limits and as they come.

import type { BusboyFileStream, BusboyHeaders } from '@fastify/busboy'
import type { Awaitable } from '../error.ts'
import { type BlocksRead, inBlocks, type Source } from './blocks.ts'
import { multipartParser } from './multipart-parser.ts'
import { type Part, partOf } from './part.ts'

type Named = {
  /** The name of the form's field. */
  readonly field: string
  /** As the visitor's machine calls it, without folders. Never use it as a path. */
  readonly filename: string
  /** The media type that the visitor's machine claims. */
  readonly type: string
}

/** A file on its way. */
export type UploadedFile = Named & {
  /** The bytes. What is not read is discarded; a file that breaks off or is too large ends it with an error. */
  readonly stream: ReadableStream<Uint8Array>
}

export type BodyLimits = {
  /** Bytes of the whole body; and of all fields together where files are uploads. */
  readonly maxBytes: number
  /** Fields and files together. */
  readonly maxParts: number
  /** Bytes of one upload. */
  readonly maxFileBytes: number
  /** Pieces in which the body may come. Default any number. */
  readonly maxPieces?: number
}

/** What takes the parts as they come. To give false is to stop. */
export type BodyReader = {
  readonly field: (name: string, value: string) => boolean
  /** Takes each file as it comes: none is kept in memory. */
  readonly upload?: (file: UploadedFile) => Awaitable<boolean>
  /** Takes each file whole, where there is no `upload`. Without either, files are discarded. */
  readonly file?: (file: Named & { readonly bytes: Uint8Array<ArrayBuffer> }) => boolean
}

/** Bytes of a part's headers, far over what browsers send; and of what is between two parts. */
const LONGEST_HEADERS = 16_384
/** Uploads in one body: what bounds the whole. */
const MOST_UPLOADS = 100

const text = (bytes: Uint8Array<ArrayBuffer>) => Buffer.from(bytes.buffer, 0, bytes.length).toString()

/** The parser, or undefined where the Content-Type has no boundary that it can look for. */
const parserOf = async (headers: Headers, maxParts: number) => {
  const Busboy = await multipartParser()
  try {
    return new Busboy({
      headers: { 'content-type': headers.get('content-type') } as BusboyHeaders,
      // One block at a time: none waits in a buffer, to be parsed later, where nobody could catch what that throws.
      highWaterMark: 1,
      // Fields come as streams too, so that one that never ends can be stopped.
      isPartAFile: () => true,
      limits: { parts: maxParts, headerSize: LONGEST_HEADERS },
    })
  } catch {
    return undefined
  }
}

/** Reads the parts of a body. What `upload` throws is thrown on. */
export const readMultipart = async (
  source: Source,
  headers: Headers,
  limits: BodyLimits,
  reader: BodyReader,
): Promise<BlocksRead> => {
  const { maxBytes, maxParts, maxFileBytes, maxPieces } = limits
  const parser = await parserOf(headers, maxParts)
  if (parser === undefined) return 'broken'
  let outcome: BlocksRead | undefined
  let failure: { readonly error: unknown } | undefined
  let wake = () => {}
  const { promise: over, resolve: end } = Promise.withResolvers<void>()
  const stop = (why: BlocksRead): void => {
    if (outcome !== undefined) return
    outcome = why
    const message = why === 'too_large' ? 'The upload is too large.' : 'The upload broke off.'
    if (why !== 'done') for (const part of coming.values()) part.breakOff(message)
    // Nobody waits for the next piece of a body that is read no further.
    source.releaseLock()
    wake()
    end()
  }
  /** Whether `more` of what is counted still fits. It stops once something does not. */
  const bounded = (most: number) => {
    let count = 0
    return (more: number): boolean => {
      count += more
      if (count > most) stop('too_large')
      return count <= most
    }
  }

  /** The parts that have not ended. */
  const coming = new Map<BusboyFileStream, Part>()
  let count = 0
  /** Bytes of the parts that have ended. */
  let ended = 0
  const fieldBytes = bounded(maxBytes)
  const uploads = bounded(MOST_UPLOADS)

  const takeField = async (part: Part, name: string): Promise<void> => {
    const bytes = await part.whole()
    if (outcome === undefined && bytes !== undefined && !reader.field(name, text(bytes))) stop('stopped')
  }
  const takeFile = async (part: Part, named: Named): Promise<void> => {
    const bytes = await part.whole()
    if (outcome === undefined && bytes !== undefined && reader.file?.({ ...named, bytes }) === false) stop('stopped')
  }
  const takeUpload = async (part: Part, named: Named): Promise<void> => {
    try {
      if (!(await reader.upload?.({ ...named, stream: part.stream() }))) stop('stopped')
    } catch (error) {
      // Whoever reads what broke off fails too; what he says then is no news.
      if (outcome === undefined) failure = { error }
      stop('stopped')
    }
    part.discard()
  }
  /** One part after the other, also where several came in one block. Nothing rejects it. */
  let queue = Promise.resolve()
  const enqueue = (take: () => Promise<void>): void => {
    queue = queue.then(() => (outcome === undefined ? take() : undefined)).catch(() => stop('broken'))
  }
  const came = (field: unknown, stream: BusboyFileStream, name: unknown, contentType: unknown): void => {
    const type = typeof contentType === 'string' ? contentType : ''
    const filename = typeof name === 'string' ? name : ''
    const isFile = typeof name === 'string' || type === 'application/octet-stream'
    const isUpload = isFile && reader.upload !== undefined
    const part = partOf(stream, isUpload ? bounded(maxFileBytes) : isFile ? () => true : fieldBytes)
    count++
    coming.set(stream, part)
    stream.once('end', () => {
      coming.delete(stream)
      ended += stream.bytesRead
    })
    // RFC 7578 §4.2: each part has a name.
    if (typeof field !== 'string') stop('broken')
    else if (isUpload && uploads(1)) enqueue(() => takeUpload(part, { field, filename, type }))
    else if (!isFile && fieldBytes(Buffer.byteLength(field))) enqueue(() => takeField(part, field))
    else if (isFile && reader.file !== undefined) enqueue(() => takeFile(part, { field, filename, type }))
    else part.discard()
  }

  /* What a listener throws would end the process. */
  const heard =
    <A extends unknown[]>(listener: (...args: A) => void) =>
    (...args: A): void => {
      try {
        listener(...args)
      } catch {
        stop('broken')
      }
    }
  const tooMany = heard(() => stop('too_large'))
  const failed = heard(() => stop('broken'))
  const complete = heard(() => {
    queue = queue.then(() => stop('done'))
  })
  parser
    .on('file', (field, stream, filename, _encoding, type) => heard(came)(field, stream, filename, type))
    .on('partsLimit', tooMany)
    .on('error', failed)
    .on('finish', complete)

  let bytes = 0
  /** Whether what is in no part stays within what the headers of so many parts may have: it may not go on for ever. */
  const plausible = (): boolean => {
    let inParts = ended
    for (const stream of coming.keys()) inParts += stream.bytesRead
    return bytes - inParts <= (count + 1) * LONGEST_HEADERS
  }
  const feed = async (block: Buffer): Promise<boolean> => {
    if (outcome === undefined && !plausible()) stop('too_large')
    if (outcome !== undefined) return false
    bytes += block.length
    await new Promise<void>((resolve) => {
      wake = resolve
      parser.write(block, () => resolve())
    })
    return outcome === undefined
  }
  const most = reader.upload === undefined ? maxBytes : maxBytes + MOST_UPLOADS * maxFileBytes
  const read = await inBlocks(source, { bytes: most, ...(maxPieces !== undefined && { pieces: maxPieces }) }, feed)
  if (read === 'done') {
    parser.end()
    await over
  } else stop(read)
  parser.destroy()
  await queue
  if (failure !== undefined) throw failure.error
  return outcome ?? 'broken'
}
