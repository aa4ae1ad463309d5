// The procedures: a cart for several tabs, a login, and a logout.

import { initTRPC, TRPCError } from '@trpc/server'
import { KeepsakeError, session } from 'keepsake'

type Fields = { cart: string[] }
/** The text of the error of a store is not for visitors. */
const publicError = (error: unknown): unknown => {
  const cause = error instanceof TRPCError ? error.cause : error
  if (!(cause instanceof KeepsakeError) || cause.status !== 503) return error
  return new TRPCError({ code: 'SERVICE_UNAVAILABLE', message: 'Please try again.', cause })
}

/** The context of all procedures. The session is open before the first byte of any response. */
export const createContext = async ({ req }: { req: object }) => {
  try {
    return { session: await session<Fields>(req) }
  } catch (error) {
    throw publicError(error)
  }
}

const t = initTRPC.context<typeof createContext>().create()

const visitor = t.procedure.use(async ({ next }) => {
  const result = await next()
  if (!result.ok) throw publicError(result.error)
  return result
})

const loggedIn = visitor.use(({ ctx, next }) => {
  if (ctx.session.owner === undefined) throw new TRPCError({ code: 'UNAUTHORIZED' })
  return next()
})

/** The work of the slow procedure. */
export const slow = { work: (): Promise<unknown> => new Promise((resolve) => setTimeout(resolve, 20)) }

const text = (value: unknown): string => {
  if (typeof value === 'string') return value
  throw new TRPCError({ code: 'BAD_REQUEST' })
}

export const router = t.router({
  cart: visitor.query(({ ctx }) => ctx.session.get('cart') ?? []),
  add: visitor.input(text).mutation(({ ctx, input }) => {
    ctx.session.update('cart', (cart = []) => [...cart, input])
  }),
  cartSlowly: visitor.query(async ({ ctx }) => {
    await slow.work()
    return ctx.session.get('cart') ?? []
  }),
  addSlowly: visitor.input(text).mutation(async ({ ctx, input }) => {
    await slow.work()
    ctx.session.update('cart', (cart = []) => [...cart, input])
  }),
  login: visitor.input(text).mutation(({ ctx, input }) => ctx.session.login(input)),
  account: loggedIn.query(({ ctx }) => ctx.session.owner),
  logout: visitor.mutation(({ ctx }) => ctx.session.invalidate()),
})

export type Router = typeof router
