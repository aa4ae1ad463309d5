// The part of a request that keepsake reads: a Request has it, and an adapter makes it from a framework's request.

/** The header fields of a request. The names are in lower case. `get` joins the values of one name, and returns null if there is none. */
export type RequestHeaders = Pick<Headers, 'get' | 'has' | 'keys'>

/** The part of a request that is read here. A Request has it. Without a URL, a request counts as one over TLS. */
export type IncomingRequest = { readonly headers: RequestHeaders; readonly url?: string | undefined }

export type RequestHead = IncomingRequest & { readonly method?: string | undefined }

/** A request whose form can be read: from the stream, or from the fields that a body parser of the framework read before. */
export type FormRequest = RequestHead & {
  /** Null if there is no body. */
  readonly body: ReadableStream<Uint8Array> | null
  /** The result of the body parser, if one has read the stream. */
  readonly parsedBody?: { readonly value: unknown } | undefined
}
