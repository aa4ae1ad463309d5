import { defineMiddleware } from 'astro:middleware'

// The server of the cases makes the adapter for each case.
export const onRequest = defineMiddleware((context, next) => globalThis.application.middleware(context, next))
