import type { Handle } from '@sveltejs/kit/hooks'

// The server of the cases makes the adapter for each case.
export const handle: Handle = (input) => globalThis.application.handle(input)
export const handleError = (input: { event: never; error: unknown }) =>
  globalThis.application.handle.abandon(input.event, input.error)
