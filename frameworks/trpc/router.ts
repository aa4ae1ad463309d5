// The procedures: a cart for several tabs, a login, and a logout.

import { initTRPC, TRPCError } from '@trpc/server'
import { session } from 'keepsake'

type Fields = { cart: string[] }
type Context = { req: object }

const t = initTRPC.context<Context>().create()

const visitor = t.procedure.use(async ({ ctx, next }) => {
  try {
    return await next({ ctx: { session: await session<Fields>(ctx.req) } })
  } catch (cause) {
    // The text of the error of a store is not for visitors.
    throw new TRPCError({ code: 'SERVICE_UNAVAILABLE', message: 'Please try again.', cause })
  }
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
  addSlowly: visitor.input(text).mutation(async ({ ctx, input }) => {
    await slow.work()
    ctx.session.update('cart', (cart = []) => [...cart, input])
  }),
  login: visitor.input(text).mutation(({ ctx, input }) => ctx.session.login(input)),
  account: loggedIn.query(({ ctx }) => ctx.session.owner),
  logout: visitor.mutation(({ ctx }) => ctx.session.invalidate()),
})

export type Router = typeof router
