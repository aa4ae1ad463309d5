import { defineMiddleware, sequence } from 'astro:middleware'
import { forAstro } from 'keepsake/astro'
import { manager } from './sessions.ts'

/** A middleware after the sessions that rewrites. */
const rewriter = defineMiddleware(({ url }, next) => (url.pathname === '/rewritten' ? next('/second') : next()))

export const onRequest = sequence(forAstro(manager, { load: true }), rewriter)
