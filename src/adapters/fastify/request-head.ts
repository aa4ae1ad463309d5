// The part of a Fastify request that keepsake reads, and the header fields that the reply had before.

import type { FastifyReply, FastifyRequest } from 'fastify'
import { NodeRequestHead } from '../../http/node-request.ts'
import type { HeaderValues } from '../node/response-headers.ts'
import { attachedFields } from './attached-fields.ts'
import { headersOf } from './reply-headers.ts'

export class FastifyRequestHead extends NodeRequestHead {
  /** The header fields that other plugins had set when the request arrived: they belong to every response. */
  readonly arrival: HeaderValues

  constructor(request: FastifyRequest, reply: FastifyReply) {
    super(request.raw, attachedFields(request))
    this.arrival = headersOf(reply)
  }
}
