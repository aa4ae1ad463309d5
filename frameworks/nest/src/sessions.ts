// The session manager of the application.

import { createParamDecorator, type ExecutionContext } from '@nestjs/common'
import { session, sessionManager } from 'keepsake'

export const manager = sessionManager({ backend: process.env.SESSIONS ?? 'memory:' })

export type Fields = { cart: string[] }

/** `@Visitor() s: Session<Fields>` in a controller: the session of the request. It is opened for the methods that have it. */
export const Visitor = createParamDecorator((_: unknown, context: ExecutionContext) =>
  session<Fields>(context.switchToHttp().getRequest()),
)
